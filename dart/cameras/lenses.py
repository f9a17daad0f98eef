"""The lenses: Pinhole, and Kannala-Brandt (OpenCV's fisheye) valid beyond 90 degrees."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.camera import Camera
from dart.cameras.polar import SeriesCamera
from dart.cameras.rays import generate_rays
from dart.cameras.solve import first_root

_SMALLEST_COSINE = 1e-6


@dataclass(frozen=True, eq=False)
class Pinhole(Camera):
    """Perspective projection, fx, fy, cx, cy in pixels: sees what lies in front of it."""

    model: ClassVar[str] = "pinhole"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy")

    @property
    def K(self) -> Float[Tensor, "*b 3 3"]:  # noqa: N802
        """The intrinsic matrix, in pixels."""
        fx, fy, cx, cy = self.params.unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))

    @cached_property
    def polar_limit(self) -> Float[Tensor, "*b"]:
        """Half the field of view in radians: all but 90 degrees."""
        limit = math.acos(_SMALLEST_COSINE)
        return torch.full_like(self.params.detach()[..., 0], limit, dtype=torch.float64)

    def rays(self) -> Float[Tensor, "*b h w 3"]:
        """Return the unit ray through every pixel's centre, as ``generate_rays`` does."""
        rays = generate_rays(self.K.reshape(-1, 3, 3), self.size)
        return rays.reshape(*self.params.shape[:-1], *rays.shape[1:])

    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        fx, fy, cx, cy = params
        x, y, z = unit.unbind(-1)
        seen = z > _SMALLEST_COSINE
        depth = torch.where(seen, z, 1.0)
        pixels = torch.stack([fx * x / depth + cx, fy * y / depth + cy], dim=-1)
        return pixels, seen.expand(pixels.shape[:-1])

    def _unproject_plane(
        self,
        plane: Float[Tensor, "*m 2"],
        params: tuple[Tensor, ...],  # noqa: ARG002
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        rays = torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1)
        norm = torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
        return rays / norm, torch.ones_like(norm[..., 0], dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class KannalaBrandt(SeriesCamera):
    """Fisheye whose image radius is ``theta + k1 theta^3 + k2 theta^5 + k3 theta^7 + k4 theta^9``.

    ``theta`` is the polar angle, ``atan2(r, z)``, so rays beyond 90 degrees are as good as others.

    Source: Kannala & Brandt 2006, in the form of OpenCV's ``cv2.fisheye``. Deviation: OpenCV's
    first pixel has its centre at (0, 0), here it is (0.5, 0.5).
    """

    model: ClassVar[str] = "kannala_brandt"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        return odd_limits(k, rows)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return odd_radius(theta, k)

    def _slope(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return odd_slope(theta, k)


def odd_limits(k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Return the polar angle where ``odd_radius`` stops growing, at most pi."""
    factors = np.array([2 * order + 3 for order in range(len(k))])
    kept = torch.stack(k, dim=-1).cpu().numpy() * factors
    powers = np.concatenate([np.ones_like(kept[:, :1]), kept], axis=-1)
    scaled = powers * math.pi ** (2 * np.arange(powers.shape[-1]))
    return rows.new_tensor([math.pi * float(np.sqrt(first_root(row))) for row in scaled])


def odd_radius(theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
    """Return ``theta + k[0] theta^3 + k[1] theta^5 + ...``."""
    square = theta.square()
    series = k[-1]
    for value in reversed(k[:-1]):
        series = series * square + value
    return theta * (1 + series * square)


def odd_slope(theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
    """Return the derivative of ``odd_radius``."""
    square = theta.square()
    factors = [2 * order + 3 for order in range(len(k))]
    series = factors[-1] * k[-1]
    for factor, value in zip(reversed(factors[:-1]), reversed(k[:-1]), strict=True):
        series = series * square + factor * value
    return 1 + series * square
