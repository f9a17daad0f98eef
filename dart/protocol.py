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
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch.utils.data import Dataset

from dart.checkpoint_header import resolve_checkpoint
from dart.data.dataset import Sample, collate, open_domain
from dart.errors import Stopped, UserError
from dart.metrics import compare, measure_image
from dart.models import DepthNet, create_model
from dart.models.checkpoint import load_pretrained, save_adapter
from dart.models.folding import fold
from dart.pictures import Panel, draw_panels
from dart.provenance import describe_environment
from dart.recipe import ZERO_SHOT, Recipe, canonical_hash
from dart.seeds import derive_generator
from dart.training.freeze import count_trainable, frozen_hash, set_trainable
from dart.training.loop import Step, Trainer, read_state, write_state

EVALUATION_BATCH = 16
SAVE_EVERY = 20
"""Steps after which the state of training may be kept."""
SAVE_SECONDS = 2.0
"""Time between two states: saving one takes tens of milliseconds."""
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
    path = (
        results / "before" / f"{split.domain}-{split.name}-{canonical_hash(identity)[:16]}.parquet"
    )
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):  # absent, or damaged: it can be measured again
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
            config=None,
            pretrained=checkpoint,
            generator=derive_generator(recipe.seed, "init"),
            **recipe.hyperparameters,
        )
    if "encoder" not in recipe.training.trainable or recipe.variant == ZERO_SHOT:
        # A frozen encoder is a constant: merged batch norms and branches give the same features
        # to float32 rounding, faster. Before and after are measured through the same one.
        model.encoder = fold(model.encoder)
    return model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


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
    state: "_State",
    on_step: Callable[[int, int, float], None],
) -> list[Step]:
    """Train on the target and return the history."""
    set_trainable(model, recipe.training.trainable)
    if count_trainable(model) == 0:  # the variant `none` with trainable: [adapters]
        return []
    data = open_domain(recipe.protocol.target, "train")
    trainer = Trainer(model, data, recipe.training, recipe.seed, device)
    state.restore(trainer)

    def after_step(step: Step) -> None:
        done = step.step + 1
        if done % SAVE_EVERY == 0 or done == recipe.training.steps:
            state.save(trainer)
        try:
            on_step(done, recipe.training.steps, step.loss)
        except Stopped:
            state.save(trainer, at_once=True)
            raise

    return trainer.run(on_step=after_step)


