"""What keeps a network near where it began: pulls on its weights and on its answers.

Every trained parameter theta is anchored at its value theta0 before training. With a weight of 0
a term is not computed at all, so that the run is bit for bit that without it.

Axis letters: ``b`` images, ``h w`` pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from dart.data.sample import Batch, Sample, collate
from dart.errors import UserError
from dart.recipe import TrainingSpec
from dart.training.loss import log_errors

Importance = Mapping[str, Tensor]
"""Parameter -> weight of each of its entries, of its shape."""
Objective = Callable[[Tensor, Batch], Tensor]


def copy_trained(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter that trains, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def laplace_error(distance: Float[Tensor, "b h w"], batch: Batch) -> Float[Tensor, ""]:
    """Return the negative log-likelihood of log distance under a Laplace of scale 1, less ln 2.

    An image is one observation: the mean over its valid pixels of |ln prediction - ln truth|.
    """
    errors, count = log_errors(distance, batch.distance, batch.valid)
    return (errors.abs().sum((1, 2)) / count).mean()


def squared_answer(distance: Float[Tensor, "b h w"], batch: Batch) -> Float[Tensor, ""]:  # noqa: ARG001
    """Return the mean over pixels of the squared log prediction; no truth is needed."""
    return distance.log().square().mean()


def spread_images(data: Sequence[Sample], count: int) -> Iterator[Batch]:
    """Yield ``count`` images evenly over the data, or all there are, one a batch."""
    kept = min(count, len(data))
    for i in range(kept):
        yield collate([data[i * len(data) // kept]])


def mean_gradients(
    model: nn.Module,
    images: Iterator[Batch],
    objective: Objective,
    reduce: Callable[[Tensor], Tensor],
) -> Importance:
    """Return the mean over images of ``reduce`` of each image's own gradient.

    Args:
        objective: What the gradient is of.
        reduce: ``square`` makes it the diagonal of the empirical Fisher information, ``abs``
            the importance of MAS.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    totals = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    count = 0
    for batch in images:
        distance = model(batch.image, batch.cameras).distance.float()
        gradients = torch.autograd.grad(
            objective(distance, batch), list(trained.values()), allow_unused=True
        )
        for total, gradient in zip(totals.values(), gradients, strict=True):
            if gradient is not None:
                total += reduce(gradient)
        count += 1
    return {name: total / count for name, total in totals.items()}


class Regulariser:
    """The penalty of a training, apart from its loss on the batch.

    l2_sp / 2 sum (theta - theta0)^2 + ewc / 2 sum F (theta - theta0)^2
    + mas sum M (theta - theta0)^2 + lwf mean |ln prediction - ln prediction of the start|

    F is the diagonal of the Fisher information on source images under ``laplace_error``, M the
    mean over source images of |d ``squared_answer`` / d theta|, both at theta0.

    Args:
        model: As it is before training; what requires a gradient is decided.
        spec: The weights.
        source: Training images of the source, for ewc and mas.
        device: Where the model lies.

    Raises:
        UserError: ewc or mas without source images.

    Source: l2_sp arXiv 1802.01483 (every trained part began somewhere, so there is no term without
    anchor), ewc arXiv 1612.00796, mas arXiv 1711.09601 (mean over pixels, not sum), lwf arXiv
    1606.09282 (with L1 of log distance in place of its loss for classes).
    """

    def __init__(
        self,
        model: nn.Module,
        spec: TrainingSpec,
        *,
        source: Sequence[Sample],
        device: torch.device,
    ) -> None:
        self.model, self.spec = model, spec
        active = spec.l2_sp or spec.ewc or spec.mas or spec.lwf
        self.anchor = copy_trained(model) if active else {}
        self.pulls: list[tuple[float, Importance | None]] = []
        """Weights of sum w (theta - theta0)^2; None: 1 for every entry."""
        if spec.l2_sp:
            self.pulls.append((spec.l2_sp / 2, None))
        if (spec.ewc or spec.mas) and len(source) == 0:
            raise UserError("training: ewc and mas need training images of the source")
        for weight, objective, reduce in (
            (spec.ewc / 2, laplace_error, torch.square),
            (spec.mas, squared_answer, torch.abs),
        ):
            if weight:
                images = (b.to(device) for b in spread_images(source, spec.fisher_images))
                self.pulls.append((weight, mean_gradients(model, images, objective, reduce)))

    def penalty(self, batch: Batch, distance: Float[Tensor, "b h w"]) -> Float[Tensor, ""] | None:
        """Return the sum of all terms, or None where every weight is 0.

        Args:
            batch: Target images first, replayed ones behind them.
            distance: What the model says about it.
        """
        terms = [weight * self._pull(importance) for weight, importance in self.pulls]
        if self.spec.lwf:
            terms.append(self.spec.lwf * self._distil(batch, distance))
        return torch.stack(terms).sum() if terms else None

    def _pull(self, importance: Importance | None) -> Float[Tensor, ""]:
        own = dict(self.model.named_parameters())
        terms = []
        for name, start in self.anchor.items():
            square = (own[name] - start).square()
            terms.append((square if importance is None else importance[name] * square).sum())
        return torch.stack(terms).sum()

    def _distil(self, batch: Batch, distance: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
        count = len(distance) - self.spec.replayed_images
        with torch.no_grad(), adapters_off(self.model):
            before = functional_call(
                self.model, dict(self.anchor), (batch.image[:count], batch.cameras[:count])
            ).distance.float()
        errors, seen = log_errors(distance[:count], before, batch.valid[:count])
        return (errors.abs().sum((1, 2)) / seen).mean()


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run a network without its adapters: with anchored weights the pretrained network itself."""
    if not hasattr(model, "adapters_enabled"):
        yield
        return
    had = model.adapters_enabled
    model.adapters_enabled = False  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        model.adapters_enabled = had
