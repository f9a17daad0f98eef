"""One run: measure every domain, adapt on the target, measure again.

This is the only place where a variant meets data. The network before adaptation is measured once
for each checkpoint and split and kept; the difference to what is measured after adaptation is
forgetting on source domains and adaptation on the target, with signs from ``metrics.degradation``.
"""

import json
import resource
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dart.checkpoint_header import resolve_checkpoint
from dart.conditioning import Conditioning
from dart.data.dataset import Sample, open_domain
from dart.diagnostics import choose_steps, copy_parameters, measure_updates
from dart.errors import Stopped, UserError
from dart.measuring import CurvePoint, Measurements, summarize_domains
from dart.metrics import compare
from dart.models import DepthNet, Tuner, create_model
from dart.models.checkpoint import load_pretrained, save_adapter
from dart.models.folding import fold
from dart.provenance import describe_environment
from dart.recipe import ZERO_SHOT, Recipe
from dart.seeds import derive_generator
from dart.training.batches import Joined
from dart.training.calibration import calibrate
from dart.training.freeze import count_trainable, frozen_hash, set_trainable
from dart.training.interpolation import install_mixture, snapshot
from dart.training.loop import Step, Trainer, read_state, write_state
from dart.training.together import take_step
from dart.tricks import is_on

SAVE_EVERY = 20
"""Steps after which the state of training may be kept."""
CHECKS = 20
"""Times in a whole training that forgetting is looked at, where it may end it."""
SAVE_SECONDS = 2.0
"""Time between two states: saving one takes tens of milliseconds."""


def load_network(recipe: Recipe, device: torch.device) -> DepthNet:
    """Return the network of a recipe as it is before training, on its device."""
    checkpoint = resolve_checkpoint(recipe.protocol.pretrained)
    if recipe.variant == ZERO_SHOT:
        model = load_pretrained(checkpoint)
    else:
        model = create_model(
            recipe.variant,
            config=None,
            pretrained=checkpoint,
            generator=derive_generator(recipe.seed, "init"),
            conditioning=Conditioning(recipe.training.camera, recipe.training.embedding),
            **recipe.hyperparameters,
        )
    if is_on("folded_norms") and _has_constant_encoder(model, recipe):
        # A frozen encoder is a constant: merged batch norms and branches give the same features
        # to float32 rounding, faster. Before and after are measured through the same one.
        model.encoder = fold(model.encoder)
    layout = torch.channels_last if is_on("channels_last") else torch.contiguous_format
    return model.to(device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]


def _has_constant_encoder(model: DepthNet, recipe: Recipe) -> bool:
    if recipe.variant == ZERO_SHOT:
        return True
    tuned = any(isinstance(adapter, Tuner) for adapter in model.adapters)
    return not tuned and not recipe.training.trains_encoder


@runtime_checkable
class Rungs(Protocol):
    """Ends a run early, by raising ``Pruned``: ``dart.studies.asha.Rungs``."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps after which it is called."""
        ...

    def __call__(self, step: int, points: Sequence[CurvePoint]) -> None:
        """Judge a run by its errors after ``step`` steps."""
        ...


@dataclass
class _Training:
    """What training leaves besides the weights."""

    history: list[Step] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    updates: pd.DataFrame | None = None
    stopped: dict[str, float] = field(default_factory=dict)
    """Step and relative forgetting at which training ended early; empty where it did not."""
    uncaptured: str = ""
    """Why a GPU did not replay its steps as one graph; empty where it did, and on a CPU."""


def _adapt(
    model: DepthNet,
    recipe: Recipe,
    measurements: Measurements,
    *,
    state: "_State",
    on_step: Callable[[int, int, float], None],
    rungs: Rungs | None,
) -> Generator[Trainer, Step, _Training]:
    """Train on the target and return what was seen on the way."""
    spec, seen = recipe.training, _Training()
    set_trainable(model, spec.trainable)
    if count_trainable(model) == 0:  # the variant `none` with trainable: [adapters]
        return seen
    initial = copy_parameters(model)
    trainer = _create_trainer(model, recipe, measurements.device)
    state.restore(trainer, seen)
    watch = _Watch(trainer, measurements, seen, rungs)
    watched = len(trainer.history)
    while len(trainer.history) < spec.steps and not seen.stopped:
        try:
            step = yield trainer
            watched = count = step.step + 1
            watch(model, count)
            if count % SAVE_EVERY == 0 or count == spec.steps:
                state.save(trainer, seen)
            on_step(count, spec.steps, step.loss)
        except Stopped:  # whoever takes the steps may say so between two of them
            if len(trainer.history) > watched:  # or after one of which nobody told
                watch(model, len(trainer.history))
            state.save(trainer, seen, at_once=True)
            raise
    if trainer.average is not None:
        trainer.average.install()
    seen.history, seen.updates = trainer.history, measure_updates(initial, model)
    seen.uncaptured = "" if trainer.static is None else trainer.static.reason
    return seen


