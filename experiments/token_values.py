"""Should a query hand back what it saw instead of itself?

In the notes' adapter the value of a query is the query: whatever the image holds, a cell gets a
mix of the same words. Here each query first gathers a mix of tokens from all over the image, and
cells mix what was gathered, so that the edge of the image can be given features of its centre.

Source: the induced points of Set Transformer (Lee et al. 2019, arXiv 1810.00825).
"""

from jaxtyping import Float
from torch import Tensor, nn

from dart.models import LowRankQueries, Stage, register_variant, zero_projection


class Gathering(nn.Module):
    """Queries gather tokens by image and camera, and cells mix what was gathered."""

    def __init__(self, stage: Stage, queries: nn.Module) -> None:
        super().__init__()
        self.queries = queries
        self.camera_keys = nn.Conv2d(stage.camera_dim, stage.channels, 1, bias=False)
        self.values = nn.Conv2d(stage.channels, stage.channels, 1)
        self.project = zero_projection(stage.channels)

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual to add to ``features``."""
        keys = (features + self.camera_keys(camera)).flatten(2)
        scores = self.queries(features.flatten(2).mT) @ keys * features.shape[1] ** -0.5
        gathered = scores.softmax(-1) @ self.values(features).flatten(2).mT
        handed_back = gathered.mT @ scores.softmax(-2).to(gathered.dtype)
        return self.project(handed_back.unflatten(2, features.shape[2:]))


@register_variant(
    hypothesis="A query that hands back the tokens it saw adapts better than a fixed word.",
    compare_to="daa_query_softmax",
)
def daa_token_values(
    stage: Stage, *, num_queries: int = 64, rank: int = 8, factor_std: float = 0.5
) -> nn.Module:
    """Queries that gather tokens by their sum with the camera's keys and hand the mix back."""
    queries = LowRankQueries(stage.channels, num_queries=num_queries, rank=rank, std=factor_std)
    return Gathering(stage, queries)
