"""Where it forgets and why: by domain, by viewing angle, on the way, and what moved."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from dart.analysis.figures.style import (
    NAMES,
    add_legend,
    colour_variants,
    get_axes,
    mark_variants,
    stretch,
    wrap,
)
from dart.angles import RING_DEGREES
from dart.errors import UserError
from dart.metrics import METRICS
from dart.recipe import ZERO_SHOT

FEW_IMAGES = 3
"""A ring that fewer images see is not drawn: its mean is that of a corner."""
MOST_GROUPS = 60
"""Of parameters on a page."""
MANY_COLUMNS = 12
"""More variants than that stand closer together."""

MANY_DOMAINS = 4
"""More domains than that stand below each other."""


def forgetting_by_domain(images: pd.DataFrame, *, metric: str, ax: Axes | None = None) -> Axes:
    """Draw how much worse each domain that was not trained on became.

    A large mark is the mean over seeds, a small one a seed.

    Args:
        images: From ``load_study``.
        metric: Which of its metrics.
        ax: Where to draw; a new figure unless given.
    """
    chosen = images[
        (images["split"] == "test")
        & (images["metric"] == metric)
        & (images["role"] != "target")
        & (images["variant"] != ZERO_SHOT)
    ]
    if chosen.empty:
        raise UserError(f"no error {metric!r} of a source or held-out domain to draw")
    sign = -1 if METRICS[metric].higher_is_better else 1
    by = ["domain", "role", "variant", "trial", "seed"]
    means = chosen.groupby(by, sort=False, observed=True)[["before", "after"]].mean().reset_index()
    means["change"] = sign * (means["after"] - means["before"])
    means["where"] = means["domain"].astype(str) + "\n(" + means["role"].astype(str) + ")"
    variants = [v for v in images["variant"].cat.categories if v != ZERO_SHOT]
    count = means["where"].nunique()
    group = max(2.2, 0.13 * len(variants))  # inches
    down = count > MANY_DOMAINS  # a page is higher than wide
    size = (8, 0.7 * group * count + 1) if down else (max(6, group * count + 3), 4.5)
    ax = get_axes(ax, width=size[0], height=size[1])
    look = {"hue": "variant", "hue_order": variants, "palette": colour_variants(variants)}
    look |= {"x": "change", "y": "where"} if down else {"x": "where", "y": "change"}
    means["variant"] = means["variant"].astype(str)
    sns.stripplot(means, **look, dodge=True, size=3.5, alpha=0.6, legend=False, ax=ax)
    sns.pointplot(
        means,
        **look,
        dodge=0.8 - 0.8 / len(variants),  # pyright: ignore[reportArgumentType]
        errorbar=None,
        linestyles="none",
        markers=list(mark_variants(variants).values()),
        ax=ax,
    )
    (ax.axvline if down else ax.axhline)(0, color="0.6", linewidth=0.8, zorder=0)
    change = f"change of {NAMES[metric]}\n(positive: worse than before)"
    ax.set_xlabel(change if down else "")
    ax.set_ylabel("" if down else change)
    add_legend(ax)
    return ax


def error_by_angle(
    angles: pd.DataFrame,
    *,
    metric: str,
    domain: str,
    variants: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the error over the angle from the optical axis, before and after adaptation.

    A line is the mean over seeds, the band its range over seeds; dashed is before.

    Args:
        angles: From ``load_angles``.
        metric: The one it was loaded with.
        domain: Which domain's images.
        variants: Which to draw; all unless given.
        ax: Where to draw; a new figure unless given.
    """
    known = list(angles["domain"].unique())
    if domain not in known:
        raise UserError(f"unknown domain {domain!r}; there are: {', '.join(known)}")
    every = list(angles["variant"].cat.categories)
    colours, marks = colour_variants(every), mark_variants(every)
    rows = angles[(angles["domain"] == domain) & (angles["images"] >= FEW_IMAGES)]
    ax = get_axes(ax, width=8 * stretch(every, most=1.2), height=4.5)
    for variant in variants or every:
        of_variant = rows[rows["variant"] == variant].groupby("ring")["after"]
        centre = of_variant.mean().index.to_numpy(float) + RING_DEGREES / 2
        look = {"color": colours[variant], "marker": marks[variant], "label": variant}
        ax.plot(centre, of_variant.mean(), **look)
        ax.fill_between(
            centre, of_variant.min(), of_variant.max(), color=colours[variant], alpha=0.15, lw=0
        )
    before = rows.groupby("ring")["before"].mean()
    ax.plot(
        before.index.to_numpy(float) + RING_DEGREES / 2,
        before,
        color="black",
        ls="--",
        label="before",
    )
    ax.set_xlabel(f"angle from the optical axis [degrees], rings of {RING_DEGREES}")
    ax.set_ylabel(f"{NAMES[metric]} on {domain}")
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    add_legend(ax)
    return ax


