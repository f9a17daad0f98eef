"""Where should adapters sit, and who should see what they change?

Late stages hold what the image means and early ones what its lines look like; a lens changes the
lines. In series, a residual also changes what the frozen next stage starts from, which it was not
trained for; in parallel, only the decoder gets it, and the frozen encoder runs as it was trained.
"""

from typing import Literal

from torch import nn

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_queries

_STAGES = {"first": (0,), "early": (0, 1), "late": (2, 3), "last": (3,), "all": (0, 1, 2, 3)}


class DecoderOnlyDAA(DAA):
    """A DAA whose residual the next stage never sees."""

    feeds_next_stage = False


@register_variant(
    hypothesis="Adapters at some stages adapt as well as at all of them and forget less.",
    compare_to="daa_query_softmax",
)
def daa_at_stages(
    stage: Stage,
    *,
    stages: Literal["first", "early", "late", "last", "all"] = "late",
    num_queries: int = 64,
    rank: int = 8,
    factor_std: float = 0.5,
) -> nn.Module | None:
    """``daa_query_softmax`` at the first, first two, last two, last or all four stages."""
    if stage.index not in _STAGES[stages]:
        return None
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return DAA(stage, queries=queries, attend=softmax_over_queries)


@register_variant(
    hypothesis="Residuals that only the decoder gets forget less than residuals in series.",
    compare_to="daa_query_softmax",
)
def daa_decoder_only(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` in parallel: the next stage starts from the pretrained map."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return DecoderOnlyDAA(stage, queries=queries, attend=softmax_over_queries)
