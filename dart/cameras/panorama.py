"""The equirectangular panorama: columns are longitudes, rows are latitudes."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.camera import Camera
from dart.errors import UserError

_EDGE = 1e-6
_AXIS_SQUARE = 1e-24


@dataclass(frozen=True, eq=False)
class Equirectangular(Camera):
    """Panorama of fx pixels a radian of longitude, fy of latitude; (cx, cy) looks straight ahead.

    Longitude is ``atan2(x, z)``, latitude ``atan2(y, r)``, down positive. The whole sphere has
    fx = width / 2 pi and fy = height / pi. A pole is seen once, at longitude 0; a pixel beyond
    the sphere's seam has the ray of the other side, one beyond a pole the pole's, and both False.
    """

    model: ClassVar[str] = "equirectangular"
    param_names: ClassVar[tuple[str, ...]] = ("fx", "fy", "cx", "cy")

    @cached_property
    def polar_limit(self) -> Float[Tensor, "*b"]:
        """Half the field of view in radians: all directions."""
        return torch.full_like(self.params.detach()[..., 0], math.pi, dtype=torch.float64)

    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        fx, fy, cx, cy = params
        x, y, z = unit.unbind(-1)
        square = x.square() + z.square()
        pole = square < _AXIS_SQUARE
        radius = torch.where(pole, 1.0, square).sqrt()
        longitude = torch.atan2(torch.where(pole, 0.0, x), torch.where(pole, 1.0, z))
        latitude = torch.atan2(y, torch.where(pole, 0.0, radius))
        pixels = torch.stack([fx * longitude + cx, fy * latitude + cy], dim=-1)
        return pixels, torch.ones_like(pixels[..., 0], dtype=torch.bool)

    def _unproject_plane(
        self,
        plane: Float[Tensor, "*m 2"],
        params: tuple[Tensor, ...],  # noqa: ARG002
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        longitude, latitude = plane.unbind(-1)
        seen = (longitude.abs() <= math.pi + _EDGE) & (latitude.abs() <= math.pi / 2 + _EDGE)
        latitude = latitude.clamp(-math.pi / 2, math.pi / 2)
        level = latitude.cos()
        rays = torch.stack(
            [level * longitude.sin(), latitude.sin(), level * longitude.cos()], dim=-1
        )
        return rays, seen

    def _quarter_turned(self) -> NoReturn:
        raise UserError(
            "equirectangular: a panorama turned by 90 degrees is none (its columns would be "
            "latitudes); turn the rays instead, or warp it into another lens first"
        )
