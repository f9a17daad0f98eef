"""How figures look: one colour and marker a variant in all of them, names and units of metrics."""

import textwrap
from collections.abc import Collection, Iterable

import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

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
NAME_LENGTH = 26
"""Characters of a line of a variant's name."""
LINE_INCHES = 0.225
"""Height of a line of a legend."""
MARKERS = ("o", "s", "D", "^", "v", "P", "<", ">")


def colour_variants(variants: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Return variant -> colour, the same in every figure of a study; ``zero_shot`` is black.

    The ten colours of seaborn's colour-blind palette, in the study's order; after ten they
    repeat, and the marker's shape tells them apart.
    """
    names = [name for name in variants if name != ZERO_SHOT]
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    return {ZERO_SHOT: (0.0, 0.0, 0.0)} | colours


def mark_variants(variants: Iterable[str]) -> dict[str, str]:
    """Return variant -> marker; it changes after every ten, where the colours repeat."""
    return {name: MARKERS[i // 10 % len(MARKERS)] for i, name in enumerate(variants)}


def wrap(name: str) -> str:
    """Return a variant's name in lines that fit beside a figure."""
    return textwrap.fill(name, NAME_LENGTH, break_long_words=False, break_on_hyphens=False)


def stretch(variants: Collection[str], *, most: float = 1.5) -> float:
    """Return how much larger a figure must be to have room for so many names."""
    return min(most, max(1.0, 0.75 + len(variants) / 40))


def add_legend(ax: Axes) -> None:
    """Put the legend beside the axes, where it covers nothing, and make the figure as high."""
    handles, names = ax.get_legend_handles_labels()
    wrapped = [wrap(name) for name in names]
    ax.legend(
        handles,
        wrapped,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        title="",
        fontsize="small",
        labelspacing=0.3,
    )
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        lines = sum(name.count("\n") + 1 for name in wrapped)
        figure.set_figheight(max(figure.get_figheight(), LINE_INCHES * lines + 1))


def get_axes(ax: Axes | None, *, width: float = 8, height: float = 6) -> Axes:
    """Return ``ax``, or those of a new figure of that size in inches."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]
