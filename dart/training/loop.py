"""The training loop: sixty lines that every variant goes through."""

import io
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.data.dataset import Batch, Sample
from dart.errors import UserError
from dart.models import DepthNet
from dart.recipe import TrainingSpec
from dart.training.averaging import Average
from dart.training.batches import Augmentation, Batches
from dart.training.freeze import PARTS, finest_group
from dart.training.loss import LOSSES
from dart.training.precision import autocast
from dart.training.prefix import Prefix
from dart.training.regularisers import Regulariser
from dart.training.resident import Resident, is_small
from dart.training.schedule import first_steps, learning_rate_factor
from dart.tricks import is_on


def read_state(path: Path) -> dict[str, Any]:
    """Return a training state from disk, without running any code that it may hold.

    Raises:
        UserError: If the file is not a whole training state.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole training state: {reason}") from error


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a training state; the file is whole or absent.

    Raises:
        OSError: If it cannot be written; torch's own writer does not say why.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@runtime_checkable
class HasDistance(Protocol):
    """What a network answers: ``dart.models.Prediction``."""

    @property
    def distance(self) -> Tensor:
        """Metres along the ray, (b, h, w)."""
        ...


class Diverged(ValueError):
    """The loss or the gradient is no longer a finite number; the run has failed."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


def create_optimizer(model: nn.Module, spec: TrainingSpec) -> torch.optim.AdamW:
    """Return AdamW over what requires a gradient: a rate for each group, decay on matrices only.

    Where several groups of ``learning_rate_factors`` hold a parameter, the finest decides.
    """
    factors = spec.learning_rate_factors
    finest = finest_group(model, tuple(factors), where="learning_rate_factors")
    members: dict[tuple[str, str, bool], list[nn.Parameter]] = {}
    for part in PARTS:
        for name, parameter in model.get_submodule(part).named_parameters(prefix=part):
            if parameter.requires_grad:
                place = (part, finest.get(name, ""), parameter.ndim <= 1)
                members.setdefault(place, []).append(parameter)
    groups = [
        {
            "params": listed,
            "peak": spec.learning_rate * (factors[group] if group else 1.0),  # pyright: ignore[reportArgumentType]
            "weight_decay": 0.0 if is_vector else spec.weight_decay,
        }
        for (_, group, is_vector), listed in members.items()
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, eps=spec.adam_eps, fused=True)


