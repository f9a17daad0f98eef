"""Figures of searches and designs: what is drawn is what the tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dart.analysis.figures import contour, factor_bars, hypervolume_history, importance_bars
from dart.analysis.figures.search import numeric_parameters
from dart.errors import UserError


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _runs(trials: int = 8) -> pd.DataFrame:
    rows = [
        {
            "variant": "daa",
            "trial": trial,
            "seed": seed,
            "status": "finished",
            "metric": "abs_rel",
            "rate": 10.0 ** -(trial % 3),
            "rank": 2 + trial // 2,
            "gate": "token",
            "adaptation": 0.1 * trial,
            "forgetting": 0.01 * trial,
        }
        for trial in range(trials)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_bars_are_as_long_as_the_shares() -> None:
    rows = [
        ("daa", o, p, s) for o in ("adaptation", "forgetting") for p, s in (("a", 0.7), ("b", 0.3))
    ]
    importance = pd.DataFrame(rows, columns=["variant", "objective", "parameter", "importance"])
    ax = importance_bars(importance)
    widths = sorted(bar.get_width() for bar in ax.patches if bar.get_width())  # pyright: ignore[reportAttributeAccessIssue]
    assert widths == pytest.approx([0.3, 0.3, 0.7, 0.7])
    effects = importance.rename(columns={"parameter": "term", "importance": "share"})
    assert [t.get_text() for t in factor_bars(effects).get_yticklabels()] == ["daa: a", "daa: b"]


def test_the_history_is_the_area_after_each_trial() -> None:
    history = pd.DataFrame(
        {
            "search": "daa",
            "trial": [0, 1, 2],
            "state": ["complete", "pruned", "complete"],
            "hypervolume": [0.1, 0.1, 0.3],
        }
    )
    ax = hypervolume_history(history)
    line, crosses = ax.get_lines()
    assert np.asarray(line.get_ydata()).tolist() == [0.1, 0.1, 0.3]
    assert np.asarray(crosses.get_xdata()).tolist() == [1]


def test_a_surface_has_a_dot_a_trial_and_logarithms_where_values_span_decades() -> None:
    ax = contour(_runs(), "daa", ("rate", "rank"))
    (dots,) = ax.get_lines()
    assert np.asarray(dots.get_xdata()).size == 8
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert numeric_parameters(_runs(), "daa", ["gate", "rank", "rate", "seed"]) == ["rank", "rate"]


@pytest.mark.parametrize(
    ("trials", "names", "words"),
    [
        (4, ("rate", "rank"), "at least 6 trials"),
        (8, ("rat", "rank"), "did you mean"),
        (8, ("gate", "rank"), "no number"),
    ],
)
def test_what_is_no_surface_is_refused(trials: int, names: tuple[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        contour(_runs(trials), "daa", names)
