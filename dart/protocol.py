"""One run: measure every domain, adapt on the target, measure again.

This is the only place where a variant meets data. The network before adaptation is measured once
for each checkpoint and split and kept; the difference to what is measured after adaptation is
forgetting on source domains and adaptation on the target, with signs from ``metrics.degradation``.
"""

import json
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch.utils.data import Dataset

from dart.checkpoint_header import resolve_checkpoint
from dart.data.dataset import Sample, collate, open_domain
from dart.metrics import compare, measure_image
from dart.models import DepthNet, create_model
from dart.models.checkpoint import load_pretrained, save_adapter
from dart.models.folding import fold
from dart.pictures import Panel, draw_panels
from dart.provenance import describe_environment
from dart.recipe import ZERO_SHOT, Recipe, canonical_hash
from dart.seeds import derive_generator
from dart.training.freeze import count_trainable, frozen_hash, set_trainable
from dart.training.loop import Step, Trainer

EVALUATION_BATCH = 16
SAVE_EVERY = 20
PICTURES = {"target": 3, "source": 2, "held_out": 1}


@torch.inference_mode()
def predict(
    model: DepthNet, data: Dataset[Sample] | Sequence[Sample], *, device: torch.device
) -> list[Float[ndarray, "h w"]]:
    """Return the predicted distance in metres of every sample, in order."""
    model.eval()
    maps: list[Float[ndarray, "h w"]] = []
    for start in range(0, len(data), EVALUATION_BATCH):  # type: ignore[arg-type]
        stop = min(start + EVALUATION_BATCH, len(data))  # type: ignore[arg-type]
        batch = collate([data[i] for i in range(start, stop)]).to(device)
        maps.extend(model(batch.image, batch.cameras).distance.float().cpu().numpy())
    return maps


def measure(
    data: Dataset[Sample] | Sequence[Sample], maps: Sequence[Float[ndarray, "h w"]]
) -> pd.DataFrame:
    """Return one row an image and metric: ``image``, ``scene``, ``metric``, ``value``."""
    rows = []
    for index, distance in enumerate(maps):
        sample = data[index]
        for metric, value in measure_image(
            distance, sample.distance.numpy(), sample.valid.numpy()
        ).items():
            rows.append((sample.key, sample.scene, metric, value))
    return pd.DataFrame(rows, columns=["image", "scene", "metric", "value"])


@dataclass(frozen=True)
class Split:
    """One data set of a protocol."""

    domain: str
    role: str
    name: str

    @property
    def label(self) -> str:
        """``domain/split``, as in ``Recipe.data``."""
        return f"{self.domain}/{self.name}"


def list_splits(roles: Mapping[str, str]) -> list[Split]:
    """Return what is measured: ``test`` of every domain, ``val`` where choices are made."""
    splits = [Split(domain, role, "test") for domain, role in roles.items()]
    return splits + [Split(d, role, "val") for d, role in roles.items() if role != "held_out"]


