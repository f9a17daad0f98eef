"""Is it only the number of tokens that makes the notes' adapter inert?

A softmax over n tokens gives each about 1/n of a query. Times n, a token gets a whole query on
average, at every resolution alike, and the attention still shares queries out among tokens, which
the softmax over queries gives up. If this adapts as well as that, the axis was never the point.
"""

from jaxtyping import Float
from torch import Tensor, nn

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_tokens


def scaled_softmax_over_tokens(scores: Float[Tensor, "*b q n"]) -> Float[Tensor, "*b q n"]:
    """Share each query out among the tokens so that a token gets 1 of it on average."""
    return softmax_over_tokens(scores) * scores.shape[-1]


@register_variant(
    hypothesis="Times the number of tokens, the softmax over tokens learns at every resolution.",
    compare_to="daa_zero_init",
)
def daa_token_count(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.01
) -> nn.Module:
    """``daa_zero_init`` with attention weights times the number of tokens."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return DAA(stage, queries=queries, attend=scaled_softmax_over_tokens)
