"""Adaptation against forgetting: what a study found, in one picture."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from dart.analysis.figures.labels import place_labels
from dart.analysis.figures.style import NAMES, colour_variants, get_axes, mark_variants
from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

QUADRANTS = {
    (1, 0): "better: target gained, source kept",
    (1, 1): "trade-off: target gained, source lost",
    (0, 1): "worse: both lost",
    (0, 0): "source gained, target lost",
}


def trade_off(runs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw adaptation against forgetting: a small dot a run, a large labelled one a variant.

    Right is better on the target, down is better on the source; the untouched network is the
    origin. Of a variant with several trials every trial has its dots and its mean.

    Args:
        runs: From ``load_runs``; only finished runs are drawn.
        ax: Where to draw; a new figure unless given.
    """
    ax = get_axes(ax)
    variants = list(runs["variant"].cat.categories)
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

    _frame(ax, str(runs["metric"].iloc[0]))
    several = set(means["variant"][means["variant"].duplicated()])
    labels = [
        (f"{name} #{trial}" if name in several else name, x, y, colours[name])
        for name, trial, x, y in means.itertuples(index=False)
    ]
    dots = [*zip(points["adaptation"], points["forgetting"], strict=True), (0.0, 0.0)]
    place_labels(ax, [(ZERO_SHOT, 0.0, 0.0, colours[ZERO_SHOT]), *labels], dots)
    return ax


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
