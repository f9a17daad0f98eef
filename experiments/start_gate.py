"""Which zero should the adapter start from: that of its projection, or that of a gate?

A projection that starts at zero has to find its directions and its size at once. A random
projection behind a gate that starts at zero has directions from the first step, and the gate tells
how far from the pretrained network the adapter went: one number (ReZero) or one a channel
(LayerScale).

Source: ReZero (Bachlechner et al. 2020, arXiv 2003.04887), LayerScale (Touvron et al. 2021, arXiv
2103.17239) with its start at exactly zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.models import (
    DAA,
    LowRankQueries,
    Stage,
    default_projection,
    register_variant,
    softmax_over_queries,
)


class Scaled(nn.Module):
    """A random projection times a gate that starts at zero: one for all channels, or one each."""

    def __init__(self, channels: int, *, num_gates: int) -> None:
        super().__init__()
        self.project = default_projection(channels)
        self.gate = nn.Parameter(torch.zeros(num_gates, 1, 1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the gated projection."""
        return self.gate * self.project(features)


def _with_gates(
    stage: Stage, *, num_gates: int, num_queries: int, rank: int, factor_std: float
) -> nn.Module:
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    project = Scaled(stage.channels, num_gates=num_gates)
    return DAA(stage, queries=queries, attend=softmax_over_queries, project=project)


@register_variant(
    hypothesis="One gate before a random projection forgets less than a projection from zero.",
    compare_to="daa_query_softmax",
)
def daa_rezero(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` whose zero start is one number a stage."""
    return _with_gates(
        stage, num_gates=1, num_queries=num_queries, rank=rank, factor_std=factor_std
    )


@register_variant(
    hypothesis="A gate for every channel lets the channels adapt that the lens disturbs.",
    compare_to="daa_rezero",
)
def daa_layer_scale(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_rezero`` with one gate a channel."""
    return _with_gates(
        stage,
        num_gates=stage.channels,
        num_queries=num_queries,
        rank=rank,
        factor_std=factor_std,
    )
