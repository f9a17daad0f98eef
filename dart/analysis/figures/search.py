"""What a search or a design says of its parameters."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.tri import Triangulation

from dart.analysis.figures.style import NAMES, get_axes
from dart.errors import UserError, did_you_mean

OBJECTIVES = ("adaptation", "forgetting")
FEWEST_TRIALS = 6
"""Trials below which a surface over two parameters is not drawn."""


def importance_bars(importance: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much each parameter of a search decides, for both objectives.

    Args:
        importance: From ``parameter_importance``.
        ax: Where to draw; a new figure unless given.
    """
    rows = importance.assign(name=importance["variant"] + ": " + importance["parameter"])
    return _bars(rows, "importance", "share of the importance (PED-ANOVA)", ax)


def factor_bars(effects: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much of the variation between runs each factor of a design explains.

    Args:
        effects: From ``factor_effects``.
        ax: Where to draw; a new figure unless given.
    """
    rows = effects.assign(name=effects["variant"] + ": " + effects["term"])
    return _bars(rows, "share", "share of the variation explained (partial eta squared)", ax)


def _bars(rows: pd.DataFrame, value: str, words: str, ax: Axes | None) -> Axes:
    ax = get_axes(ax, width=8, height=0.5 * rows["name"].nunique() + 1.6)
    colours = dict(zip(OBJECTIVES, sns.color_palette("colorblind", 2), strict=True))
    sns.barplot(rows, x=value, y="name", hue="objective", palette=colours, ax=ax)
    ax.set_xlabel(words)
    ax.set_ylabel("")
    ax.set_xlim(0, 1)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title="")
    return ax


def hypervolume_history(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the area under the front of both objectives as a search goes on.

    Args:
        history: From ``search_history``.
        ax: Where to draw; a new figure unless given.
    """
    ax = get_axes(ax, width=8, height=4.5)
    names = list(dict.fromkeys(history["search"]))
    for name, colour in zip(names, sns.color_palette("colorblind", len(names)), strict=True):
        rows = history[history["search"] == name]
        ax.step(rows["trial"], rows["hypervolume"], where="post", color=colour, label=name)
        ended = rows[rows["state"] != "complete"]
        ax.plot(ended["trial"], ended["hypervolume"], "x", color=colour, markersize=5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not history["hypervolume"].any():
        words = (
            "no trial lies within the corner of reference:\neach is worse than it on an objective"
        )
        ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="bottom", color="0.35")
        ax.set_ylim(0, 1)
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("trial (a cross: ended early or failed)")
    ax.set_ylabel("area dominated, validation split")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title="")
    return ax


def contour(
    runs: pd.DataFrame,
    variant: str,
    parameters: tuple[str, str],
    *,
    objective: str = "adaptation",
    ax: Axes | None = None,
) -> Axes:
    """Draw an objective over two numeric parameters of a variant's trials.

    A dot is a trial, the mean over its seeds; between dots the surface is interpolated linearly
    and says nothing where there is no dot.

    Args:
        runs: From ``load_runs``.
        variant: One of the study's.
        parameters: Which two; one whose values span a factor of ten is drawn by its logarithm.
        objective: ``adaptation`` or ``forgetting``.
        ax: Where to draw; a new figure unless given.

    Raises:
        UserError: A parameter is unknown or no number, or there are fewer than six trials.
    """
    rows = runs[(runs["variant"] == variant) & (runs["status"] == "finished")]
    for name in parameters:
        if name not in rows or not pd.api.types.is_numeric_dtype(rows[name].infer_objects()):
            known = [c for c in rows if rows[c].nunique() > 1]
            raise UserError(
                f"parameter {name!r} of {variant!r}: unknown or no number"
                + did_you_mean(name, [str(column) for column in known])
            )
    x, y = parameters
    trials = rows.groupby("trial")[[x, y, objective]].mean().astype(float)
    if len(trials) < FEWEST_TRIALS or trials[[x, y]].nunique().min() < 3:
        raise UserError(
            f"variant {variant!r}: a surface needs at least {FEWEST_TRIALS} trials and 3 values of "
            f"each parameter, there are {len(trials)} trials"
        )
    ax = get_axes(ax, width=6.5, height=5)
    flat = []
    for name, axis, scale in ((x, ax.xaxis, ax.set_xscale), (y, ax.yaxis, ax.set_yscale)):
        values = trials[name].to_numpy()
        if values.min() > 0 and values.max() >= 10 * values.min():
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
            values = np.log(values)
        flat.append((values - values.min()) / (values.max() - values.min()))
    # Neighbours as they look on the page, not in units that differ by powers of ten.
    mesh = Triangulation(trials[x], trials[y], Triangulation(*flat).triangles)
    filled = ax.tricontourf(mesh, trials[objective], levels=10, cmap="cividis")
    ax.margins(0.04)
    ax.plot(trials[x], trials[y], "o", color="white", markeredgecolor="black", markersize=5)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    metric = str(runs["metric"].iloc[0])
    bar = ax.figure.colorbar(filled, ax=ax)
    bar.set_label(f"{objective} of {variant}, {NAMES[metric]}")
    return ax


def numeric_parameters(runs: pd.DataFrame, variant: str, names: list[str]) -> list[str]:
    """Return which parameters of a variant are numbers with at least three values."""
    rows = runs[(runs["variant"] == variant) & (runs["status"] == "finished")]
    found = []
    for name in names:
        values = rows[name].dropna().infer_objects() if name in rows else pd.Series(dtype=object)
        is_number = pd.api.types.is_numeric_dtype(values) and values.dtype != np.bool_
        if is_number and values.nunique() >= 3:
            found.append(name)
    return found
