"""What is the simplest way to tell features of the camera?

The distortion-aware adapter lets the camera choose among learnt queries. Networks are told of
conditions in plainer ways; where one of them does as well, the adapter's machinery is not what
helps.

Source: FiLM (Perez et al. 2018, arXiv 1709.07871); UniDepth V2 (arXiv 2502.20110) for the
cross-attention.

Axis letters: ``b`` batch (``#b``: one or b), ``c`` channels, ``e`` camera channels, ``h w`` cells,
``n`` tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models import Stage, register_variant
from dart.models.beside import zero_start


class FiLM(nn.Module):
    """A factor and an offset for every channel and cell, read off the camera embedding."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.modulation = zero_start(nn.Conv2d(stage.camera_dim, 2 * stage.channels, 1))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the change of the features."""
        factor, offset = self.modulation(camera).chunk(2, dim=1)
        return factor * features + offset


@register_variant(
    hypothesis="A factor and an offset by camera and channel do what attention to the camera does.",
    compare_to="daa",
)
def film(stage: Stage) -> nn.Module:
    """Camera-conditioned scale and shift of the stage's map."""
    return FiLM(stage)


class Additive(nn.Module):
    """The camera embedding, projected to the features' channels."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.project = zero_start(nn.Conv2d(stage.camera_dim, stage.channels, 1))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the change of the features, whatever they are."""
        return self.project(camera).expand_as(features)


@register_variant(
    hypothesis="Adding the projected camera embedding does what attention to the camera does.",
    compare_to="daa",
)
def additive(stage: Stage) -> nn.Module:
    """The projected camera embedding, added."""
    return Additive(stage)


class Concat(nn.Module):
    """A linear map of features and camera embedding together."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        both = stage.channels + stage.camera_dim
        self.project = zero_start(nn.Conv2d(both, stage.channels, 1))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the change of the features."""
        camera = camera.expand(len(features), -1, -1, -1)
        return self.project(torch.cat((features, camera), dim=1))


@register_variant(
    hypothesis="A linear map of the features themselves adds to the projected camera embedding.",
    compare_to="additive",
)
def concat(stage: Stage) -> nn.Module:
    """A 1x1 convolution on features and camera embedding, added to the features."""
    return Concat(stage)


class CrossAttention(nn.Module):
    """Tokens of the image attend to the camera embedding.

    Args:
        stage: Where the adapter sits.
        side: Most keys along each side of the map; more are pooled.
        layer_scale: Factor of the answer at the start.

    Source: the attention block of UniDepth V2's decoder, without its feed-forward part.
    """

    def __init__(self, stage: Stage, *, side: int, layer_scale: float) -> None:
        super().__init__()
        self.side = side
        self.norm_features = nn.LayerNorm(stage.channels)
        self.norm_camera = nn.LayerNorm(stage.camera_dim)
        self.queries = nn.Linear(stage.channels, stage.channels)
        # No bias: it would add the same to all scores of a query.
        self.keys = nn.Linear(stage.camera_dim, stage.channels, bias=False)
        self.values = nn.Linear(stage.camera_dim, stage.channels)
        self.project = nn.Linear(stage.channels, stage.channels)
        self.layer_scale = nn.Parameter(torch.full((stage.channels,), layer_scale))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        height, width = features.shape[2:]
        size = (min(height, self.side), min(width, self.side))
        if size != (height, width):
            camera = functional.adaptive_avg_pool2d(camera, size)
        context = self.norm_camera(camera.flatten(2).mT).expand(len(features), -1, -1)
        queries = self.queries(self.norm_features(features.flatten(2).mT))
        answer = functional.scaled_dot_product_attention(
            queries, self.keys(context), self.values(context)
        )
        residual = self.layer_scale * self.project(answer)
        return residual.mT.unflatten(2, (height, width))


@register_variant(
    hypothesis="Tokens that attend to the whole camera embedding adapt better than learnt queries.",
    compare_to="daa",
    starts_at_identity=False,
)
def cross_attention(
    stage: Stage, *, num_keys_per_side: int = 16, layer_scale: float = 1e-5
) -> nn.Module:
    """Cross-attention from image tokens to the camera embedding, pooled where the map is large."""
    return CrossAttention(stage, side=num_keys_per_side, layer_scale=layer_scale)