class _Watch:
    """Looks at a training on the way: for the record, for the rungs, and whether to end it."""

    def __init__(
        self,
        trainer: Trainer,
        measurements: Measurements,
        seen: _Training,
        rungs: Rungs | None,
    ) -> None:
        spec = trainer.spec
        self.trainer, self.measurements, self.seen, self.rungs = trainer, measurements, seen, rungs
        self.first = measurements.curve_before()
        seen.curve = seen.curve or list(self.first)
        self.points = choose_steps(spec.steps)
        self.checks = choose_steps(spec.steps, points=CHECKS) if spec.stop_on_forgetting else ()
        self.asked = rungs.steps if rungs is not None else ()

    def __call__(self, model: DepthNet, count: int) -> None:
        """Look after ``count`` steps, if it is time.

        Raises:
            Pruned: If the rungs raised it.
            Diverged: If a prediction is no longer finite.
        """
        if not any(count in times for times in (self.points, self.checks, self.asked)):
            return
        spec, seen = self.trainer.spec, self.seen
        with self.trainer.as_result():
            errors = self.measurements.curve_point(model, count)
        set_trainable(model, spec.trainable)
        if count in self.points:
            seen.curve.extend(errors)
        forgotten = _relative_forgetting(self.first, errors)
        if count in self.checks and forgotten > spec.stop_on_forgetting:
            seen.stopped = {"step": count, "forgetting": forgotten}
        if self.rungs is not None and count in self.asked:
            self.rungs(count, errors)


def _create_trainer(model: DepthNet, recipe: Recipe, device: torch.device) -> Trainer:
    protocol, spec = recipe.protocol, recipe.training
    data = open_domain(protocol.locate(protocol.target), "train")
    source: Sequence[Sample] = ()
    if spec.reads_source:
        source = Joined([open_domain(protocol.locate(name), "train") for name in protocol.source])
    return Trainer(model, data, spec, recipe.seed, device, source)


