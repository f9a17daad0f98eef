"""Lenses whose image radius is a function of the polar angle alone, up to 180 degrees.

A lens gives that function, its inverse and where it ends; this base does the rest. The polar
angle is ``atan2(r, z)``, so rays beyond 90 degrees are as good as others.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.camera import Camera, degrees
from dart.cameras.solve import bracketed_newton, first_fall
from dart.errors import UserError

EDGE = 1e-6
LARGEST_RADIUS = 1e3
"""Where the image of a lens has no end, the field of view ends at so many focal lengths."""

_AXIS_SQUARE = 1e-24
_SMALLEST_SLOPE = 1e-6


@dataclass(frozen=True, eq=False)
class PolarCamera(Camera):
    """A lens with a radius for each polar angle; fx, fy, cx, cy in pixels."""

    max_polar: float | None = None
    """Half the field of view in radians; by default where the lens ends by itself, at most pi."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_polar is not None and not 0 < self.max_polar <= math.pi:
            raise UserError(
                f"{self.model}: max_polar = {math.degrees(self.max_polar):g} degrees; "
                "it must be above 0 and at most 180"
            )
        if self.max_polar is not None and self.max_polar > self.natural_limit.min() + EDGE:
            raise UserError(
                f"{self.model}: max_polar = {math.degrees(self.max_polar):g} degrees is beyond "
                f"{math.degrees(self.natural_limit.min()):.4g}, where this lens's radius stops "
                "growing or has no bound"
            )

    @cached_property
    def natural_limit(self) -> Float[Tensor, "*b"]:
        """Polar angle where the lens ends by itself, at most pi; float64, no gradient."""
        params = self.params.detach().double()
        rows = params.reshape(-1, params.shape[-1])
        return self._limits(rows[:, 4:].unbind(-1), rows).reshape(params.shape[:-1])

    @cached_property
    def polar_limit(self) -> Float[Tensor, "*b"]:
        """Half the field of view in radians, one a camera; float64, no gradient."""
        limit = self.natural_limit
        return limit if self.max_polar is None else limit.clamp(max=self.max_polar)

    @abstractmethod
    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        """Return where each lens ends by itself: ``rows`` are parameters, ``k`` all but four."""

    @abstractmethod
    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        """Return the radius, over the focal length, of a polar angle up to the limit."""

    @abstractmethod
    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:
        """Return the polar angle of a radius up to that of ``limit``."""

    def _bend(
        self, unit: Float[Tensor, "*n 3"], k: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m"], Bool[Tensor, "*m"]]:
        """Return radius over sine, which times x and y is the image, and which rays are seen."""
        limit = self._aligned(self.polar_limit, unit)
        x, y, z = unit.unbind(-1)
        square = x.square() + y.square()
        on_axis = square < _AXIS_SQUARE
        radius = torch.where(on_axis, 1.0, square).sqrt()
        theta = torch.where(on_axis, torch.where(z < 0, math.pi, 0.0), torch.atan2(radius, z))
        # Straight behind, a lens of 360 degrees sees the point on a whole circle of pixels.
        seen = (theta <= limit + EDGE) & ~(on_axis & (z < 0))
        distorted = self._radius(torch.where(theta < limit, theta, limit), k)
        return torch.where(on_axis, self._gain(k), distorted / radius), seen

    def _gain(self, k: tuple[Tensor, ...]) -> Tensor | float:  # noqa: ARG002
        """Return the slope of the radius on the axis."""
        return 1.0

    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        fx, fy, cx, cy, *k = params
        x, y, _ = unit.unbind(-1)
        factor, seen = self._bend(unit, tuple(k))
        return torch.stack([fx * factor * x + cx, fy * factor * y + cy], dim=-1), seen

    def _unproject_plane(
        self, plane: Float[Tensor, "*m 2"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        k = params[4:]
        limit = self._aligned(self.polar_limit, plane).expand(plane.shape[:-1])
        edge = self._radius(limit, tuple(value.detach() for value in k))
        square = plane.square().sum(-1)
        on_axis = square < _AXIS_SQUARE
        distorted = torch.where(on_axis, 1.0, square).sqrt()
        inside = distorted < edge
        polar = self._polar(torch.where(inside, distorted, edge), k, limit)
        theta = torch.where(inside, polar, limit)
        ratio = torch.where(on_axis, 1.0, theta.sin() / distorted)
        ratio = torch.where(on_axis, 1.0 / self._gain(k), ratio)
        z = torch.where(on_axis, 1.0, theta.cos())
        rays = torch.cat([plane * ratio[..., None], z[..., None]], dim=-1)
        return rays, on_axis | (distorted <= edge + EDGE)

    @property
    def _bounds(self) -> str:
        return "" if self.max_polar is None else f" {degrees(self.max_polar)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the camera as a calibration file has it (``camera_from_dict`` reads it back)."""
        content = super().to_dict()
        if self.max_polar is not None:
            content["max_polar_degrees"] = degrees(self.max_polar)
        return content


@dataclass(frozen=True, eq=False)
class SeriesCamera(PolarCamera):
    """A lens whose radius is a polynomial of the polar angle, which has no closed inverse."""

    @abstractmethod
    def _slope(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        """Return the derivative of the radius."""

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:
        # The gradient is that of the implicit function: one step, whatever the search took.
        fixed = tuple(value.detach() for value in k)
        theta = bracketed_newton(
            lambda x: self._radius(x, fixed),
            lambda x: self._slope(x, fixed),
            radius.detach(),
            start=radius.detach() / self._gain(fixed),
            limit=limit,
        )
        slope = self._slope(theta, fixed).clamp(min=_SMALLEST_SLOPE)
        step = (radius - self._radius(theta, k)) / slope
        return theta + (step - step.detach())


def bounded(lens: PolarCamera, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:
    """Return ``limit``, or the angle before it where the radius passes ``LARGEST_RADIUS``."""
    columns = tuple(value[:, None] for value in k)

    def margin(theta: Tensor) -> Tensor:
        radius = lens._radius(theta, columns)
        return torch.where(radius >= 0, LARGEST_RADIUS - radius, -1.0)

    return first_fall(margin, limit)
