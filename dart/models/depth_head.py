"""The decoder: four maps of a pyramid become one map of relative inverse depth.

Axis letters: ``b`` batch, ``c`` channels of a stage, ``d`` channels of the decoder, ``h w`` cells
or pixels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PYRAMID = (4, 8, 16, 32)
"""Strides at which maps are merged."""


class ResidualUnit(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Return the refined map."""
        return features + self.conv2(self.conv1(features.relu()).relu())


class Fusion(nn.Module):
    """Merges the coarser path with one map of the pyramid and refines the sum.

    Args:
        channels: Channels of the decoder.
        has_coarser: Whether there is a coarser path; the deepest map has none.
    """

    def __init__(self, channels: int, *, has_coarser: bool) -> None:
        super().__init__()
        self.enter = ResidualUnit(channels) if has_coarser else nn.Identity()
        self.refine = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, features: Float[Tensor, "b d h w"], coarser: Float[Tensor, "b d h2 w2"] | None
    ) -> Float[Tensor, "b d h w"]:
        """Return the path at the resolution of ``features``."""
        merged = self.enter(features)
        if coarser is not None:
            merged = merged + _resize(coarser, features.shape[2:])
        # The linear map commutes with the resizing of the next block, and is cheaper before it.
        return self.out(self.refine(merged))


class DepthHead(nn.Module):
    """DPT's convolutional head on a pyramid.

    Args:
        in_channels: Channels of the pyramid's maps, finest first.
        channels: Channels of the decoder.
        initial: Relative inverse depth at the start, in (0, 1), about the same everywhere.
        strides: Pixels a cell of the maps; those of a pyramid unless given.

    Source: DPT (Ranftl 2021) section 3 and Depth Anything V2's head, from the description. Three
    deviations: maps are resized before they are merged only where they are no pyramid; the deepest
    block has no unit for a map that it does not get; the last convolutions run at half resolution
    and give four pixels a cell, where one at full resolution took half of the head's time.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int = 64,
        initial: float = 0.5,
        strides: Sequence[int] = PYRAMID,
    ) -> None:
        super().__init__()
        self.is_pyramid = tuple(strides) == PYRAMID
        self.reassemble = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in in_channels
        )
        deepest = len(in_channels) - 1
        self.fuse = nn.ModuleList(
            Fusion(channels, has_coarser=index < deepest) for index in range(len(in_channels))
        )
        half = channels // 2
        self.narrow = nn.Conv2d(channels, half, 3, padding=1)
        self.deepen = nn.Conv2d(half, half, 3, padding=1)
        self.last = nn.Conv2d(half, 4, 1)
        nn.init.constant_(self.last.bias, math.log(initial / (1 - initial)))  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]], size: tuple[int, int]
    ) -> Float[Tensor, "b h w"]:
        """Return relative inverse depth in (0, 1).

        Args:
            features: The pyramid, finest first.
            size: Height and width of the result in pixels, both even.
        """
        path = None
        for index in reversed(range(len(self.fuse))):
            entering = self.reassemble[index](features[index])
            if not self.is_pyramid:
                entering = _resize(entering, [-(-side // PYRAMID[index]) for side in size])
            path = self.fuse[index](entering, path)
        assert path is not None
        fine = self.narrow(_resize(path, (size[0] // 2, size[1] // 2)))
        logits = functional.pixel_shuffle(self.last(self.deepen(fine.relu()).relu()), 2)
        return torch.sigmoid(logits[:, 0].float())


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return functional.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
