"""Does it matter that the adapter starts as the identity?

The notes' projection starts at random, so the first step already disturbs what was learnt on the
source. A projection whose weight and bias start at zero begins at the pretrained network, and
every change has to pay for itself: less should be forgotten at the same gain.
"""

from torch import nn

from dart.models import DAA, LowRankQueries, Stage, register_variant


@register_variant(
    hypothesis="An adapter that starts as the identity forgets less.", compare_to="daa"
)
def daa_zero_init(stage: Stage, *, num_queries: int = 64, rank: int = 8) -> nn.Module:
    """The notes' adapter with a projection that starts at zero; nothing else differs."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank)
    return DAA(stage, queries=queries)
