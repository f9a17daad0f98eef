"""The scale head (SFH): one number an image that corrects the scale of the whole map.

Axis letters: ``b`` batch (``#b``: one or b), ``c`` channels, ``e`` camera channels, ``h w`` cells.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

ScaleActivation = Literal["exp", "sigmoid"]


class ScaleHead(nn.Module):
    """Learned queries read the deepest features and the viewing angles and agree on a scale.

    Args:
        channels: Channels of the deepest features.
        camera_dim: Channels of the camera embedding.
        dim: Width of the transformer decoder.
        activation: ``exp`` starts at exactly 1 and may exceed it; ``sigmoid`` is the notes' own,
            which starts at 0.5 and stays below 1.
        num_queries: Number of learned queries.
        num_layers: Layers of the transformer decoder.

    Source: the owner's notes on ScaleFormerHead.
    """

    def __init__(
        self,
        channels: int,
        camera_dim: int,
        *,
        dim: int = 128,
        activation: ScaleActivation = "exp",
        num_queries: int = 4,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.features = nn.Conv2d(channels, dim, 1)
        self.camera = nn.Conv2d(camera_dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                dim,
                nhead=4,
                dim_feedforward=2 * dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        self.last_norm = nn.LayerNorm(dim)
        self.last = nn.Linear(dim, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, " b"]:
        """Return the factor on inverse distance."""
        memory = self.features(features) + self.camera(camera)
        memory = self.norm(memory.flatten(2).mT)
        queries = self.queries.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, memory)
        answer = self.last(self.last_norm(queries).mean(1))[:, 0].float()
        return answer.exp() if self.activation == "exp" else answer.sigmoid()
