from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from dart.analysis import load_runs
from dart.analysis.figures import colour_variants, trade_off
from dart.analysis.figures.scatter import QUADRANTS
from tests.helpers.study_results import FakeRun, adapted, untouched, write_study


def _draw(results: Path, runs: list[FakeRun], metric: str = "abs_rel") -> Axes:
    write_study(results, runs, metric=metric)
    return trade_off(load_runs("toy", results=results))


def _crowd(count: int) -> list[FakeRun]:
    chance = np.random.default_rng(0)
    means = chance.normal([0.1, 0.02], [0.02, 0.01], size=(count, 2))
    return [untouched()] + [
        adapted(f"variant_{i}", gain=gain + seed / 500, loss=loss, seed=seed)
        for i, (gain, loss) in enumerate(means)
        for seed in (0, 1, 2)
    ]


def test_dots_are_runs_and_means(tmp_path: Path) -> None:
    runs = [
        untouched(),
        *(adapted("daa", gain=g, loss=0.02, seed=s) for s, g in enumerate((0.1, 0.2))),
    ]
    dots, means, origin = (np.asarray(c.get_offsets()) for c in _draw(tmp_path, runs).collections)
    np.testing.assert_allclose(dots, [[0.1, 0.02], [0.2, 0.02]])
    np.testing.assert_allclose(means, [[0.15, 0.02]])
    np.testing.assert_array_equal(origin, [[0, 0]])


def test_a_failed_run_draws_nothing(tmp_path: Path) -> None:
    ax = _draw(
        tmp_path, [untouched(), adapted("daa", gain=0.1, loss=0.0), FakeRun("x", status="failed")]
    )
    assert {text.get_text() for text in ax.texts} >= {"daa", "zero_shot"}
    assert "x" not in {text.get_text() for text in ax.texts}


@pytest.mark.parametrize(
    ("metric", "x", "y"),
    [
        (
            "abs_rel",
            "adaptation: fall of AbsRel [1] on the target",
            "forgetting: rise of AbsRel [1]",
        ),
        (
            "delta1",
            "adaptation: rise of delta 1 [1]",
            "forgetting: fall of delta 1 [1] on the source",
        ),
    ],
)
def test_axes_say_which_way_and_in_what_unit(tmp_path: Path, metric: str, x: str, y: str) -> None:
    ax = _draw(tmp_path, _crowd(2), metric=metric)
    assert ax.get_xlabel().startswith(x)
    assert ax.get_ylabel().startswith(y)


@pytest.mark.parametrize("count", [1, 6, 9])
def test_no_words_overlap(tmp_path: Path, count: int) -> None:
    ax = _draw(tmp_path, _crowd(count))
    ax.figure.canvas.draw()
    words = [text for text in ax.texts if text.get_text()]
    assert len(words) >= count + 2
    boxes = {text.get_text(): Text.get_window_extent(text) for text in words}
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    for label in set(boxes) - set(QUADRANTS.values()):
        assert ax.bbox.containsx(boxes[label].x0)
        assert ax.bbox.containsx(boxes[label].x1)


def test_trials_of_one_variant_are_told_apart(tmp_path: Path) -> None:
    runs = [
        adapted("daa", gain=0.1 * rank, loss=0.0, trial=rank, hyperparameters={"rank": rank})
        for rank in (1, 2)
    ]
    labels = {text.get_text() for text in _draw(tmp_path, runs).texts}
    assert {"daa #1", "daa #2"} <= labels


def test_a_variant_keeps_its_colour_when_others_are_left_out(tmp_path: Path) -> None:
    write_study(tmp_path, _crowd(5))
    runs = load_runs("toy", results=tmp_path)
    some = runs[runs["variant"].isin(["variant_3", "zero_shot"])]
    full = trade_off(runs).collections[1].get_facecolor()
    (alone,) = np.asarray(trade_off(some).collections[1].get_facecolor())
    np.testing.assert_array_equal(alone, np.asarray(full)[3])
    assert colour_variants(["zero_shot", "a"])["zero_shot"] == (0, 0, 0)