class _State:
    """The training state of one recipe in a file: an interrupted run goes on from there.

    Args:
        path: The file; nothing is kept without one.
        key: The recipe's.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path = path
        self.key = key
        self.seconds_before = 0.0
        self.started = self.saved = time.perf_counter()

    def restore(self, trainer: Trainer) -> None:
        """Give the trainer the state in the file, if there is one.

        Raises:
            UserError: It is damaged, or of another recipe.
        """
        if self.path is None or not self.path.exists():
            return
        content = read_state(self.path)
        if content.get("key") != self.key:
            raise UserError(
                f"{self.path} belongs to another recipe; give the options it began with"
            )
        trainer.load(content["trainer"])
        self.seconds_before = float(content.get("seconds", 0.0))

    def seconds(self) -> float:
        """Return how long the run has taken, earlier parts included."""
        return self.seconds_before + time.perf_counter() - self.started

    def save(self, trainer: Trainer, *, at_once: bool = False) -> None:
        """Write the file, unless that was done moments ago."""
        now = time.perf_counter()
        if self.path is not None and (at_once or now - self.saved >= SAVE_SECONDS):
            content = {"key": self.key, "seconds": self.seconds(), "trainer": trainer.state()}
            write_state(self.path, content)
            self.saved = time.perf_counter()


class _Measurements:
    """Every split of a protocol: its data, the errors before, and the maps of what is pictured."""

    def __init__(
        self, model: DepthNet, recipe: Recipe, *, results: Path, device: torch.device
    ) -> None:
        self.device = device
        self.data = {
            split: open_domain(split.domain, split.name)
            for split in list_splits(recipe.protocol.roles)
        }
        self.before = {
            split: measure_before(model, split, recipe, results=results, device=device)
            for split in self.data
        }
        self.pictured = {
            split: [data[i] for i in range(min(PICTURES[split.role], len(data)))]
            for split, data in self.data.items()
            if split.name == "test"
        }
        self.maps_before = self.predict_pictured(model)

    def predict_pictured(self, model: DepthNet) -> dict[Split, list[Float[ndarray, "h w"]]]:
        """Return the maps of the frames that are shown."""
        return {s: predict(model, shown, device=self.device) for s, shown in self.pictured.items()}

    def errors(self, model: DepthNet | None) -> pd.DataFrame:
        """Return one row an image and metric, before and after; None: nothing was changed."""
        tables = []
        for split, data in self.data.items():
            table = self.before[split].rename(columns={"value": "before"})
            if model is None:
                table["after"] = table["before"]
            else:
                table["after"] = measure(data, predict(model, data, device=self.device))["value"]
            tables.append(table.assign(domain=split.domain, role=split.role, split=split.name))
        columns = ["domain", "role", "split", "image", "scene", "metric", "before", "after"]
        return pd.concat(tables, ignore_index=True)[columns]

    def draw(self, model: DepthNet, path: Path) -> None:
        """Write the sheet of predictions before and after."""
        after = self.predict_pictured(model)
        panels = [
            Panel(
                name="\n".join((split.role, split.domain, sample.key.rsplit("/", 1)[-1])),
                image=sample.image.permute(1, 2, 0).numpy(),
                true=sample.distance.numpy(),
                valid=sample.valid.numpy(),
                before=self.maps_before[split][index],
                after=after[split][index],
            )
            for split, samples in self.pictured.items()
            for index, sample in enumerate(samples)
        ]
        draw_panels(panels, path)


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    results: Path,
    device: str = "cpu",
    state: Path | None = None,
    on_step: Callable[[int, int, float], None] = lambda _done, _steps, _loss: None,
) -> dict[str, Any]:
    """Train and measure one recipe, write its record into ``folder`` and return ``result.json``.

    Args:
        folder: Where the record goes; the caller commits it.
        results: Root of all results; holds the measurements before adaptation.
        device: A torch device.
        state: Keeps the state of training every few seconds and when the run is stopped, so that
            it can go on; the caller removes it once the record is safe.
        on_step: Called with steps done, steps in all and the loss after every step.

    Raises:
        Diverged: If the loss is no longer finite.
        UserError: If the checkpoint, a data set or the state cannot be used.
        Stopped: If ``on_step`` raised it; the state is kept.
        RuntimeError: If a frozen parameter or buffer changed.
    """
    started, where, kept = datetime.now(UTC), torch.device(device), _State(state, recipe.key)
    untouched = recipe.variant == ZERO_SHOT
    model = _load(recipe, where)
    set_trainable(model, () if untouched else recipe.training.trainable)
    trainable, frozen = count_trainable(model), frozen_hash(model)
    model.adapters_enabled = False
    measurements = _Measurements(model, recipe, results=results, device=where)
    model.adapters_enabled = True
    history = [] if untouched else _adapt(model, recipe, device=where, state=kept, on_step=on_step)
    if frozen_hash(model) != frozen:
        raise RuntimeError("a frozen parameter or buffer changed during training")
    errors = measurements.errors(None if untouched else model)
    domains = summarize_domains(errors, split="test")
    validation = summarize_domains(errors, split="val")
    measurements.draw(model, folder / "predictions.png")
    if not untouched:
        recorded = {"recipe": recipe.model_dump_json(), "key": recipe.key}
        save_adapter(model, folder / "adapter.safetensors", metadata=recorded)
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
        "validation": compare(validation, recipe.protocol.metric),
        "validation_domains": validation,
        "frozen_hash_before": frozen,
        "frozen_hash_after": frozen_hash(model),
        "peak_memory_mib": round(_peak_memory(where), 1),
        "environment": describe_environment(device=str(where), threads=torch.get_num_threads()),
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "wall_seconds": round(kept.seconds(), 3),
    }
    errors.to_parquet(folder / "per_image.parquet", index=False)
    steps = pd.DataFrame([asdict(step) for step in history], columns=[f.name for f in fields(Step)])
    steps.to_parquet(folder / "history.parquet", index=False)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result
