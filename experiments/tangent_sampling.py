"""Should a filter sample where the lens put the neighbours?

A 3x3 filter learnt on pinhole images meets a fisheye's edge, where what lies beside an edge's point
is squeezed and turned in the image. Sampled on the plane tangent to the viewing sphere, with the
same angular step at every cell, the filter sees the same patch of the world wherever it is. The
offsets follow from the lens's Jacobian alone and learn nothing.

Source: SphereNet (Coors et al. 2018), which samples on the tangent plane of panoramas; here the
Jacobian is taken from the grid of rays, so that any lens serves.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models import Stage, pinhole_gate, register_variant

_TAPS = tuple((x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0))
_FARTHEST = 3.0
_SMALLEST_AREA = 1e-6


def tangent_basis(
    rays: Float[Tensor, "b 3 h w"],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    """Return the image's x and y axes, turned with the optical axis onto each ray."""
    x, y, z = rays.unbind(1)
    # Straight behind there are many shortest turns; one of them is as good as another.
    over = 1 / (1 + z).clamp_min(1e-3)
    first = torch.stack([1 - x * x * over, -x * y * over, -x], dim=1)
    second = torch.stack([-x * y * over, 1 - y * y * over, -y], dim=1)
    return first, second


def tangent_offsets(rays: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 9 h w 2"]:
    """Return how far each tap lies from its place on the regular 3x3 grid, (x, y) in cells.

    The angular step is that of the cell nearest the optical axis. An equidistant lens moves a tap
    along its circle by theta / sin(theta) - 1 and not at all along its radius; a pinhole moves
    none on its axis. Where a lens ends, or the map is one cell high or wide, none is moved.
    """
    taps = rays.new_tensor(_TAPS)
    if min(rays.shape[2:]) < 2:
        return rays.new_zeros((len(rays), len(_TAPS), *rays.shape[2:], 2))
    steps = torch.gradient(rays, dim=(3, 2))
    rows = [
        torch.stack([(axis * step).sum(1) for step in steps], dim=-1)
        for axis in tangent_basis(rays)
    ]
    jacobian = torch.stack(rows, dim=-2)
    (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
    area = a * d - b * c
    usable = area.abs() > _SMALLEST_AREA
    inverse = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    inverse = inverse / torch.where(usable, area, 1.0)[..., None, None]
    nearest = rays[:, 2].flatten(1).argmax(1, keepdim=True)
    step = area.flatten(1).abs().gather(1, nearest).sqrt()[:, :, None, None]
    places = torch.einsum("bhwij,kj->bkhwi", inverse * step[..., None], taps)
    offsets = places - taps[:, None, None]
    return torch.where(usable[:, None, ..., None], offsets, 0.0).clamp(-_FARTHEST, _FARTHEST)


class TangentConv(nn.Module):
    """A narrow depthwise 3x3 filter whose taps lie on the tangent plane, or on the grid."""

    sees_rays = True

    def __init__(self, channels: int, *, rank: int, on_grid: bool, routed: bool) -> None:
        super().__init__()
        self.on_grid, self.routed = on_grid, routed
        self.down = nn.Conv2d(channels, rank, 1)
        self.taps = nn.Parameter(torch.randn(rank, len(_TAPS)) / len(_TAPS) ** 0.5)
        self.up = nn.Conv2d(rank, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b 3 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        narrow = functional.gelu(self.down(features)).to(features.dtype)
        offsets = tangent_offsets(camera)
        if self.on_grid:
            offsets = torch.zeros_like(offsets)
        seen = _sample(narrow, offsets)
        residual = self.up((seen * self.taps[:, :, None, None]).sum(2))
        return residual * pinhole_gate(camera).to(residual.dtype) if self.routed else residual


def _sample(
    features: Float[Tensor, "b r h w"], offsets: Float[Tensor, "#b 9 h w 2"]
) -> Float[Tensor, "b r 9 h w"]:
    height, width = features.shape[2:]
    v, u = torch.meshgrid(
        torch.arange(height, dtype=offsets.dtype, device=offsets.device) + 0.5,
        torch.arange(width, dtype=offsets.dtype, device=offsets.device) + 0.5,
        indexing="ij",
    )
    places = torch.stack([u, v], -1) + offsets.new_tensor(_TAPS)[:, None, None] + offsets
    grid = 2 * places / offsets.new_tensor([width, height]) - 1
    grid = grid.expand(len(features), -1, -1, -1, -1).flatten(1, 2)
    sampled = functional.grid_sample(features, grid, padding_mode="zeros", align_corners=False)
    return sampled.unflatten(2, (len(_TAPS), height))


@register_variant(
    hypothesis="A filter on the tangent plane undoes more of a lens than one on the image's grid.",
    compare_to="grid_conv",
)
def tangent_conv(stage: Stage, *, rank: int = 16, routed: bool = False) -> nn.Module:
    """A depthwise 3x3 in ``rank`` channels on the tangent plane; ``routed``: off for pinholes."""
    return TangentConv(stage.channels, rank=rank, on_grid=False, routed=routed)


@register_variant(
    hypothesis="A narrow filter beside each stage adapts without looking at the camera.",
    compare_to="none",
    uses_camera=False,
)
def grid_conv(stage: Stage, *, rank: int = 16) -> nn.Module:
    """``tangent_conv`` with its taps on the image's grid: what the lens adds is the difference."""
    return TangentConv(stage.channels, rank=rank, on_grid=True, routed=False)