def _relative_forgetting(before: Sequence[CurvePoint], now: Sequence[CurvePoint]) -> float:
    """Return by what share AbsRel on source images has grown, mean over the sources.

    AbsRel whatever the study's metric is, which only decides what its table shows.
    """
    start, end = (
        {
            domain: value
            for _, domain, role, metric, value in points
            if role == "source" and metric == "abs_rel"
        }
        for points in (before, now)
    )
    return sum(end[domain] / start[domain] - 1 for domain in start) / len(start)


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

    def restore(self, trainer: Trainer, training: _Training) -> None:
        """Give the trainer the state in the file, if there is one, and what was seen so far.

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
        training.curve = [tuple(point) for point in content["curve"]]
        training.stopped = dict(content["stopped"])

    def seconds(self) -> float:
        """Return how long the run has taken, earlier parts included."""
        return self.seconds_before + time.perf_counter() - self.started

    def save(self, trainer: Trainer, training: _Training, *, at_once: bool = False) -> None:
        """Write the file, unless that was done moments ago."""
        now = time.perf_counter()
        if self.path is not None and (at_once or now - self.saved >= SAVE_SECONDS):
            content = {"key": self.key, "seconds": self.seconds(), "curve": list(training.curve)}
            seen = {"stopped": training.stopped, "trainer": trainer.state()}
            write_state(self.path, content | seen)
            self.saved = time.perf_counter()


def _interpolate(
    model: DepthNet,
    start: Mapping[str, Tensor],
    alphas: Sequence[float],
    measurements: Measurements,
) -> pd.DataFrame:
    """Return the mean errors on the way from ``start`` to the model as it is, which it stays."""
    end, tables = snapshot(model), []
    for alpha in alphas:
        install_mixture(model, start, end, alpha)
        tables.append(measurements.means(model).assign(alpha=alpha))
    install_mixture(model, start, end, 1.0)
    columns = ["alpha", "domain", "role", "split", "metric", "value"]
    return pd.concat(tables, ignore_index=True)[columns]


def _write_training(training: _Training, folder: Path) -> None:
    """Write the history of every step, the errors on the way, and how far what moved."""
    columns = [f.name for f in fields(Step)]
    steps = pd.DataFrame([asdict(step) for step in training.history], columns=columns)
    steps.to_parquet(folder / "history.parquet", index=False)
    if training.updates is not None:
        names = ["step", "domain", "role", "metric", "value"]
        curve = pd.DataFrame(training.curve, columns=names)
        curve.to_parquet(folder / "curves.parquet", index=False)
        training.updates.to_parquet(folder / "updates.parquet", index=False)


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run_recipe(recipe: Recipe, folder: Path, **options: Any) -> dict[str, Any]:
    """Do all steps of ``recipe_steps``, whose arguments it takes, and return ``result.json``."""
    run = recipe_steps(recipe, folder, **options)
    try:
        trainer = next(run)
        while True:
            trainer = run.send(take_step(trainer))
    except StopIteration as end:
        return end.value


def recipe_steps(  # noqa: PLR0913  # two of them are who looks on
    recipe: Recipe,
    folder: Path,
    *,
    results: Path,
    device: str = "cpu",
    state: Path | None = None,
    on_step: Callable[[int, int, float], None] = lambda _done, _steps, _loss: None,
    rungs: Rungs | None = None,
) -> Generator[Trainer, Step, dict[str, Any]]:
    """Train and measure one recipe, write its record into ``folder`` and return ``result.json``.

    Each step of training is left to the caller: a trainer is yielded, and the step that it was
    made to take is to be sent (or what it raised, to be thrown). So several runs can take their
    steps together.

    Args:
        folder: Where the record goes; the caller commits it.
        results: Root of all results; holds the measurements before adaptation.
        device: A torch device.
        state: Keeps the state of training every few seconds and when the run is stopped, so that
            it can go on; the caller removes it once the record is safe.
        on_step: Called with steps done, steps in all and the loss after every step.
        rungs: Is shown the errors on validation images after some steps; changes no number.

    Raises:
        Pruned: If ``rungs`` raised it.
        Diverged: If a prediction on the way is no longer finite.
        UserError: If the checkpoint, a data set or the state cannot be used.
        Stopped: If ``on_step`` raised it; the state is kept.
        RuntimeError: If a frozen parameter or buffer changed.
    """
    started, where, kept = datetime.now(UTC), torch.device(device), _State(state, recipe.key)
    untouched = recipe.variant == ZERO_SHOT
    model = load_network(recipe, where)
    calibrate(
        model,
        lambda: open_domain(recipe.protocol.locate(recipe.protocol.target), "train"),
        batch_size=recipe.training.batch_size,
        device=where,
    )
    set_trainable(model, () if untouched else recipe.training.trainable)
    trainable, frozen = count_trainable(model), frozen_hash(model)
    model.adapters_enabled = False
    measurements = Measurements(model, recipe, results=results, device=where)
    model.adapters_enabled = True
    training, start = _Training(), snapshot(model) if recipe.training.interpolate else {}
    if not untouched:
        training = yield from _adapt(
            model, recipe, measurements, state=kept, on_step=on_step, rungs=rungs
        )
    if frozen_hash(model) != frozen:
        raise RuntimeError("a frozen parameter or buffer changed during training")
    errors, by_angle = measurements.errors(None if untouched else model)
    domains = summarize_domains(errors, split="test")
    validation = summarize_domains(errors, split="val")
    measurements.draw(model, folder / "predictions.png")
    if not untouched:
        recorded = {"recipe": recipe.model_dump_json(), "key": recipe.key}
        save_adapter(model, folder / "adapter.safetensors", metadata=recorded)
        if maps := measurements.adapter_maps(model):
            np.savez_compressed(folder / "adapter_maps.npz", **maps)  # pyright: ignore[reportArgumentType]
        if start:
            line = _interpolate(model, start, recipe.training.interpolate, measurements)
            line.to_parquet(folder / "interpolation.parquet", index=False)
    result = {
        "key": recipe.key,
        "status": "finished",
        "variant": recipe.variant,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "metric": recipe.protocol.metric,
        "convention": "distance along the ray",
        "trainable_parameters": trainable,
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_image": measurements.count_flops(model),
        "steps": len(training.history),
        **({"stopped": training.stopped} if training.stopped else {}),
        **({"uncaptured": training.uncaptured} if training.uncaptured else {}),
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
    by_angle.to_parquet(folder / "angles.parquet", index=False)
    _write_training(training, folder)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result
