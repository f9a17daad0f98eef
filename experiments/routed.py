"""Can the adapter be kept away from the source altogether?

An adapter trained on a fisheye changes pinhole images as well, and that is forgetting. The rays
say which lens an image has: a pinhole's rows of pixels lie in planes, a fisheye's do not. An
adapter times a gate that is exactly zero for pinholes forgets nothing on them, whatever it learnt
and however far it was trained, so it may be made as strong as the target asks for. What decoder
and scale head forget when they train too, no router undoes.

Source: Fisheye3R (arXiv 2603.28896) switches tokens off by a learned classifier of the image; here
the calibration decides, and there is nothing to learn.
"""

from torch import nn

from dart.models import (
    DAA,
    DynamicQueries,
    LowRankQueries,
    Routed,
    Stage,
    TokenGate,
    register_variant,
    softmax_over_queries,
)


@register_variant(
    hypothesis="An adapter that is off for pinholes adapts as well and forgets nothing.",
    compare_to="daa_query_softmax",
)
def daa_routed(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` times a gate that is zero for pinholes and one for fisheyes."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return Routed(DAA(stage, queries=queries, attend=softmax_over_queries))


@register_variant(
    hypothesis="The router gives the strongest adapter of the notes its gain without its price.",
    compare_to="daa_combined",
)
def daa_combined_routed(
    stage: Stage,
    *,
    heads: int = 4,
    num_queries: int = 64,
    rank: int = 8,
    factor_std: float = 0.5,
) -> nn.Module:
    """``daa_combined`` times the gate of ``daa_routed``."""
    daa = DAA(
        stage,
        queries=DynamicQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std),
        heads=heads,
        mix=TokenGate(stage.channels, heads=heads),
        attend=softmax_over_queries,
    )
    return Routed(daa)
