"""When what trains, and at which rate: the learning rate of every step of every group."""

import math

from torch import nn

from dart.recipe import TrainingSpec
from dart.training.freeze import finest_group


def learning_rate_factor(
    step: int, steps: int, *, schedule: str = "cosine", warm_up: float = 0.1
) -> float:
    """Return the share of the peak learning rate at a step.

    With ``w`` steps of warm-up it is (step + 1) / w before step w; from there, with
    t = (step - w) / (steps - w), it is (1 + cos(pi t)) / 2, 1 - t or 1.

    Args:
        schedule: ``cosine``, ``linear`` or ``constant``.
        warm_up: Share of the steps, at least one step.

    >>> round(learning_rate_factor(9, 100), 6), round(learning_rate_factor(55, 101), 6)
    (1.0, 0.5)
    """
    first = max(1, whole_steps(warm_up, steps))
    if step < first:
        return (step + 1) / first
    passed = (step - first) / max(1, steps - first)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * passed))
    return 1 - passed if schedule == "linear" else 1.0


def whole_steps(share: float, steps: int) -> int:
    """Return a share of the steps, rounded down, without the rounding of the product."""
    return math.floor(share * steps + 1e-9)


def first_steps(model: nn.Module, spec: TrainingSpec) -> dict[str, int]:
    """Return parameter -> the step at which it begins to train, of those that begin late."""
    begins = finest_group(model, tuple(spec.unfreeze), where="unfreeze")
    starts = {name: whole_steps(spec.unfreeze[group], spec.steps) for name, group in begins.items()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: step for name, step in starts.items() if step > 0 and name in trained}
