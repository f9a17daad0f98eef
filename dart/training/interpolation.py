"""The straight line between the weights before and after training.

Source: WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters that train and of all buffers that are numbers."""
    kept = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept |= {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return {name: value.detach().clone() for name, value in kept.items()}


@torch.no_grad()
def install_mixture(
    model: nn.Module, start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
) -> None:
    """Give the model (1 - alpha) start + alpha end; at 0 and 1 exactly the one and the other.

    Buffers take part too: batch norms keep their statistics in an adaptation, and where an adapter
    estimated others, means and variances are mixed like weights. Variances stay positive.

    Args:
        start: A ``snapshot``.
        end: A later ``snapshot`` of the same model.
        alpha: From 0 to 1.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, first in start.items():
        # lerp is exact at both ends: it begins from the nearer one.
        own[name].copy_(first.lerp(end[name], alpha))
