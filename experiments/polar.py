"""Should a correction depend on the angle off the axis, and on nothing else of the lens?

A fisheye squeezes what it sees the more the farther off the axis, so features there need another
correction than at the centre. Attention has to find that out from an embedding; here each cell
mixes the corrections of the nearest polar angles, and the whole is off for pinholes. Few numbers
with direct gradients should adapt faster than many behind a softmax.

Source: RayTun3R (arXiv 2607.02711) adds residuals by polar bin to positional encodings; here they
multiply and filter features, and a gate keeps them off the source.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dart.models import Stage, pinhole_gate, register_variant

_LARGEST_POLAR = math.radians(100)


def polar_shares(rays: Float[Tensor, "b 3 h w"], num_bins: int) -> Float[Tensor, "b k h w"]:
    """Return how much of each bin a cell takes: soft bins, evenly spaced up to 100 degrees."""
    polar = torch.atan2(torch.linalg.vector_norm(rays[:, :2], dim=1), rays[:, 2])[:, None]
    centres = torch.linspace(0, _LARGEST_POLAR, num_bins, dtype=rays.dtype, device=rays.device)
    width = _LARGEST_POLAR / max(1, num_bins - 1)
    return (-(((polar - centres[:, None, None]) / width) ** 2)).softmax(1)


def _route(
    residual: Float[Tensor, "b c h w"], rays: Float[Tensor, "#b 3 h w"], *, routed: bool
) -> Float[Tensor, "b c h w"]:
    return residual * pinhole_gate(rays).to(residual.dtype) if routed else residual


class PolarAffine(nn.Module):
    """A factor and an offset for every channel and bin of the polar angle."""

    sees_rays = True

    def __init__(self, channels: int, *, num_bins: int, routed: bool) -> None:
        super().__init__()
        self.routed = routed
        self.factor = nn.Parameter(torch.zeros(num_bins, channels))
        self.offset = nn.Parameter(torch.zeros(num_bins, channels))

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b 3 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        shares = polar_shares(camera, len(self.factor))
        factor = torch.einsum("bkhw,kc->bchw", shares, self.factor)
        offset = torch.einsum("bkhw,kc->bchw", shares, self.offset)
        return _route(features * factor + offset, camera, routed=self.routed)


class PolarConv(nn.Module):
    """A narrow depthwise filter whose kernel is mixed from those of the nearest polar angles."""

    sees_rays = True

    def __init__(self, channels: int, *, rank: int, num_bins: int, routed: bool) -> None:
        super().__init__()
        self.routed, self.num_bins = routed, num_bins
        self.down = nn.Conv2d(channels, rank, 1)
        self.filters = nn.Conv2d(rank, rank * num_bins, 3, padding=1, groups=rank, bias=False)
        self.up = nn.Conv2d(rank, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b 3 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        answers = self.filters(functional.gelu(self.down(features)))
        shares = polar_shares(camera, self.num_bins)[:, None].to(answers.dtype)
        mixed = (answers.unflatten(1, (-1, self.num_bins)) * shares).sum(2)
        return _route(self.up(mixed), camera, routed=self.routed)


@register_variant(
    hypothesis="A factor and an offset by polar angle adapt as well as attention and forget less.",
    compare_to="daa",
)
def polar_affine(stage: Stage, *, num_bins: int = 8, routed: bool = True) -> nn.Module:
    """Scales and shifts each channel by the angle off the axis; off for pinholes if ``routed``."""
    return PolarAffine(stage.channels, num_bins=num_bins, routed=routed)


@register_variant(
    hypothesis="Filters that change with the polar angle undo more of a lens than a scale does.",
    compare_to="polar_affine",
)
def polar_conv(
    stage: Stage, *, rank: int = 16, num_bins: int = 6, routed: bool = True
) -> nn.Module:
    """A 3x3 filter by polar angle in ``rank`` channels; off for pinholes if ``routed``."""
    return PolarConv(stage.channels, rank=rank, num_bins=num_bins, routed=routed)


class PolarSum(nn.Module):
    """The residuals of a scale and of filters by polar angle, added."""

    sees_rays = True

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(
        self, features: Float[Tensor, "b c h w"], camera: Float[Tensor, "#b 3 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the residual."""
        return torch.stack([part(features, camera) for part in self.parts]).sum(0)


@register_variant(
    hypothesis="Scale and filters by polar angle, off for pinholes, beat daa on both objectives.",
    compare_to="daa",
)
def polar_both(
    stage: Stage,
    *,
    rank: int = 16,
    num_bins: int = 8,
    routed: bool = True,
) -> nn.Module:
    """The residuals of ``polar_affine`` and ``polar_conv`` with the same bins, added."""
    return PolarSum(
        PolarAffine(stage.channels, num_bins=num_bins, routed=routed),
        PolarConv(stage.channels, rank=rank, num_bins=num_bins, routed=routed),
    )
