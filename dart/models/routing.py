"""Adapters that are off for pinholes: exactly, whatever they have learnt.

Axis letters: ``b`` batch (``#b``: one or b), ``c`` channels, ``e`` camera channels, ``h w`` cells.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

BEND_OF_PINHOLES = 0.015
"""Pinholes stay below this up to 130 degrees across: cells are means, so that 0 is not exact."""
BEND_OF_FISHEYES = 0.1
"""A fisheye of 170 degrees lies above this at every stage of a 96x128 image."""


def line_bend(rays: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 1 1"]:
    """Return how far a lens bends straight lines: 0 for a pinhole, wherever its centre is.

    A row of pixels of a pinhole sees a plane through the camera. The first, middle and last ray
    of a row or column of any other lens span a volume, their triple product; the largest one in
    the image is returned, at most 1.
    """
    bends = []
    for lines in (rays, rays.mT):
        first, middle, last = lines[..., 0], lines[..., lines.shape[-1] // 2], lines[..., -1]
        volume = (torch.linalg.cross(first, last, dim=1) * middle).sum(1)
        bends.append(volume.abs().amax(-1))
    return torch.maximum(*bends)[:, None, None, None]


def pinhole_gate(
    rays: Float[Tensor, "b 3 h w"],
    *,
    lowest: float = BEND_OF_PINHOLES,
    highest: float = BEND_OF_FISHEYES,
) -> Float[Tensor, "b 1 1 1"]:
    """Return 0 for pinholes, 1 for fisheyes, and what lies between for what lies between."""
    bend = line_bend(rays.float()).to(rays.dtype)
    return ((bend - lowest) / (highest - lowest)).clamp(0, 1)


class Routed(nn.Module):
    """An adapter times the gate of its image's lens; for a pinhole its residual is exactly zero.

    Args:
        adapter: Maps features and camera embedding to the residual.
    """

    sees_rays = "too"

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b e h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual; the last three channels of ``camera`` are the rays."""
        residual = self.adapter(features, camera[:, :-3])
        return residual * pinhole_gate(camera[:, -3:]).to(residual.dtype)
