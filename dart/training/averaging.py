"""The moving average of the weights that train."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Follows the trained weights: after step t (from 0), mean <- d mean + (1 - d) weights.

    d is the decay, but at most (1 + t) / (10 + t): an average of few steps would otherwise be of
    the start. Statistics of batch norms never change in an adaptation and need no average.

    Args:
        model: What requires a gradient in it is averaged.
        decay: Below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.decay = decay
        self.mean = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.trained.items():
            self.mean[name].lerp_(parameter, 1 - decay)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Go on from another average of the same weights."""
        for name, value in self.mean.items():
            value.copy_(mean[name])

    @torch.no_grad()
    def install(self) -> None:
        """Put the average in place of the weights, for good."""
        for name, parameter in self.trained.items():
            parameter.copy_(self.mean[name])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the average in place of the weights for a while."""
        kept = {name: p.detach().clone() for name, p in self.trained.items()}
        self.install()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(kept[name])
