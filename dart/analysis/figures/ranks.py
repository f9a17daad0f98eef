"""Mean ranks over domains with Nemenyi's critical difference, where there are enough domains."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from dart.analysis.figures.style import NAMES, colour_variants, get_axes
from dart.errors import UserError
from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

FEWEST_BLOCKS = 10
"""Domains below which ranks say next to nothing (Demsar 2006 asks for more than ten)."""


def critical_difference(
    images: pd.DataFrame, *, metric: str, alpha: float = 0.05, ax: Axes | None = None
) -> Axes:
    """Draw each variant's mean rank over domains; a bar joins those that are not told apart.

    Domains are the blocks: seeds and images within one are not independent. Source: Demsar 2006,
    Friedman's test and Nemenyi's critical difference. To compare with a baseline, read the
    verdicts instead.

    Args:
        images: From ``load_study``.
        metric: Which of its metrics.
        alpha: Of Nemenyi's test.
        ax: Where to draw; a new figure unless given.

    Raises:
        UserError: There are fewer than ten domains, or fewer than three variants.
    """
    rows = images[
        (images["split"] == "test")
        & (images["metric"] == metric)
        & (images["variant"] != ZERO_SHOT)
    ]
    means = rows.groupby(["domain", "variant"], observed=True)["after"].mean().unstack("variant")
    means = means.dropna()
    blocks, count = means.shape
    if blocks < FEWEST_BLOCKS:
        raise UserError(
            f"a critical-difference diagram needs at least {FEWEST_BLOCKS} domains, the study has "
            f"{blocks}: compare with the baseline instead"
        )
    if count < 3:
        raise UserError(f"ranks need at least three variants, the study has {count}")
    ranks = means.rank(axis=1, ascending=not METRICS[metric].higher_is_better).mean().sort_values()
    p = float(stats.friedmanchisquare(*means.to_numpy().T).pvalue)
    quantile = float(stats.studentized_range.ppf(1 - alpha, count, np.inf)) / math.sqrt(2)
    gap = quantile * math.sqrt(count * (count + 1) / (6 * blocks))
    ax = get_axes(ax, width=8, height=0.36 * count + 1.8)
    colours = colour_variants(images["variant"].cat.categories)
    for row, (name, rank) in enumerate(ranks.items()):
        ax.plot(rank, row, "o", color=colours[str(name)], markersize=8, markeredgecolor="black")
        last = ranks[ranks <= rank + gap].index[-1]
        ax.plot([rank, ranks[last]], [row, row], color="0.6", linewidth=2, zorder=1)
    ax.set_yticks(range(count), list(ranks.index))
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_xlabel(
        f"mean rank by {NAMES[metric]} over {blocks} domains, 1 is best; a line reaches what is "
        f"not told apart\n(critical difference {gap:.2f}; Friedman's p = {p:.2g})"
    )
    return ax
