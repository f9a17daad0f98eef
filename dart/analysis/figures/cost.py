"""What adaptation costs and what can be had between before and after it."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, NullFormatter
from scipy import stats

from dart.analysis.figures.labels import place_labels
from dart.analysis.figures.style import (
    NAMES,
    add_legend,
    colour_variants,
    get_axes,
    mark_variants,
    stretch,
)
from dart.analysis.verdicts import Comparison, Objective, VariantVerdict
from dart.errors import UserError
from dart.metrics import METRICS, degradation
from dart.recipe import ZERO_SHOT

LEVEL = 0.95
"""Of the band over seeds."""
STYLES = ("-", "--", ":", "-.")
"""Of the lines of a variant's trials."""
WORDS = {"adaptation": "more is better", "forgetting": "less is better"}


def capacity(
    comparison: Comparison, *, objective: Objective = "adaptation", ax: Axes | None = None
) -> Axes:
    """Draw an objective over the number of trained parameters: one point a variant.

    The bar is the interval of the variant's own change, not of a difference to another variant.

    Args:
        comparison: From ``compare_study``.
        objective: ``adaptation`` or ``forgetting``.
        ax: Where to draw; a new figure unless given.

    Raises:
        UserError: If fewer than two counts of parameters are known.
    """
    drawn = [
        verdict
        for verdict in comparison.verdicts
        if verdict.variant != ZERO_SHOT
        and objective in verdict.effects
        and verdict.costs.get("trainable_parameters", 0) > 0
    ]
    if len({_count(verdict) for verdict in drawn}) < 2:
        raise UserError(
            f"study {comparison.study!r}: its variants do not differ in trained parameters"
        )
    variants = [verdict.variant for verdict in comparison.verdicts]
    ax = get_axes(ax, width=8 * stretch(variants), height=5 * stretch(variants))
    colours, shapes = colour_variants(variants), mark_variants(variants)
    segments = []
    for verdict in drawn:
        own, colour = verdict.effects[objective].own, colours[verdict.variant]
        look = {"color": colour, "markeredgecolor": "black", "markersize": 8, "zorder": 4}
        ax.plot(_count(verdict), own.value, shapes[verdict.variant], **look)
        if math.isfinite(own.lower):
            ax.plot([_count(verdict)] * 2, [own.lower, own.upper], color=colour, linewidth=1.5)
            segments.append(((_count(verdict), own.lower), (_count(verdict), own.upper)))
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    for write in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        write(EngFormatter(sep=" "))
    if max(map(_count, drawn)) > 10 * min(map(_count, drawn)):
        ax.xaxis.set_minor_formatter(NullFormatter())  # the decades say enough
    ax.margins(x=0.12, y=0.12)
    ax.set_xlabel("trained parameters")
    ax.set_ylabel(f"{objective} in {NAMES[comparison.metric]} ({WORDS[objective]})")
    ax.grid(color="0.92", linewidth=0.6)
    places = [
        (verdict.variant, _count(verdict), verdict.effects[objective].own.value)
        for verdict in drawn
    ]
    labels = [(name, x, y, colours[name]) for name, x, y in places]
    place_labels(ax, labels, [(x, y) for _, x, y in places], segments=segments)
    return ax


def _count(verdict: VariantVerdict) -> float:
    return verdict.costs["trainable_parameters"]


def interpolation_curve(line: pd.DataFrame, *, metric: str, ax: Axes | None = None) -> Axes:
    """Draw the target's error against forgetting between the network before and after adaptation.

    One line a variant, the mean over seeds, from alpha 0 (before) to 1 (after); with two seeds and
    more, bars are the intervals of both means over seeds. A large mark is alpha 1.

    Args:
        line: From ``load_interpolation``.
        metric: Which of its metrics.
        ax: Where to draw; a new figure unless given.

    Raises:
        UserError: If nothing was measured in the metric.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models (CVPR 2022), section 3.
    """
    points = interpolation_points(line, metric=metric)
    if points.empty:
        raise UserError(f"no error {metric!r} between before and after adaptation to draw")
    ax = get_axes(ax, width=8, height=5.5)
    variants = list(line["variant"].cat.categories)
    colours, marks = colour_variants(variants), mark_variants(variants)
    for (variant, trial), part in points.groupby(["variant", "trial"], observed=True, dropna=False):
        trials = list(points.loc[points["variant"] == variant, "trial"].unique())
        several = len(trials) > 1
        name, colour = str(variant), colours[str(variant)]
        ax.errorbar(
            part["forgetting"],
            part["target"],
            xerr=part["forgetting_half"],
            yerr=part["target_half"],
            color=colour,
            ecolor=(*colour, 0.35),
            marker=marks[name],
            markersize=4,
            linestyle=STYLES[trials.index(trial) % len(STYLES)] if several else "-",
            linewidth=1.6,
            elinewidth=1,
            label=f"{name} #{trial}" if several else name,
        )
        last = part[part["alpha"] == 1]
        ax.plot(
            last["forgetting"], last["target"], marks[name], color=colour, markersize=9, zorder=5
        )
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    damage = "fall" if METRICS[metric].higher_is_better else "rise"
    better = "up" if METRICS[metric].higher_is_better else "down"
    ax.set_xlabel(f"forgetting: {damage} of {NAMES[metric]} on the source (left is better)")
    ax.set_ylabel(f"{NAMES[metric]} on the target ({better} is better)")
    add_legend(ax)
    return ax


def interpolation_points(line: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Return ``variant, trial, alpha, target, forgetting`` and half the widths of their intervals.

    Domains of a role count alike. Half widths are missing where there is one seed.
    """
    chosen = line[(line["metric"] == metric) & (line["split"] == "test")]
    lost = degradation(0.0, 1.0, metric=metric) * (chosen["value"] - chosen["before"])
    chosen = chosen.assign(forgetting=lost)
    by = ["variant", "trial", "seed", "alpha"]
    target, source = (
        chosen[chosen["role"] == role].groupby(by, observed=True, dropna=False)[name].mean()
        for role, name in (("target", "value"), ("source", "forgetting"))
    )
    wide = pd.concat({"target": target, "forgetting": source}, axis=1, join="inner").reset_index()
    if wide.empty:
        return wide
    grouped = wide.groupby(["variant", "trial", "alpha"], observed=True, dropna=False)
    means = grouped[["target", "forgetting"]].mean()
    count = grouped.size().to_numpy(float)
    with np.errstate(invalid="ignore"):
        quantile = stats.t.ppf(0.5 + LEVEL / 2, np.where(count > 1, count - 1, np.nan))
    for name in ("target", "forgetting"):
        means[f"{name}_half"] = quantile * grouped[name].std().to_numpy(float) / np.sqrt(count)
    return means.reset_index()