def _atomic_parquet(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_parquet(partial, index=False)
    partial.replace(path)


def measure_before(
    model: DepthNet, split: Split, recipe: Recipe, *, results: Path, device: torch.device
) -> pd.DataFrame:
    """Return the pretrained network's errors on one split, from ``results/before`` if known."""
    identity = {
        "pretrained": recipe.pretrained_sha256,
        "data": recipe.data[split.label],
        "semantics": recipe.semantics,
        "torch": torch.__version__,
        "device": device.type,
    }
    path = results / "before" / f"{split.domain}-{split.name}-{canonical_hash(identity)[:16]}.parquet"
    if not path.exists():
        data = open_domain(split.domain, split.name)
        _atomic_parquet(measure(data, predict(model, data, device=device)), path)
    return pd.read_parquet(path)


def _load(recipe: Recipe, device: torch.device) -> DepthNet:
    checkpoint = resolve_checkpoint(recipe.protocol.pretrained)
    if recipe.variant == ZERO_SHOT:
        model = load_pretrained(checkpoint)
    else:
        model = create_model(
            recipe.variant,
            pretrained=checkpoint,
            generator=derive_generator(recipe.seed, "init"),
            **recipe.hyperparameters,
        )
    if "encoder" not in recipe.training.trainable or recipe.variant == ZERO_SHOT:
        # A frozen encoder is a constant: merged batch norms and branches give the same features
        # to float32 rounding, faster. Before and after are measured through the same one.
        model.encoder = fold(model.encoder)
    return model.to(device)


def summarize_domains(errors: pd.DataFrame, *, split: str) -> dict[str, dict[str, Any]]:
    """Return domain -> role and mean over images of every metric, before and after."""
    chosen = errors[errors["split"] == split]
    means = chosen.groupby(["domain", "role", "metric"], sort=False)[["before", "after"]].mean()
    domains: dict[str, dict[str, Any]] = {}
    for (domain, role, metric), row in means.iterrows():  # type: ignore[misc]
        entry = domains.setdefault(domain, {"role": role, "before": {}, "after": {}})
        entry["before"][metric] = float(row["before"])
        entry["after"][metric] = float(row["after"])
    return domains


def _adapt(
    model: DepthNet,
    recipe: Recipe,
    *,
    device: torch.device,
    state: Path | None,
    on_step: Callable[[Step], None],
) -> tuple[list[Step], str]:
    """Train on the target and return the history and the hash of all that was frozen.

    Args:
        state: File that the training state is kept in, and gone on from if it exists.

    Raises:
        RuntimeError: If a frozen parameter or buffer changed.
    """
    set_trainable(model, recipe.training.trainable)
    frozen = frozen_hash(model)
    if count_trainable(model) == 0:
        return [], frozen
    data = open_domain(recipe.protocol.target, "train")
    trainer = Trainer(model, data, recipe.training, recipe.seed, device)
    if state is not None and state.exists():
        trainer.load(read_state(state))

    def after_step(step: Step) -> None:
        if state is not None and (step.step + 1) % SAVE_EVERY == 0:
            trainer.save(state)
        on_step(step)

    history = trainer.run(on_step=after_step)
    if frozen_hash(model) != frozen:
        raise RuntimeError("a frozen parameter or buffer changed during training")
    return history, frozen


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    results: Path,
    device: str = "cpu",
    state: Path | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> dict[str, Any]:
    """Train and measure one recipe, write its record into ``folder`` and return ``result.json``.

    Args:
        folder: Where the record goes; the caller commits it.
        results: Root of all results; holds the measurements before adaptation.
        device: A torch device.
        state: Keeps the state of training every few steps, so that an interrupted run can go on.
        on_step: Called with steps done, steps in all and the loss after every step.

    Raises:
        Diverged: If the loss is no longer finite.
        UserError: If the checkpoint or a data set cannot be used.
    """
    started, clock, where = datetime.now(UTC), time.perf_counter(), torch.device(device)
    model = _load(recipe, where)
    splits = list_splits(recipe.protocol.roles)
    data = {split: open_domain(split.domain, split.name) for split in splits}
    model.adapters_enabled = False
    before = {s: measure_before(model, s, recipe, results=results, device=where) for s in splits}
    shown = {s: [data[s][i] for i in range(PICTURES[s.role])] for s in splits if s.name == "test"}
    maps_before = {s: predict(model, samples, device=where) for s, samples in shown.items()}
    model.adapters_enabled = True

    history: list[Step] = []
    if recipe.variant == ZERO_SHOT:
        model.requires_grad_(False)
        frozen, trainable = frozen_hash(model), 0
        maps = None
    else:
        total = recipe.training.steps
        history, frozen = _adapt(
            model, recipe, device=where, state=state, on_step=lambda s: on_step(s.step + 1, total, s.loss)
        )
        trainable = count_trainable(model)
        maps = {s: predict(model, data[s], device=where) for s in splits}  # type: ignore[arg-type]

    tables = []
    for split in splits:
        table = before[split].rename(columns={"value": "before"})
        table["after"] = (
            table["before"] if maps is None else measure(data[split], maps[split])["value"]
        )
        tables.append(table.assign(domain=split.domain, role=split.role, split=split.name))
    errors = pd.concat(tables, ignore_index=True)
    domains = summarize_domains(errors, split="test")
    peak = (
        torch.cuda.max_memory_allocated(where) / 2**20
        if where.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    )
    result = {
        "key": recipe.key,
        "status": "finished",
        "variant": recipe.variant,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "metric": recipe.protocol.metric,
        "convention": "distance along the ray",
        "trainable_parameters": trainable,
        "domains": domains,
        **compare(domains, recipe.protocol.metric),
        "validation": compare(summarize_domains(errors, split="val"), recipe.protocol.metric),
        "validation_domains": summarize_domains(errors, split="val"),
        "frozen_hash_before": frozen,
        "frozen_hash_after": frozen_hash(model),
        "peak_memory_mib": round(peak, 1),
        "environment": describe_environment(device=str(where), threads=torch.get_num_threads()),
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "wall_seconds": round(time.perf_counter() - clock, 3),
    }
    _write_record(folder, recipe=recipe, result=result, errors=errors, history=history)
    if recipe.variant != ZERO_SHOT:
        save_adapter(model, folder / "adapter.safetensors", metadata={"recipe": recipe.model_dump_json()})
    panels = [
        Panel(
            name=f"{split.role}\n{sample.key}",
            image=sample.image.permute(1, 2, 0).numpy(),
            true=sample.distance.numpy(),
            valid=sample.valid.numpy(),
            before=maps_before[split][i],
            after=(maps_before if maps is None else maps)[split][i],
        )
        for split, samples in shown.items()
        for i, sample in enumerate(samples)
    ]
    draw_panels(panels, folder / "predictions.png")
    return result


def _write_record(
    folder: Path,
    *,
    recipe: Recipe,
    result: Mapping[str, Any],
    errors: pd.DataFrame,
    history: Sequence[Step],
) -> None:
    columns = ["domain", "role", "split", "image", "scene", "metric", "before", "after"]
    errors[columns].to_parquet(folder / "per_image.parquet", index=False)
    fields = list(Step.__dataclass_fields__)
    frame = pd.DataFrame([vars(step) for step in history], columns=fields)
    frame.to_parquet(folder / "history.parquet", index=False)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    text = json.dumps(result, indent=1, allow_nan=False)
    (folder / "result.json").write_text(text)


