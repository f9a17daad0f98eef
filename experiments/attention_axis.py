"""Over which axis should the attention be normalised?

Over tokens, as the notes have it, a token receives about q|query|/n: nearly nothing at high
resolution, with gradients too small for Adam to see. Over queries, each token mixes the queries
with weights that sum to one, whatever the resolution. The queries begin at a size that gives
scores of order one, so that the mix depends on image and camera from the first steps.
"""

from torch import nn

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_queries


@register_variant(
    hypothesis="A softmax over queries lets the adapter learn at every resolution.",
    compare_to="daa_zero_init",
)
def daa_query_softmax(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_zero_init`` with the softmax over queries; ``factor_std=0.01`` changes the axis alone.

    ``factor_std`` is the standard deviation of the entries of both factors of the queries.
    """
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return DAA(stage, queries=queries, attend=softmax_over_queries)
