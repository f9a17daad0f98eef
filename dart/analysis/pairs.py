"""The errors of a study as arrays in which every number has its pair.

A variant is compared with the baseline on the same seed, image and domain. What lacks its pair is
dropped for all variants alike, and said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from dart.analysis.records import Cell, RunRecord, Study
from dart.analysis.statistics import average_scenes
from dart.analysis.tables import choose_trials, images_frame, mean_costs, runs_frame
from dart.errors import UserError
from dart.metrics import degradation
from dart.recipe import ZERO_SHOT

Records = Sequence[tuple[Cell, RunRecord | None]]


@dataclass(frozen=True)
class Errors:
    """The errors of all variants on one domain, paired.

    Axes: ``v`` variants, ``s`` seeds, ``i`` images, or scenes where images share them.
    """

    role: str
    before: Float[ndarray, "v s i"]
    after: Float[ndarray, "v s i"]
    num_images: int
    num_scenes: int

    def loss(self, metric: str) -> Float[ndarray, "v s i"]:
        """Return how much worse each became: positive is worse, whichever way the metric points."""
        return degradation(0.0, 1.0, metric=metric) * (self.after - self.before)


@dataclass(frozen=True)
class Pairs:
    """A study's chosen runs, aligned."""

    names: tuple[str, ...]
    """The variants, in the study's order; ``zero_shot`` first if it was measured."""
    settings: Mapping[str, str]
    """Variant -> what tells its chosen trial from its others, where it has several."""
    seeds: tuple[int, ...]
    domains: Mapping[str, Errors]
    failed: Mapping[str, int]
    """Variant -> runs that failed, where any did."""
    missing: Mapping[str, int]
    """Variant -> runs that were not made, where any was not."""
    asked: tuple[str, ...]
    """Every variant of the study, also those without a finished run."""
    notes: tuple[str, ...]
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Variant -> what a run of its chosen trial took on average, as far as it was recorded."""

    def of_role(self, role: str) -> dict[str, Errors]:
        """Return the domains of a role."""
        return {name: errors for name, errors in self.domains.items() if errors.role == role}


def pair_study(study: Study, records: Records, *, metric: str, baseline: str) -> Pairs:
    """Return the study's runs aligned by seed, image and domain.

    Raises:
        UserError: The baseline has no finished run, no seed is common to all variants, runs were
            not measured alike, or not in that metric.
    """
    notes = _check_alike(records)
    runs = runs_frame(study, records)
    chosen, several = choose_trials(runs)
    if several:
        notes.append(f"{', '.join(several)}: no trial was measured on validation; the first counts")
    finished = chosen[chosen["status"] == "finished"]
    names = [name for name in runs["variant"].cat.categories if name in set(finished["variant"])]
    notes += _count_unfinished(runs)
    if baseline not in names:
        raise UserError(f"the baseline {baseline!r} has no finished run; nothing can be compared")
    seeds, dropped = _common_seeds(finished, names)
    notes += dropped
    keys = set(finished["key"][finished["seed"].isin(seeds) | (finished["variant"] == ZERO_SHOT)])
    cells = [cell for cell, _ in records if cell.key in keys]
    frame = images_frame(study, cells, metrics=[metric], splits=["test"])
    domains, unpaired = _align(frame, names, seeds)
    for role in ("target", "source"):
        if role not in {errors.role for errors in domains.values()}:
            raise UserError(f"no image of the {role} was measured in {metric!r}")
    return Pairs(
        names=tuple(names),
        settings=_tell_apart(runs, chosen),
        seeds=tuple(seeds),
        domains=domains,
        failed=_count(runs, "failed"),
        missing=_count(runs, "missing"),
        asked=tuple(runs["variant"].cat.categories),
        notes=(*notes, *unpaired),
        costs=_mean_costs(finished),
    )


def _mean_costs(finished: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {
        str(name): {cost: mean for cost, mean in mean_costs(runs).items() if mean is not None}
        for name, runs in finished.groupby("variant", observed=True)
    }


def _tell_apart(runs: pd.DataFrame, chosen: pd.DataFrame) -> dict[str, str]:
    trials = runs.groupby("variant", observed=True)["trial"].nunique()
    shown = zip(chosen["variant"].astype(str), chosen["settings"], strict=True)
    return {name: settings for name, settings in shown if trials[name] > 1}


def _count(runs: pd.DataFrame, status: str) -> dict[str, int]:
    counts = runs.loc[runs["status"] == status, "variant"].value_counts()
    return {str(name): int(count) for name, count in counts.items() if count}


def _check_alike(records: Records) -> list[str]:
    """Refuse runs that measure different things; return notes on what merely differs."""
    finished = [run for _, run in records if run is not None and run.status == "finished"]
    conventions = sorted({run.convention for run in finished if run.convention})
    if len(conventions) > 1:
        raise UserError(
            f"runs of this study measure different things, {' and '.join(map(repr, conventions))}; "
            "errors of the one cannot be compared with errors of the other"
        )
    notes = []
    made = [run.environment for run in finished]
    commits = {environment.git_sha for environment in made if environment.git_sha}
    if len(commits) > 1:
        notes.append(f"runs are of {len(commits)} versions of the code; what lies between counts")
    if dirty := sum(environment.dirty for environment in made):
        notes.append(f"{dirty} of {len(finished)} runs are of code that was not committed")
    for name in sorted({name for environment in made for name in environment.versions}):
        known = {environment.versions.get(name) for environment in made if environment.versions}
        if len(known) > 1:
            notes.append(f"runs used {len(known)} versions of {name}")
    if len(devices := {environment.device for environment in made if environment.device}) > 1:
        notes.append(f"runs were made on different devices: {', '.join(sorted(devices))}")
    return notes


def _count_unfinished(runs: pd.DataFrame) -> list[str]:
    notes = []
    for status in ("failed", "missing"):
        if counts := _count(runs, status):
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            notes.append(f"{sum(counts.values())} of {len(runs)} runs {status}: {shown}")
    return notes


def _common_seeds(finished: pd.DataFrame, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the seeds that every variant has, and what was dropped for want of a pair."""
    trained = [name for name in names if name != ZERO_SHOT]
    of_variant = {
        name: set(finished["seed"][finished["variant"] == name].astype(int)) for name in trained
    }
    every = sorted(set().union(*of_variant.values())) if of_variant else [0]
    common = [seed for seed in every if all(seed in seeds for seeds in of_variant.values())]
    lacking = {name: sorted(set(every) - seeds) for name, seeds in of_variant.items()}
    why = "; ".join(
        f"{name} lacks {', '.join(map(str, seeds))}" for name, seeds in lacking.items() if seeds
    )
    if not common:
        raise UserError(f"no seed has a finished run of every variant ({why})")
    dropped = [str(seed) for seed in every if seed not in common]
    if not dropped:
        return common, []
    return common, [f"seed {', '.join(dropped)} dropped for all variants: {why}"]


