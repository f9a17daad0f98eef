"""Each variant's difference to the baseline, with its interval."""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dart.analysis.figures.style import NAMES, colour_variants, get_axes, wrap
from dart.analysis.statistics import Estimate
from dart.analysis.verdicts import Comparison, Objective, VariantVerdict

WORDS = {
    "adaptation": ("adaptation", "right is better"),
    "forgetting": ("forgetting", "left is better"),
    "held_out": ("gain on held-out domains", "right is better"),
}

MANY_ROWS = 12
"""More variants than that stand closer together."""


def forest(
    comparison: Comparison, *, objective: Objective = "adaptation", ax: Axes | None = None
) -> Axes:
    """Draw the differences to the baseline in one objective, a variant a line.

    The bar is the two-sided interval, before Holm's correction; what the study declared to make
    no practical difference is shaded. The verdict, which looks at both objectives, stands beside.

    Args:
        comparison: From ``compare_study``.
        objective: Which one.
        ax: Where to draw; a new figure unless given.
    """
    drawn = [v for v in comparison.verdicts if _difference(v, objective) is not None]
    inches = 0.42 if len(drawn) <= MANY_ROWS else 0.27
    ax = get_axes(ax, width=8, height=inches * len(drawn) + 1.6)
    colours = colour_variants([v.variant for v in comparison.verdicts])
    margin = {"adaptation": comparison.rope, "forgetting": comparison.margin}.get(objective)
    if margin:
        ax.axvspan(-margin, margin, color="0.92", zorder=0)
    ax.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    for row, verdict in enumerate(drawn):
        estimate = _difference(verdict, objective)
        assert estimate is not None
        colour = colours[verdict.variant]
        if math.isfinite(estimate.lower):
            ax.plot([estimate.lower, estimate.upper], [row, row], color=colour, linewidth=2)
        ax.plot(estimate.value, row, "o", color=colour, markersize=7, markeredgecolor="black")
        ax.annotate(
            verdict.verdict,
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="small",
        )
    ax.set_yticks(range(len(drawn)), [wrap(verdict.variant) for verdict in drawn])
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    what, direction = WORDS[objective]
    unit = NAMES[comparison.metric]
    ax.set_xlabel(f"difference in {what} to {comparison.baseline}, {unit} ({direction})")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def _difference(verdict: VariantVerdict, objective: Objective) -> Estimate | None:
    effect = verdict.effects.get(objective)
    return None if effect is None else effect.difference