def learning_curves(
    curves: pd.DataFrame, *, role: str, metric: str, ax: Axes | None = None
) -> Axes:
    """Draw the error during training on a few validation images of one role's domains.

    Args:
        curves: From ``load_curves``.
        role: ``target`` for adaptation, ``source`` for forgetting.
        metric: The one it was loaded with.
        ax: Where to draw; a new figure unless given.
    """
    rows = curves[curves["role"] == role]
    if rows.empty:
        raise UserError(
            f"no curve of role {role!r}; there are: {', '.join(curves['role'].unique())}"
        )
    variants = list(curves["variant"].cat.categories)
    colours, marks = colour_variants(variants), mark_variants(variants)
    ax = get_axes(ax, width=7 * stretch(variants, most=1.3), height=4.5)
    for variant in variants:
        steps = rows[rows["variant"] == variant].groupby("step")["value"]
        mean = steps.mean()
        ax.plot(mean.index, mean, color=colours[variant], marker=marks[variant], label=variant)
        ax.fill_between(
            mean.index, steps.min(), steps.max(), color=colours[variant], alpha=0.12, lw=0
        )
    ax.set_xlabel("training step")
    ax.set_ylabel(f"{NAMES[metric]} on the {role} (validation)")
    ax.set_xlim(left=0)
    add_legend(ax)
    return ax


def update_sizes(updates: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how far each group of parameters moved: an adapter that is inert stands out.

    A cell is the root mean square of the change over the group's parameters, as a power of ten,
    the mean of its logarithm over seeds; empty where the variant has no such group, or it never
    moved. Parameters share a group, by ever less of their names, until the groups fit on a page.
    Adam moves a parameter by at most about the learning rate a step, and by far less
    where the gradient is near its epsilon.

    Args:
        updates: From ``load_updates``.
        ax: Where to draw; a new figure unless given.
    """
    rows = updates.assign(
        group=_group_parameters(updates), square=updates["update"] ** 2 * updates["count"]
    )
    sums = rows.groupby(["group", "variant", "trial", "seed"], observed=True, sort=False)[
        ["square", "count"]
    ].sum()
    square = (sums["square"] / sums["count"]).replace(
        0, np.nan
    )  # what never moved has no logarithm
    size = square.map(np.log10) / 2
    mean = size.groupby(["group", "variant"], observed=True, sort=False).mean()
    table = mean.unstack("variant")
    order = sorted(table.index, key=lambda group: (not group.startswith("adapters"), group))
    table = table.loc[order, [v for v in updates["variant"].cat.categories if v in table.columns]]
    table.columns = [wrap(str(name)) for name in table.columns]
    if table.shape[1] > MANY_COLUMNS:  # a page is higher than wide
        table = table.T
    width, height = (inches * n for inches, n in zip((1.1, 0.32), table.shape[::-1], strict=True))
    ax = get_axes(ax, width=width + 4, height=max(4.0, height + 1.8))
    label = {"label": "log10 of the root mean square change"}
    sns.heatmap(table, annot=True, fmt=".1f", cmap="cividis", cbar_kws=label, linewidths=0.5, ax=ax)
    ax.set_xlabel("")
    ax.set_ylabel("")
    ax.set_xticklabels(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    return ax


def _group_parameters(updates: pd.DataFrame) -> pd.Series:
    """Return the group of each row: finer ones inside adapters, one elsewhere."""
    inside = updates["part"].str.startswith("adapters")
    names = updates["parameter"].str.replace(r"\.?(weight|bias)$", "", regex=True)
    group = updates["part"]
    for pattern in ("", r"\.\d+(?=\.|$)", r"\..*"):  # all, without numbers, the first word
        fine = names.str.replace(pattern, "", regex=True)
        found = group.where(~inside, (group + ": " + fine).str.removesuffix(": "))
        if found.nunique() <= MOST_GROUPS:
            return found
    return group
