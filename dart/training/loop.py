"""The training loop: sixty lines that every variant goes through."""

import io
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.data.dataset import Batch, Sample
from dart.errors import UserError
from dart.recipe import TrainingSpec
from dart.training.batches import draw_batch
from dart.training.freeze import GROUPS
from dart.training.loss import LOSSES


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


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a tenth of warm-up, then a cosine towards 0.

    >>> round(learning_rate_factor(9, 100), 6), round(learning_rate_factor(55, 101), 6)
    (1.0, 0.5)
    """
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def create_optimizer(model: nn.Module, spec: TrainingSpec) -> torch.optim.AdamW:
    """Return AdamW over what requires a gradient: a rate for each part, decay on matrices only."""
    groups: list[dict[str, Any]] = []
    for part in GROUPS:
        rate = spec.learning_rate * spec.learning_rate_factors.get(part, 1.0)  # type: ignore[call-overload]
        trained = [p for p in model.get_submodule(part).parameters() if p.requires_grad]
        for decay, members in (
            (spec.weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "peak": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=spec.learning_rate, eps=spec.adam_eps)


@dataclass
class Trainer:
    """Trains what requires a gradient in ``model``; its state is small and can be saved.

    Args:
        model: Maps images and cameras to a prediction with ``distance`` in metres.
        data: Training samples.
        spec: Steps, batch size, rates, loss and augmentation.
        seed: Order and augmentation follow from it.
        device: Where the model lies.
    """

    model: nn.Module
    data: Sequence[Sample]
    spec: TrainingSpec
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.optimizer = create_optimizer(self.model, self.spec)
        self.history: list[Step] = []

    def draw(self) -> Batch:
        """Return the batch of the next step, on the device."""
        return draw_batch(
            self.data,
            batch_size=self.spec.batch_size,
            seed=self.seed,
            step=len(self.history),
            flips=self.spec.flip,
            colour=self.spec.colour,
        ).to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what the network runs under: the spec's precision."""
        lower = self.spec.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=lower)

    def predict(self, batch: Batch) -> HasDistance:
        """Return what the network says about a batch."""
        with self.autocast():
            return self.model(batch.image, batch.cameras)

    def loss(self, batch: Batch, prediction: HasDistance) -> Float[Tensor, ""]:
        """Return the loss of one batch, already on the device."""
        distance = prediction.distance.float()
        return LOSSES[self.spec.loss](distance, batch.distance, batch.valid)

    def take_step(self) -> Step:
        """Do the next optimiser step.

        Raises:
            Diverged: If the loss or the gradient is not finite; the weights stay as they were.
        """
        batch = self.draw()
        self.optimizer.zero_grad()
        loss = self.loss(batch, self.predict(batch))
        loss.backward()
        return self.finish(loss)

    def finish(self, loss: Float[Tensor, ""]) -> Step:
        """Move the weights along the gradients of ``loss``, which stand in them.

        Raises:
            Diverged: If the loss or the gradient is not finite; the weights stay as they were.
        """
        spec, step = self.spec, len(self.history)
        factor = learning_rate_factor(step, spec.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, spec.gradient_clip))
        record = Step(step, float(loss.detach()), spec.learning_rate * factor, norm)
        if not (math.isfinite(record.loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: the loss is {record.loss}, the gradient's norm {norm}")
        self.optimizer.step()
        self.history.append(record)
        return record

    def run(self, *, on_step: Callable[[Step], None] = lambda _: None) -> list[Step]:
        """Take all steps that are left and return the whole history."""
        while len(self.history) < self.spec.steps:
            on_step(self.take_step())
        return self.history

    def _own_state(self) -> dict[str, Tensor]:
        trained = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        return trained | dict(self.model.named_buffers())

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on later: weights, optimiser and history."""
        return {
            "model": self._own_state(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(step) for step in self.history],
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
        self.history = [Step(**step) for step in state["history"]]
