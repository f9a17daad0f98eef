"""A results folder whose runs err by chance around planted effects, and no training.

Every run of a variant has its own luck, every image its own hardness, and each variant its planted
gain on the target and loss on the sources.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROLES = {"plain": "source", "street": "source", "wide": "target", "other": "held_out"}
BEFORE = {"plain": 0.10, "street": 0.20, "wide": 0.40, "other": 0.30}
AFTER = {"plain": 0.15, "street": 0.25, "wide": 0.20, "other": 0.25}
IMAGES = {"plain": 30, "street": 20, "wide": 40, "other": 10}
SEED, IMAGE, REST = 0.004, 0.02, 0.008
"""Standard deviations: of a training, of an image, of one on the other."""


@dataclass(frozen=True)
class Plan:
    """A study to write."""

    effects: Mapping[str, tuple[float, float]]
    """Variant -> how much more it gains on the target and loses on the sources; first: baseline."""
    seeds: int = 5
    metric: str = "abs_rel"
    comparison: Mapping[str, float] | None = None
    scenes: int = 0
    """Images of a domain show so many scenes in turn; each its own unless given."""
    scale: float = 1.0
    """Factor on every error."""
    status: Mapping[tuple[str, int], str] | None = None
    """Variant and seed -> ``failed`` or ``missing``."""
    record: Mapping[tuple[str, int], Mapping[str, Any]] | None = None
    """Variant and seed -> what its record says besides."""


def write_plan(results: Path, plan: Plan, *, name: str = "toy", order: Sequence[str] = ()) -> Path:
    """Write the study and its runs and return its folder; ``order`` lists the variants anew."""
    folder = results / "studies" / name
    folder.mkdir(parents=True)
    cells = [_cell("zero_shot", 0), *(_cell(v, s) for v in plan.effects for s in range(plan.seeds))]
    by_place = {variant: i for i, variant in enumerate(["zero_shot", *(order or plan.effects)])}
    head: dict[str, Any] = {
        "study": name,
        "metric": plan.metric,
        "baseline": next(iter(plan.effects)),
    }
    if plan.comparison is not None:
        head["comparison"] = dict(plan.comparison)
    listed = sorted(cells, key=lambda cell: by_place[cell["variant"]])
    (folder / "cells.json").write_text(json.dumps({**head, "cells": listed}))
    for cell in cells:
        status = (plan.status or {}).get((cell["variant"], cell["seed"]), "finished")
        if status != "missing":
            _write_run(results / "runs" / cell["key"][:16], cell, plan, status)
    return folder


def _cell(variant: str, seed: int) -> dict[str, Any]:
    key = hashlib.sha256(f"{variant} {seed}".encode()).hexdigest()
    return {"key": key, "variant": variant, "seed": seed, "trial": 0}


def _errors(variant: str, seed: int, plan: Plan) -> pd.DataFrame:
    frames = []
    # A variant's luck hangs on its place, not its name, so that a renamed one errs the same.
    place = [*plan.effects, "zero_shot"].index(variant)
    gain, loss = plan.effects.get(variant, (0.0, 0.0))
    for number, (domain, role) in enumerate(ROLES.items()):
        count = IMAGES[domain]
        hardness = IMAGE * np.random.default_rng([1, number]).standard_normal(count)
        luck = np.random.default_rng([2, number, place, seed])
        before = BEFORE[domain] + hardness
        after = AFTER[domain] + hardness + SEED * luck.standard_normal()
        after = after + REST * luck.standard_normal(count)
        after += loss if role == "source" else -gain
        after = before if variant == "zero_shot" else after
        sign, start = (-1, 1.0) if plan.metric.startswith("delta") else (1, 0.0)
        frames.append(
            pd.DataFrame(
                {
                    "domain": domain,
                    "role": role,
                    "split": "test",
                    "image": [f"{domain}/{i}" for i in range(count)],
                    "scene": [i % plan.scenes if plan.scenes else i for i in range(count)],
                    "metric": plan.metric,
                    "before": (start + sign * before) * plan.scale,
                    "after": (start + sign * after) * plan.scale,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _write_run(folder: Path, cell: Mapping[str, Any], plan: Plan, status: str) -> None:
    folder.mkdir(parents=True)
    record: dict[str, Any] = {"key": cell["key"], "status": status}
    if status == "finished":
        errors = _errors(cell["variant"], cell["seed"], plan)
        errors.to_parquet(folder / "per_image.parquet", index=False)
        means = errors.groupby("domain")[["before", "after"]].mean().to_dict("index")
        record["domains"] = {
            domain: {
                "role": role,
                "before": {plan.metric: means[domain]["before"]},
                "after": {plan.metric: means[domain]["after"]},
            }
            for domain, role in ROLES.items()
        }
    record |= (plan.record or {}).get((cell["variant"], cell["seed"]), {})
    (folder / "result.json").write_text(json.dumps(record))
