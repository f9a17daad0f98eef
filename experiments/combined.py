"""All improvements of the notes at once.

Heads, a gate for every token, queries that depend on the image, a projection that starts at zero
and the softmax over queries answer different weaknesses, so their gains should add up.
"""

from torch import nn

from dart.models import (
    DAA,
    DynamicQueries,
    Stage,
    TokenGate,
    register_variant,
    softmax_over_queries,
)


@register_variant(hypothesis="The improvements of the notes add up.", compare_to="daa")
def daa_combined(
    stage: Stage,
    *,
    heads: int = 4,
    num_queries: int = 64,
    rank: int = 8,
    factor_std: float = 0.5,
) -> nn.Module:
    """Multi-head, gated by token, dynamic queries, zero start, softmax over queries."""
    return DAA(
        stage,
        queries=DynamicQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std),
        heads=heads,
        mix=TokenGate(stage.channels, heads=heads),
        attend=softmax_over_queries,
    )
