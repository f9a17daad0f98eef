"""The lenses: Pinhole, and Kannala-Brandt (OpenCV's fisheye) valid beyond 90 degrees."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.camera import Camera, degrees
from dart.cameras.rays import generate_rays
from dart.errors import UserError

_SMALLEST_COSINE = 1e-6
_AXIS_SQUARE = 1e-24
_EDGE = 1e-6
_SMALLEST_SLOPE = 1e-6
_NEWTON_STEPS = 64
_CONVERGED = 1e-13


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
class KannalaBrandt(Camera):
    """Fisheye whose image radius is ``theta + k1 theta^3 + k2 theta^5 + k3 theta^7 + k4 theta^9``.

    ``theta`` is the polar angle, ``atan2(r, z)``, so rays beyond 90 degrees are as good as others.

    Source: Kannala & Brandt 2006, in the form of OpenCV's ``cv2.fisheye``. Deviation: OpenCV's
    first pixel has its centre at (0, 0), here it is (0.5, 0.5).
    """

    model: ClassVar[str] = "kannala_brandt"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")

    max_polar: float | None = None
    """Half the field of view in radians; by default where the radius stops growing, or pi."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_polar is not None and not 0 < self.max_polar <= math.pi:
            raise UserError(
                f"{self.model}: max_polar = {math.degrees(self.max_polar):g} degrees; "
                "it must be above 0 and at most 180"
            )
        if self.max_polar is not None and self.max_polar > self._monotonic.min() + _EDGE:
            raise UserError(
                f"{self.model}: max_polar = {math.degrees(self.max_polar):g} degrees is beyond "
                f"{math.degrees(self._monotonic.min()):.4g}, where this lens's radius stops growing"
            )

    @cached_property
    def _monotonic(self) -> Float[Tensor, "*b"]:
        """Polar angle where the radius stops growing, at most pi; float64, no gradient."""
        k = self.params.detach()[..., 4:].double().cpu().numpy()
        powers = np.concatenate([np.ones_like(k[..., :1]), k * [3, 5, 7, 9]], axis=-1)
        limits = [_first_root(row) for row in powers.reshape(-1, powers.shape[-1])]
        return self.params.detach().new_tensor(limits, dtype=torch.float64).reshape(k.shape[:-1])

    @cached_property
    def polar_limit(self) -> Float[Tensor, "*b"]:
        """Half the field of view in radians, one a camera; float64, no gradient."""
        limit = self._monotonic
        return limit if self.max_polar is None else limit.clamp(max=self.max_polar)

    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        fx, fy, cx, cy, *k = params
        limit = self._aligned(self.polar_limit, unit)
        x, y, z = unit.unbind(-1)
        square = x.square() + y.square()
        on_axis = square < _AXIS_SQUARE
        radius = torch.where(on_axis, 1.0, square).sqrt()
        theta = torch.where(on_axis, torch.where(z < 0, math.pi, 0.0), torch.atan2(radius, z))
        # Straight behind, a lens of 360 degrees sees the point on a whole circle of pixels.
        seen = (theta <= limit + _EDGE) & ~(on_axis & (z < 0))
        distorted = _radius(torch.where(theta < limit, theta, limit), k)
        factor = torch.where(on_axis, 1.0, distorted / radius)
        return torch.stack([fx * factor * x + cx, fy * factor * y + cy], dim=-1), seen

    def _unproject_plane(
        self, plane: Float[Tensor, "*m 2"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        k = params[4:]
        limit = self._aligned(self.polar_limit, plane).expand(plane.shape[:-1])
        edge = _radius(limit, [value.detach() for value in k])
        square = plane.square().sum(-1)
        on_axis = square < _AXIS_SQUARE
        distorted = torch.where(on_axis, 1.0, square).sqrt()
        inside = distorted < edge
        theta = torch.where(inside, _solve(torch.where(inside, distorted, edge), k, limit), limit)
        ratio = torch.where(on_axis, 1.0, theta.sin() / distorted)
        z = torch.where(on_axis, 1.0, theta.cos())
        rays = torch.cat([plane * ratio[..., None], z[..., None]], dim=-1)
        return rays, on_axis | (distorted <= edge + _EDGE)

    @property
    def _bounds(self) -> str:
        return "" if self.max_polar is None else f" {degrees(self.max_polar)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the camera as a calibration file has it (``camera_from_dict`` reads it back)."""
        content = super().to_dict()
        if self.max_polar is not None:
            content["max_polar_degrees"] = degrees(self.max_polar)
        return content


def _first_root(powers: np.ndarray) -> float:
    """Return the first theta in (0, pi] where ``sum powers[i] theta^(2i)`` vanishes, or pi."""
    scaled = powers * math.pi ** (2 * np.arange(powers.size))
    # A leading coefficient that changes nothing within 180 degrees would spoil the other roots.
    kept = np.abs(scaled) > 1e-15 * np.abs(scaled).max()
    roots = np.polynomial.Polynomial(scaled[: np.flatnonzero(kept)[-1] + 1]).roots()
    real = roots.real[np.abs(roots.imag) <= 1e-12 * np.abs(roots.real)]
    squares = real[(real > 0) & (real < 1)]
    return math.pi * float(np.sqrt(squares.min())) if squares.size else math.pi


def _radius(theta: Tensor, k: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    square = theta.square()
    series = k[3]
    for value in (k[2], k[1], k[0]):
        series = series * square + value
    return theta * (1 + series * square)


def _slope(theta: Tensor, k: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    square = theta.square()
    series = 9 * k[3]
    for factor, value in ((7, k[2]), (5, k[1]), (3, k[0])):
        series = series * square + factor * value
    return 1 + series * square


def _solve(distorted: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:
    """Return theta in [0, limit] whose radius is ``distorted``, differentiable in both.

    Newton's method inside a shrinking bracket finds the value; the gradient is that of the
    implicit function, so it costs one step whatever the search took.
    """
    fixed = [value.detach() for value in k]
    theta = _bracketed_newton(distorted.detach(), fixed, limit)
    slope = _slope(theta, fixed).clamp(min=_SMALLEST_SLOPE)
    step = (distorted - _radius(theta, k)) / slope
    return theta + (step - step.detach())


@torch.no_grad()
def _bracketed_newton(distorted: Tensor, k: list[Tensor], limit: Tensor) -> Tensor:
    low, high = torch.zeros_like(limit), limit.clone()
    theta = torch.minimum(distorted, limit)
    last = high - low
    done = torch.zeros_like(theta, dtype=torch.bool)
    for _ in range(_NEWTON_STEPS):
        error = _radius(theta, k) - distorted
        low = torch.where(error < 0, theta, low)
        high = torch.where(error >= 0, theta, high)
        step = error / _slope(theta, k)
        inside = (theta - step >= low) & (theta - step <= high)
        # Newton may crawl where the slope nears zero: halve the bracket unless steps halve.
        keep = inside & (step.abs() <= 0.5 * last.abs())
        step = torch.where(keep, step, theta - (low + high) / 2)
        # A finished element stays as it is, whatever its neighbours still need.
        theta = torch.where(done, theta, theta - step)
        last = step
        done |= step.abs() < _CONVERGED
        if bool(done.all()):
            break
    return theta
