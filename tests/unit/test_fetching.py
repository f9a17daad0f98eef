"""A study read back from MLflow is the study that was logged."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dart.analysis import load_runs, load_study
from dart.analysis.verdict_tables import to_dict
from dart.analysis.verdicts import compare_study
from dart.errors import UserError
from dart.tracking import StudyTracker, database_uri
from tests.helpers.study_chance import Plan, write_plan

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("logged")
    effects = {"base": (0.0, 0.0), "gains": (0.05, 0.0)}
    folder = write_plan(results, Plan(effects, seeds=2, status={("gains", 1): "failed"}))
    tracker = StudyTracker(results, "toy", about={})
    for cell in json.loads((folder / "cells.json").read_text())["cells"]:
        run = results / "runs" / cell["key"][:16]
        record = json.loads((run / "result.json").read_text())
        recipe = {**cell, "hyperparameters": {}, "training": {}, "protocol": {}}
        tracker.sync(cell, recipe, result=record, folder=run)
    tracker.close("FINISHED", summary={}, artifacts=[folder / "cells.json"])
    return results


def test_frames_and_verdicts_are_those_of_the_folder(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path))
    uri = database_uri(logged)
    for load in (load_runs, load_study):
        pd.testing.assert_frame_equal(load("toy", tracking_uri=uri), load("toy", results=logged))
    fetched = compare_study("toy", tracking_uri=uri)
    assert to_dict(fetched) == to_dict(compare_study("toy", results=logged))
    with pytest.raises(UserError, match=r"no study 'toi'; it has: toy; did you mean 'toy'"):
        load_study("toi", tracking_uri=uri)
