"""What a notebook reads of a search is what the search measured."""

from pathlib import Path

import pytest

from dart.analysis.search import prune_history, search_history
from dart.errors import UserError
from dart.studies.hypervolume import hypervolume
from tests.helpers.study_engine import run_toy, write_study

SEARCH = """\
variants: {tuned: {rank: {low: 2, high: 90}, gate: {low: 0.0, high: 1.0}}}
training: {steps: 5}
sampler: random
pruning: {rungs: [3], eta: 2}
reference: {target: 1.0, forgetting: 1.0}
budget: {trials: 8}
"""


def test_the_history_of_a_search_and_of_its_rungs(tmp_path: Path) -> None:
    run_toy(write_study(tmp_path, SEARCH), tmp_path)
    frame = search_history("toy", results=tmp_path)
    assert list(frame["trial"]) == list(range(8))
    whole = frame[frame["state"] == "complete"]
    points = list(zip(whole["target"], whole["forgetting"], strict=True))
    assert frame["hypervolume"].iloc[-1] == pytest.approx(hypervolume(points, (1.0, 1.0)))
    rungs = prune_history("toy", results=tmp_path)
    stopped = set(rungs.loc[rungs["decision"] == "stop", "trial"])
    assert stopped == set(frame.loc[frame["state"] == "pruned", "trial"])
    assert stopped
    assert frame.loc[frame["state"] == "pruned", "target"].isna().all()


def test_a_study_that_is_no_search_is_refused(tmp_path: Path) -> None:
    run_toy(write_study(tmp_path, "variants: {plain: {}}"), tmp_path)
    with pytest.raises(UserError, match="no finished trial of a search"):
        search_history("toy", results=tmp_path)
    with pytest.raises(UserError, match="no run came to a rung"):
        prune_history("toy", results=tmp_path)
