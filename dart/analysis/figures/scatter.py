"""Adaptation against forgetting: what a study found, in one picture."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from dart.analysis.figures.labels import Segment, place_labels
from dart.analysis.figures.style import NAMES, colour_variants, get_axes, mark_variants, stretch
from dart.analysis.verdicts import Comparison
from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

QUADRANTS = {
    (1, 0): "better: target gained, source kept",
    (1, 1): "trade-off: target gained, source lost",
    (0, 1): "worse: both lost",
    (0, 0): "source gained, target lost",
}


def trade_off(
    runs: pd.DataFrame, *, comparison: Comparison | None = None, ax: Axes | None = None
) -> Axes:
    """Draw adaptation against forgetting: a small dot a run, a large labelled one a variant.

    Right is better on the target, down is better on the source; the untouched network is the
    origin. Of a variant with several trials every trial has its dots and its mean.

    Args:
        runs: From ``load_runs``; only finished runs are drawn.
        comparison: From ``compare_study``: crosses show its intervals, and a line the front of
            the variants that no other beats on both objectives.
        ax: Where to draw; a new figure unless given.
    """
    variants = list(runs["variant"].cat.categories)
    ax = get_axes(ax, width=8 * stretch(variants), height=6 * stretch(variants))
    colours = colour_variants(variants)
    shapes = mark_variants(variants)
    drawn = runs[(runs["status"] == "finished") & (runs["variant"] != ZERO_SHOT)]
    points = drawn.astype({"variant": str, "adaptation": float, "forgetting": float})
    means = points.groupby(["variant", "trial"], sort=False, dropna=False, as_index=False)[
        ["adaptation", "forgetting"]
    ].mean()
    axes = {"x": "adaptation", "y": "forgetting", "hue": "variant", "style": "variant"}
    look = {"palette": colours, "markers": shapes, "legend": False, "ax": ax}
    sns.scatterplot(points, **axes, **look, s=28, alpha=0.55, linewidth=0)
    sns.scatterplot(means, **axes, **look, s=130, edgecolor="black", linewidth=0.8, zorder=4)
    ax.scatter([0], [0], s=150, marker="X", color="black", zorder=5)
    crosses: list[Segment] = []
    if comparison is not None:
        crosses = _draw_intervals(ax, comparison, colours)
        _draw_front(ax, [(0.0, 0.0), *zip(means["adaptation"], means["forgetting"], strict=True)])

    _frame(ax, str(runs["metric"].iloc[0]))
    several = set(means["variant"][means["variant"].duplicated()])
    labels = [
        (f"{name} #{trial}" if name in several else name, x, y, colours[name])
        for name, trial, x, y in means.itertuples(index=False)
    ]
    dots = [*zip(points["adaptation"], points["forgetting"], strict=True), (0.0, 0.0)]
    named = [(ZERO_SHOT, 0.0, 0.0, colours[ZERO_SHOT]), *labels]
    place_labels(ax, named, dots, segments=crosses)
    return ax


def _draw_intervals(
    ax: Axes, comparison: Comparison, colours: Mapping[str, tuple[float, float, float]]
) -> list[Segment]:
    """Draw a cross over the interval of each variant's two objectives; return its lines."""
    crosses: list[Segment] = []
    for verdict in comparison.verdicts:
        if verdict.variant == ZERO_SHOT or not verdict.effects:
            continue
        gain, loss = verdict.effects["adaptation"].own, verdict.effects["forgetting"].own
        lines: list[Segment] = [
            ((gain.lower, loss.value), (gain.upper, loss.value)),
            ((gain.value, loss.lower), (gain.value, loss.upper)),
        ]
        for start, end in lines:
            if all(map(math.isfinite, (*start, *end))):
                look = {"color": colours[verdict.variant], "alpha": 0.6, "zorder": 3}
                ax.plot(*zip(start, end, strict=True), linewidth=1, **look)
                crosses.append((start, end))
    return crosses


def _draw_front(ax: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw the points that no other beats on both objectives, as steps."""
    front, least = [], math.inf
    for gain, loss in sorted(points, key=lambda point: (-point[0], point[1])):
        if loss < least:
            front.append((gain, loss))
            least = loss
    # From a point towards less gain, what forgets more than the point does is beaten by it.
    gains, losses = zip(*front, strict=True)
    ax.step(gains, losses, where="post", color="0.5", linewidth=1, linestyle=":", zorder=2)


def _frame(ax: Axes, metric: str) -> None:
    """Draw the axes through the origin, say what they are, and name the quadrants."""
    change = "rise" if METRICS[metric].higher_is_better else "fall"
    damage = "fall" if METRICS[metric].higher_is_better else "rise"
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    ax.margins(0.14)
    ax.set_xlabel(f"adaptation: {change} of {NAMES[metric]} on the target")
    ax.set_ylabel(f"forgetting: {damage} of {NAMES[metric]} on the source")
    ax.autoscale_view()
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for (x, y), words in QUADRANTS.items():
        # A quadrant that is hardly in view has no room for its name.
        width = (right if x else -left) / (right - left)
        height = (high if y else -low) / (high - low)
        if width < 0.35 or height < 0.06:
            continue
        ax.annotate(
            words,
            (x, y),
            xycoords="axes fraction",
            xytext=(-6 if x else 6, -6 if y else 6),
            textcoords="offset points",
            ha="right" if x else "left",
            va="top" if y else "bottom",
            color="0.45",
            fontstyle="italic",
            fontsize="small",
        )
