"""Should the attention look at more than one resolution?

A lens bends lines over the whole image, while a cell of a fine stage sees a few pixels. Queries
that also attend to pooled maps hand back corrections that are the same over a region, and a learned
share decides how much of each the stage uses.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_queries

_POOLING = (1, 2, 4)


class MultiScale(nn.Module):
    """One adapter run on the map and on pooled copies of it; the residuals share one weight."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter
        self.logits = nn.Parameter(torch.zeros(len(_POOLING)))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual to add to ``features``."""
        height, width = features.shape[2:]
        residuals = []
        for pooling in _POOLING:
            size = (max(1, height // pooling), max(1, width // pooling))
            pooled = [functional.adaptive_avg_pool2d(part, size) for part in (features, camera)]
            coarse = self.adapter(*pooled)
            residuals.append(functional.interpolate(coarse, (height, width), mode="bilinear"))
        shares = self.logits.softmax(0)
        return sum(
            (share * residual for share, residual in zip(shares, residuals, strict=True)),
            start=torch.zeros_like(residuals[0]),
        )


@register_variant(
    hypothesis="Attention over pooled maps as well adapts to what a lens does over the image.",
    compare_to="daa_query_softmax",
)
def daa_multi_scale(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` on the map, its half and its quarter, mixed by learned shares."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return MultiScale(DAA(stage, queries=queries, attend=softmax_over_queries))
