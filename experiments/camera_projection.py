"""Is one linear map of the camera embedding too little?

The notes ask whether ``proj_cam`` is too simple. One linear map of sines can only match a query to
a weighted sum of waves. A layer norm first, a hidden layer, or a look at the neighbouring cells
lets the keys say "near the edge" or "where the angle changes fast", which is where a fisheye
differs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_queries


class CellNorm(nn.Module):
    """Layer norm over the channels of each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Float[Tensor, "b e h w"]) -> Float[Tensor, "b e h w"]:
        """Return the normalised cells."""
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)


def _with_camera_keys(
    stage: Stage, keys: nn.Module, *, num_queries: int, rank: int, factor_std: float
) -> nn.Module:
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    daa = DAA(stage, queries=queries, attend=softmax_over_queries)
    daa.camera_keys = keys
    return daa


@register_variant(
    hypothesis="A hidden layer over the camera embedding finds keys that one linear map cannot.",
    compare_to="daa_query_softmax",
)
def daa_camera_mlp(
    stage: Stage,
    *,
    hidden_dim: int = 64,
    norm_first: bool = True,
    num_queries: int = 64,
    rank: int = 8,
    factor_std: float = 0.5,
) -> nn.Module:
    """``daa_query_softmax`` with an MLP of the embedding as keys; ``norm_first`` normalises it."""
    keys = nn.Sequential(
        *([CellNorm(stage.camera_dim)] if norm_first else []),
        nn.Conv2d(stage.camera_dim, hidden_dim, 1),
        nn.GELU(),
        nn.Conv2d(hidden_dim, stage.channels, 1, bias=False),
    )
    return _with_camera_keys(stage, keys, num_queries=num_queries, rank=rank, factor_std=factor_std)


@register_variant(
    hypothesis="Keys that see how the angles change around a cell adapt better than its angle.",
    compare_to="daa_query_softmax",
)
def daa_camera_separable(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """``daa_query_softmax`` with a depthwise 3x3 before the linear map of the embedding."""
    around = nn.Conv2d(
        stage.camera_dim, stage.camera_dim, 3, padding=1, groups=stage.camera_dim, bias=False
    )
    with torch.no_grad():
        # Starts near the cell itself, so that what it adds is learnt.
        around.weight.mul_(0.1)[:, :, 1, 1] += 1
    keys = nn.Sequential(around, nn.Conv2d(stage.camera_dim, stage.channels, 1, bias=False))
    return _with_camera_keys(stage, keys, num_queries=num_queries, rank=rank, factor_std=factor_std)