@dataclass
class Trainer:
    """Trains what requires a gradient in ``model``; its state is small and can be saved.

    Args:
        model: Maps images and cameras to a prediction with ``distance`` in metres.
        data: Training samples.
        spec: Steps, batch size, rates, loss and augmentation.
        seed: Order and augmentation follow from it.
        device: Where the model lies.
        source: Training samples of the source, where the spec reads them.

    Raises:
        UserError: The spec names a group that matches nothing, or source images are missing.
    """

    model: nn.Module
    data: Sequence[Sample]
    spec: TrainingSpec
    seed: int
    device: torch.device
    source: Sequence[Sample] = ()

    def __post_init__(self) -> None:
        spec = self.spec
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = create_optimizer(self.model, spec)
        self.begins = first_steps(self.model, spec)
        self.history: list[Step] = []
        # With changed colours or lenses no picture comes twice, and the host's tables change it.
        comes_again = not (spec.colour or spec.virtual_lenses)
        if self.device.type == "cuda" and comes_again and is_on("resident"):
            self.data, self.source = (
                Resident(data, self.device) if is_small(data) else data
                for data in (self.data, self.source)
            )
        self.batches = Batches(
            self.data,
            spec.batch_size,
            Augmentation(spec.flip, spec.colour, spec.virtual_lenses),
            self.seed,
            self.source,
            spec.replayed_images,
        )
        self.regulariser = Regulariser(self.model, spec, source=self.source, device=self.device)
        self.average = Average(self.model, spec.ema) if spec.ema else None
        self.failure: Exception | None = None
        """What kept its weights from moving in a step of several trainings."""
        self.static: Any = None
        """How its steps are taken on a GPU: a ``dart.training.captured.StaticStep``."""
        self.prefix: Prefix | None = None
        if isinstance(self.model, DepthNet) and comes_again and is_on("kept_maps"):
            self.prefix = Prefix(self.model, spec.precision)

    def draw(self, step: int | None = None) -> Batch:
        """Return the batch of a step, the next one unless given, on the device."""
        return self.batches.draw(len(self.history) if step is None else step).to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what the network runs under: the spec's precision."""
        return autocast(self.device, self.spec.precision)

    def predict(self, batch: Batch) -> HasDistance:
        """Return what the network says about a batch."""
        with self.autocast():
            known = self.know(batch)
            if not known:
                return self.model(batch.image, batch.cameras)
            return self.model(batch.image, batch.cameras, known=known)

    def know(self, batch: Batch) -> list[Tensor]:
        """Return the maps of first stages that need not be computed again."""
        return [] if self.prefix is None else self.prefix.of(batch)

    def loss(self, batch: Batch, prediction: HasDistance) -> Float[Tensor, ""]:
        """Return the loss of one batch, already on the device."""
        distance = prediction.distance.float()
        loss = LOSSES[self.spec.loss](distance, batch.distance, batch.valid)
        penalty = self.regulariser.penalty(batch, distance)
        return loss if penalty is None else loss + penalty

    def take_step(self) -> Step:
        """Do the next optimiser step.

        Raises:
            Diverged: If the loss or the gradient is not finite; the weights stay as they were.
        """
        batch = self.draw()
        self.set_rates()
        self.optimizer.zero_grad()
        loss = self.loss(batch, self.predict(batch))
        loss.backward()
        return self.record(self.move(loss).tolist())

    def set_rates(self) -> None:
        """Set the learning rates of the next step."""
        factor = self._rate_factor()
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["peak"] * factor)
            else:
                group["lr"] = group["peak"] * factor

    def _rate_factor(self) -> float:
        spec = self.spec
        return learning_rate_factor(
            len(self.history), spec.steps, schedule=spec.schedule, warm_up=spec.warm_up
        )

    def move(self, loss: Float[Tensor, ""]) -> Float[Tensor, " 2"]:
        """Move the weights along the gradients of ``loss``, which stand in them.

        Nothing is read on the host, so that a GPU need not wait. Where a number is not finite the
        weights and the optimiser stay as they are.

        Returns:
            The loss and the norm of its gradient.
        """
        for name, begin in self.begins.items():
            if len(self.history) < begin:
                self.trained[name].grad = None  # AdamW passes over it, its decay too
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.spec.gradient_clip)
        told = torch.stack([loss.detach().double(), norm.double()])
        # The fused step reads this, which mixed precision made for it, and then does nothing.
        self.optimizer.found_inf = (~told.isfinite().all()).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        return told

    def record(self, told: Sequence[float]) -> Step:
        """Take a step's loss and gradient norm into the history.

        Raises:
            Diverged: If one of them is not finite; ``move`` has left the weights as they were.
        """
        step, (loss, norm) = len(self.history), told
        record = Step(step, loss, self.spec.learning_rate * self._rate_factor(), norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: the loss is {loss}, the gradient's norm {norm}")
        if self.average is not None:
            self.average.update(step)
        self.history.append(record)
        return record

    def attempt_record(self, told: Sequence[float]) -> Step | Exception:
        """Do what ``record`` does, and return what it raises, or what kept the weights."""
        if self.failure is not None:
            return self.failure
        try:
            return self.record(told)
        except Diverged as error:
            return error

    def as_result(self) -> AbstractContextManager[None]:
        """Let the model have the weights that would be its result for a while."""
        return nullcontext() if self.average is None else self.average.installed()

    def run(self, *, on_step: Callable[[Step], None] = lambda _: None) -> list[Step]:
        """Take all steps that are left and return the whole history."""
        while len(self.history) < self.spec.steps:
            on_step(self.take_step())
        return self.history

    def _own_state(self) -> dict[str, Tensor]:
        return dict(self.trained) | dict(self.model.named_buffers())

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on later: weights, optimiser and history."""
        return {
            "model": self._own_state(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(step) for step in self.history],
            "average": {} if self.average is None else self.average.mean,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            ValueError: If the state belongs to other trainable parameters.
        """
        own, saved = self._own_state(), state["model"]
        if {k: p.shape for k, p in own.items()} != {k: p.shape for k, p in saved.items()}:
            raise ValueError("the saved state belongs to another model or freeze policy")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        self.optimizer.load_state_dict(state["optimizer"])
        # On a CPU the fused step pairs numbers by their place in memory, whatever the strides say,
        # and the state may come from a run in another layout.
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if value.stride() != parameter.stride() and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        for group in self.optimizer.param_groups:  # as on a CPU; a GPU's steps see to their own
            group["lr"], group["capturable"] = float(group["lr"]), False
        self.history = [Step(**step) for step in state["history"]]
        if self.average is not None:
            self.average.load(state["average"])