def _align(
    frame: pd.DataFrame, names: list[str], seeds: list[int]
) -> tuple[dict[str, Errors], list[str]]:
    domains: dict[str, Errors] = {}
    notes: list[str] = []
    for domain, rows in frame.groupby("domain", sort=False, observed=True):
        images = pd.unique(rows["image"].astype(object))
        shape = (len(names), len(seeds), len(images))
        place = (
            pd.Categorical(rows["variant"].astype(object), names).codes,
            pd.Categorical(rows["seed"], seeds).codes,
            pd.Categorical(rows["image"].astype(object), images).codes,
        )
        before, after = (_spread(rows[when], place, shape, names) for when in ("before", "after"))
        scenes = np.zeros(len(images), int)
        scenes[place[2]] = rows["scene"]
        complete = ~np.isnan(after).any(axis=(0, 1)) & ~np.isnan(before).any(axis=(0, 1))
        if not complete.all():
            notes.append(
                f"{domain}: {(~complete).sum()} images dropped that not every run measured"
            )
        if not complete.any():
            raise UserError(f"domain {domain!r}: no image was measured by every run")
        before, after, scenes = before[..., complete], after[..., complete], scenes[complete]
        num_images, num_scenes = len(scenes), len(np.unique(scenes))
        if num_scenes < num_images:
            before, after = average_scenes(before, scenes), average_scenes(after, scenes)
        role = str(rows["role"].iloc[0])
        domains[str(domain)] = Errors(role, before, after, num_images, num_scenes)
    return domains, notes


def _spread(
    values: pd.Series, place: tuple[ndarray, ...], shape: tuple[int, ...], names: list[str]
) -> Float[ndarray, "v s i"]:
    spread = np.full(shape, np.nan)
    variant, seed, image = place
    if ZERO_SHOT in names:
        # Nothing was trained, so its one run stands for every seed.
        untouched = variant == names.index(ZERO_SHOT)
        spread[variant[untouched], :, image[untouched]] = values.to_numpy()[untouched, None]
        variant, seed, image = variant[~untouched], seed[~untouched], image[~untouched]
        values = values[~untouched]
    spread[variant, seed, image] = values
    return spread
