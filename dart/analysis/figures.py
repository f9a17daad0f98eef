"""Figures of a study's result, drawn from the frames of ``dart.analysis.tables``."""

from collections.abc import Iterable, Sequence

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, BboxBase

from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

NAMES = {
    "abs_rel": "AbsRel [1]",
    "sq_rel": "SqRel [m]",
    "rmse": "RMSE [m]",
    "rmse_log": "RMSE log [1]",
    "si_log": "SILog [100 log]",
    "log10": "log10 [1]",
    "delta1": "delta 1 [1]",
    "delta2": "delta 2 [1]",
    "delta3": "delta 3 [1]",
}
QUADRANTS = {
    (1, 0): "better: target gained, source kept",
    (1, 1): "trade-off: target gained, source lost",
    (0, 1): "worse: both lost",
    (0, 0): "source gained, target lost",
}
MARKERS = ("o", "s", "D", "^", "v", "P", "<", ">")
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
DISTANCES = (9, 16, 25, 36, 50)
"""Places for a label, in points from its dot, nearest first."""
DOT = 7
"""Half the side of what a mean's dot covers, in pixels."""


def colour_variants(variants: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Return variant -> colour, the same in every figure of a study; ``zero_shot`` is black.

    The ten colours of seaborn's colour-blind palette, in the study's order; after ten they
    repeat, and the marker's shape tells them apart.
    """
    names = [name for name in variants if name != ZERO_SHOT]
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    return {ZERO_SHOT: (0.0, 0.0, 0.0)} | colours


def trade_off(runs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw adaptation against forgetting: a small dot a run, a large labelled one a variant.

    Right is better on the target, down is better on the source; the untouched network is the
    origin. Of a variant with several trials every trial has its dots and its mean.

    Args:
        runs: From ``load_runs``; only finished runs are drawn.
        ax: Where to draw; a new figure unless given.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 6), layout="constrained")
    variants = list(runs["variant"].cat.categories)
    colours = colour_variants(variants)
    shapes = {name: MARKERS[i // 10 % len(MARKERS)] for i, name in enumerate(variants)}
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
    _label(ax, [(ZERO_SHOT, 0.0, 0.0, colours[ZERO_SHOT]), *labels], dots)
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


def _label(
    ax: Axes,
    labels: Sequence[tuple[str, float, float, tuple[float, float, float]]],
    dots: Sequence[tuple[float, float]],
) -> None:
    """Write each label at the first place near its dot that covers nothing."""
    ax.figure.canvas.draw()  # a layout engine moves the axes when it first draws
    taken = [_extent(text) for text in ax.texts if isinstance(text, Annotation)]
    taken += [_square(ax, x, y, DOT / 2) for x, y in dots]
    taken += [_square(ax, x, y, DOT) for _, x, y, _ in labels]
    x, y = ax.transData.transform((0, 0))
    taken += [Bbox.from_extents(ax.bbox.x0, y, ax.bbox.x1, y + 1)]
    taken += [Bbox.from_extents(x, ax.bbox.y0, x + 1, ax.bbox.y1)]
    for words, x, y, colour in labels:
        text = ax.annotate(
            words,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            color=tuple(0.75 * part for part in colour),
            fontsize="small",
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6},
            zorder=6,
        )
        places = [(d, r) for r in DISTANCES for d in DIRECTIONS]
        cost = [_cost(_move(text, *place), taken, ax.bbox) for place in places]
        taken.append(_move(text, *places[cost.index(min(cost))]))


def _square(ax: Axes, x: float, y: float, half: float) -> Bbox:
    x, y = ax.transData.transform((x, y))
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _move(text: Annotation, direction: tuple[int, int], distance: float) -> Bbox:
    """Put ``text`` beside its dot and return the box that its words then cover, in pixels."""
    x, y = direction
    text.set_horizontalalignment(("center", "left", "right")[x])
    text.set_verticalalignment(("center", "bottom", "top")[y])
    text.set_position((x * distance, y * distance))
    return _extent(text).padded(1)


def _extent(text: Annotation) -> Bbox:
    """Return the box of the words alone; matplotlib's own takes the leader line in."""
    text.get_window_extent()  # puts the text where its offset says
    return Text.get_window_extent(text)


def _cost(box: Bbox, taken: Sequence[Bbox], inside: BboxBase) -> float:
    """Return how many square pixels of ``box`` cover something or leave the axes."""
    return sum(_overlap(box, other) for other in taken) + _area(box) - _overlap(box, inside)


def _overlap(one: BboxBase, other: BboxBase) -> float:
    both = Bbox.intersection(one, other)
    return _area(both) if both is not None else 0.0


def _area(box: BboxBase) -> float:
    return float(box.width * box.height)
