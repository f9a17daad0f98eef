"""Encoders that can be run stage by stage, so that an adapter's output enters the next stage."""

from collections.abc import Sequence
from typing import Protocol, cast

import timm
from jaxtyping import Float
from torch import Tensor, nn

from dart.errors import UserError, did_you_mean
from dart.models import tinyvim


class StagedEncoder(Protocol):
    """What the network needs of its encoder, besides being an ``nn.Module``."""

    channels: Sequence[int]
    strides: Sequence[int]

    def stem(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h4 w4"]:
        """Return the map that enters stage 0."""
        ...

    def forward_stage(
        self, index: int, features: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b d h2 w2"]:
        """Return the raw output of a stage from that of the stage before."""
        ...


def create_encoder(name: str) -> StagedEncoder:
    """Return an untrained encoder without a classifier.

    Raises:
        UserError: No encoder of that name can be run stage by stage.
    """
    if name not in tinyvim.SIZES:
        allowed = list(tinyvim.SIZES)
        raise UserError(
            f"no encoder '{name}'; there are: {', '.join(allowed)}{did_you_mean(name, allowed)}"
        )
    encoder: nn.Module = timm.create_model(name, num_classes=0)
    return cast(StagedEncoder, encoder)
