"""A results folder as a study leaves it, with numbers in closed form and no training.

Every image of a run errs equally, so that the mean over images is the number asked for.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import image
from safetensors.numpy import save_file

IMAGES = 3
ROLES = {"plain": "source", "wide": "target", "other": "held_out"}
BEFORE = {
    "abs_rel": {"plain": 0.10, "wide": 0.40, "other": 0.30},
    "delta1": {"plain": 0.90, "wide": 0.50, "other": 0.60},
}


@dataclass(frozen=True)
class FakeRun:
    """One cell of a study; ``after`` is metric -> domain -> mean."""

    variant: str
    seed: int = 0
    trial: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    validation: float | None = None
    """``abs_rel`` of the target on the validation split; as on test unless given."""
    status: str = "finished"
    trainable_parameters: int = 1000

    @property
    def key(self) -> str:
        identity = f"{self.variant} {self.seed} {self.trial} {dict(self.hyperparameters)}"
        return hashlib.sha256(identity.encode()).hexdigest()


def adapted(variant: str, *, gain: float, loss: float, **fields: Any) -> FakeRun:
    """Return a run whose target's abs_rel falls by ``gain`` and the source's rises by ``loss``."""
    before = BEFORE["abs_rel"]
    after = {"plain": before["plain"] + loss, "wide": before["wide"] - gain, "other": 0.25}
    delta1 = {"plain": 0.90 - loss, "wide": 0.50 + gain, "other": 0.70}
    return FakeRun(variant, after={"abs_rel": after, "delta1": delta1}, **fields)


def three_variants(*, loss_per_seed: float = 1e-3) -> list[FakeRun]:
    """The untouched network and three variants with three seeds each."""
    return [untouched()] + [
        adapted(
            variant, gain=0.1 + i / 50 + seed / 1000, loss=0.02 + seed * loss_per_seed, seed=seed
        )
        for i, variant in enumerate(("daa", "gated", "other"))
        for seed in range(3)
    ]


def untouched(**fields: Any) -> FakeRun:
    """Return the row that every study has: nothing trained, nothing changed."""
    return FakeRun("zero_shot", after=BEFORE, trainable_parameters=0, **fields)


def write_study(
    results: Path,
    runs: Iterable[FakeRun],
    *,
    name: str = "toy",
    details: bool = False,
    **about: str,
) -> Path:
    """Write a study and its runs and return the study's folder; a ``missing`` run has no folder.

    ``about`` is the study's baseline, metric or design, unless daa, abs_rel and ofat.
    With ``details`` trained runs also keep errors by angle, curves, updates, a picture, and the
    maps and the gate (open by half) of an adapter.
    """
    runs = list(runs)
    folder = results / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        {
            "key": run.key,
            "variant": run.variant,
            "hyperparameters": dict(run.hyperparameters),
            "seed": run.seed,
            "trial": run.trial,
        }
        for run in runs
    ]
    head = {
        "study": name,
        "question": "?",
        "baseline": "daa",
        "metric": "abs_rel",
        "design": "ofat",
        **about,
    }
    (folder / "cells.json").write_text(json.dumps({**head, "code": {}, "cells": cells}))
    for run in runs:
        if run.status != "missing":
            _write_run(results / "runs" / run.key[:16], run)
        if details and run.status == "finished" and run.trainable_parameters:
            _write_details(results / "runs" / run.key[:16], run)
    return folder


def _means(run: FakeRun, *, target: float | None = None) -> dict[str, Any]:
    domains = {
        name: {
            "role": role,
            "before": {metric: values[name] for metric, values in BEFORE.items()},
            "after": {metric: values[name] for metric, values in run.after.items()},
        }
        for name, role in ROLES.items()
    }
    if target is not None:
        domains["wide"]["after"]["abs_rel"] = target
    return domains


def _write_run(folder: Path, run: FakeRun) -> None:
    folder.mkdir(parents=True)
    result = {
        "key": run.key,
        "status": run.status,
        "variant": run.variant,
        "hyperparameters": dict(run.hyperparameters),
        "seed": run.seed,
    }
    if run.status == "finished":
        validation = _means(run, target=run.validation)
        del validation["other"]
        result |= {
            "metric": "abs_rel",
            "trainable_parameters": run.trainable_parameters,
            "domains": _means(run),
            "validation_domains": validation,
            "wall_seconds": 12.5,
            "peak_memory_mib": 300.0,
        }
        _images(run).to_parquet(folder / "per_image.parquet", index=False)
    else:
        result["reason"] = "the loss is nan at step 3"
    (folder / "result.json").write_text(json.dumps(result))


def _images(run: FakeRun) -> pd.DataFrame:
    rows = [
        {
            "domain": domain,
            "role": role,
            "split": "test",
            "image": f"{domain}-{i}",
            "scene": i,
            "metric": metric,
            "before": BEFORE[metric][domain],
            "after": values[domain],
        }
        for domain, role in ROLES.items()
        for i in range(IMAGES)
        for metric, values in run.after.items()
    ]
    return pd.DataFrame(rows)


def _write_details(folder: Path, run: FakeRun) -> None:
    images = _images(run)
    rings = [images.assign(ring=ring, pixels=100) for ring in (0, 10, 20)]
    pd.concat(rings).to_parquet(folder / "angles.parquet", index=False)
    curves = [
        (step, domain, ROLES[domain], metric, before + (values[domain] - before) * step / 10)
        for step in (0, 5, 10)
        for metric, values in run.after.items()
        for domain, before in BEFORE[metric].items()
        if ROLES[domain] != "held_out"
    ]
    names = ["step", "domain", "role", "metric", "value"]
    pd.DataFrame(curves, columns=names).to_parquet(folder / "curves.parquet", index=False)
    updates = [
        ("adapters.0", "project.weight", 16, 0.0, 1e-3, float("nan")),
        ("adapters.0", "queries.a", 16, 1e-2, 1e-3, 0.1),
        ("decoder", "out.weight", 16, 1e-1, 1e-4, 1e-3),
    ]
    names = ["part", "parameter", "count", "initial", "update", "relative"]
    pd.DataFrame(updates, columns=names).to_parquet(folder / "updates.parquet", index=False)
    rng = np.random.default_rng(run.seed)
    maps = {
        f"{domain}/stage{stage}/{name}": rng.random((4 >> stage, 8 >> stage))
        for domain in ROLES
        for stage in (0, 1)
        for name in ("residual", "attention", "gate")
    }
    images = {f"{domain}/image": np.full((16, 32, 3), 128, np.uint8) for domain in ROLES}
    np.savez_compressed(folder / "adapter_maps.npz", **images, **maps)  # pyright: ignore[reportArgumentType]
    save_file({"adapters.0.mix.logit": np.zeros((2, 1, 1))}, folder / "adapter.safetensors")
    image.imsave(folder / "predictions.png", rng.random((20, 60, 3)))
