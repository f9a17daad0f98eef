"""Should the queries depend on the image?

A static table of queries gives every image the same correction words. Where the domain gap varies
between images (near walls, dark rooms), coefficients read off the image can choose other words.
"""

from torch import nn

from dart.models import DAA, DynamicQueries, Stage, register_variant


@register_variant(
    hypothesis="Queries that depend on the image close more of the gap than static ones.",
    compare_to="daa_zero_init",
)
def daa_dynamic_queries(stage: Stage, *, num_queries: int = 64, rank: int = 8) -> nn.Module:
    """``daa_zero_init`` whose queries' coefficients are read off the image's mean token."""
    return DAA(stage, queries=DynamicQueries(stage.channels, num_queries=num_queries, rank=rank))
