"""How rays become channels: the embeddings by name, and which of their bands are too fine.

Axis letters: ``b`` batch, ``e`` camera channels, ``h w`` cells.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from dart.cameras.camera import Camera
from dart.cameras.harmonics import num_harmonics, spherical_harmonics
from dart.cameras.rays import (
    embedding_channels,
    generate_fourier_features,
    highest_frequency,
    polar_azimuth,
)
from dart.conditioning import EmbeddingKind

_SMALLEST_SINE = 1e-6
_DEGREE = 8
_WHOLE_TURN = 2 * math.pi


@dataclass(frozen=True)
class Embedding:
    """One way to describe rays: how many channels it gives for those wanted, and the channels."""

    channels: Callable[[int], int]
    describe: Callable[[Tensor, int], Tensor]
    """Unit rays (b h w 3) and channels wanted -> features (b h w e)."""


def angles_without_seam(rays: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
    """Return the polar angle along x and along y: (theta cos phi, theta sin phi), in radians.

    Where the azimuth jumps from pi to -pi, and on the axis, where it has no value, these are
    smooth; only straight behind, where a ray has every azimuth, they are not.
    """
    xy, z = rays[..., :2], rays[..., 2:]
    sine = torch.linalg.vector_norm(xy, dim=-1, keepdim=True)
    polar = torch.atan2(sine, z)
    # Near the axis theta / sin theta is 1; straight behind there is no direction to keep.
    ratio = torch.where(sine > _SMALLEST_SINE, polar / sine.clamp_min(_SMALLEST_SINE), 1.0)
    return xy * ratio


def _fourier(rays: Float[Tensor, "b h w 3"], dim: int) -> Float[Tensor, "b h w e"]:
    highest = highest_frequency((rays.shape[1], rays.shape[2]))
    return generate_fourier_features(polar_azimuth(rays), dim, highest)


def _band_limited(rays: Float[Tensor, "b h w 3"], dim: int) -> Float[Tensor, "b h w e"]:
    # A lens of 360 degrees turns by 2 pi / cells a cell, and a band of frequency f by pi f that.
    highest = max(1.0, max(rays.shape[1:3]) / _WHOLE_TURN)
    return generate_fourier_features(polar_azimuth(rays), dim, highest)


def _periodic(rays: Float[Tensor, "b h w 3"], dim: int) -> Float[Tensor, "b h w e"]:
    highest = highest_frequency((rays.shape[1], rays.shape[2]))
    return generate_fourier_features(angles_without_seam(rays), dim, highest)


def _ray(rays: Float[Tensor, "b h w 3"], dim: int) -> Float[Tensor, "b h w 3"]:  # noqa: ARG001
    return rays


def _harmonics(rays: Float[Tensor, "b h w 3"], dim: int) -> Float[Tensor, "b h w e"]:  # noqa: ARG001
    return spherical_harmonics(rays, degree=_DEGREE)


EMBEDDINGS: Mapping[EmbeddingKind, Embedding] = MappingProxyType(
    {
        "fourier": Embedding(embedding_channels, _fourier),
        "band_limited": Embedding(embedding_channels, _band_limited),
        "periodic": Embedding(embedding_channels, _periodic),
        "ray": Embedding(lambda _: 3, _ray),
        "harmonics": Embedding(lambda _: num_harmonics(_DEGREE), _harmonics),
    }
)
"""``fourier``: UniDepth V2's features of polar angle and azimuth. ``band_limited``: the same with
frequencies that no lens aliases. ``periodic``: Fourier features of (theta cos phi, theta sin phi),
without the azimuth's seam. ``ray``: the unit ray. ``harmonics``: 81 spherical harmonics."""


def count_aliased_bands(camera: Camera, stride: int, *, dim: int = 256) -> tuple[int, int]:
    """Return how many bands of the polar angle alias at ``stride``, and how many bands there are.

    A band aliases where its phase turns by more than pi from one cell to the next: two lenses
    then look alike to it. It happens beyond 2 rad across the longer side.
    """
    cells = (max(1, camera.size[0] // stride), max(1, camera.size[1] // stride))
    polar = polar_azimuth(camera.to(dtype=torch.float64).resize(cells).rays())[..., 0]
    steps = [polar.diff(dim=axis).abs() for axis in (-2, -1)]
    largest = max((float(step.max()) for step in steps if step.numel()), default=0.0)
    num_bands = embedding_channels(dim) // 2
    exponents = torch.linspace(
        0.0, math.log2(highest_frequency(cells)), num_bands, dtype=torch.float64
    )
    return int((2.0**exponents * largest > 1).sum()), num_bands
