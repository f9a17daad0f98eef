"""Does more than one attention pattern at a time help?

A single head gives each query one pattern over the image. Several heads let the parts of a query
look at different places, as the edge and the centre of a fisheye image ask for.
"""

from torch import nn

from dart.models import DAA, LowRankQueries, Stage, register_variant


@register_variant(
    hypothesis="Several heads adapt to more of the lens than one.", compare_to="daa_zero_init"
)
def daa_multi_head(
    stage: Stage, *, heads: int = 4, num_queries: int = 64, rank: int = 8
) -> nn.Module:
    """``daa_zero_init`` with ``heads`` heads: 1, 2, 4 or 8 divide every stage of TinyViM-S."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank)
    return DAA(stage, queries=queries, heads=heads)
