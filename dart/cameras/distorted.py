"""Lenses with tangential terms: OpenCV's, Aria's Fisheye624, COLMAP's thin prism, Mei's sphere.

Each is a radial lens and a distortion of its image plane; the field of view ends where either does.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.distortion import Distortion
from dart.cameras.lenses import odd_limits, odd_radius, odd_slope
from dart.cameras.polar import LARGEST_RADIUS, PolarCamera, SeriesCamera, bounded
from dart.cameras.solve import first_fall, safe_root

_PIXEL_PARAMS = ("fx", "fy", "cx", "cy")
_SMALLEST_COSINE = 1e-6


@dataclass(frozen=True, eq=False)
class DistortedCamera(PolarCamera):
    """A radial lens whose plane is then distorted; the first ``num_core`` parameters are radial."""

    num_core: ClassVar[int] = 0
    largest_radius: ClassVar[float] = LARGEST_RADIUS

    @abstractmethod
    def _distortion(self, k: tuple[Tensor, ...]) -> Distortion:
        """Return the distortion that the parameters after the radial ones describe."""

    @abstractmethod
    def _core_limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Tensor:
        """Return where the radial lens ends by itself."""

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        core, rest = k[: self.num_core], k[self.num_core :]
        columns = tuple(value[:, None] for value in core)
        distortion = self._distortion(rest)
        return first_fall(
            lambda theta: distortion.margin(self._radius(theta, columns), self.largest_radius),
            self._core_limits(core, rows),
        )

    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        fx, fy, cx, cy, *k = params
        factor, seen = self._bend(unit, tuple(k[: self.num_core]))
        plane = factor[..., None] * unit[..., :2]
        x, y = self._distortion(tuple(k[self.num_core :])).apply(plane).unbind(-1)
        return torch.stack([fx * x + cx, fy * y + cy], dim=-1), seen

    def _unproject_plane(
        self, plane: Float[Tensor, "*m 2"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        core, rest = params[4 : 4 + self.num_core], params[4 + self.num_core :]
        limit = self._aligned(self.polar_limit, plane)
        edge = self._radius(limit, tuple(value.detach() for value in core))
        undistorted, solved = self._distortion(rest).invert(plane, edge)
        rays, inside = super()._unproject_plane(undistorted, (*params[:4], *core))
        return rays, inside & solved


@dataclass(frozen=True, eq=False)
class RadialTangential(DistortedCamera):
    """Pinhole with OpenCV's distortion: k1, k2, p1, p2, k3 and the rational k4, k5, k6.

    Source: OpenCV's ``cv2.projectPoints``. Deviation: its first pixel has its centre at (0, 0),
    here it is (0.5, 0.5).
    """

    model: ClassVar[str] = "radial_tangential"
    param_names: ClassVar[tuple[str, ...]] = (
        *_PIXEL_PARAMS,
        *("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    )
    vector_params: ClassVar[tuple[tuple[str, str], ...]] = (("p2", "p1"),)
    largest_radius: ClassVar[float] = 1e7

    def _core_limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Tensor:  # noqa: ARG002
        return torch.full_like(rows[:, 0], math.acos(_SMALLEST_COSINE))

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return torch.tan(theta)

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return torch.atan(radius)

    def _distortion(self, k: tuple[Tensor, ...]) -> Distortion:
        k1, k2, p1, p2, k3, k4, k5, k6 = k
        return Distortion((k1, k2, k3), (k4, k5, k6), tangent=(p2, p1))


@dataclass(frozen=True, eq=False)
class Fisheye624(DistortedCamera, SeriesCamera):
    """Fisheye of six radial factors, two tangential (p0 of x, p1 of y) and four of a thin prism.

    The first four of the radial factors are Kannala-Brandt's.

    Source: Project Aria's FisheyeRadTanThinPrism. Deviation: its first pixel has its centre at
    (0, 0), here it is (0.5, 0.5).
    """

    model: ClassVar[str] = "fisheye624"
    param_names: ClassVar[tuple[str, ...]] = (
        *_PIXEL_PARAMS,
        *("k1", "k2", "k3", "k4", "k5", "k6", "p0", "p1", "s0", "s1", "s2", "s3"),
    )
    vector_params: ClassVar[tuple[tuple[str, str], ...]] = (
        ("p0", "p1"),
        ("s0", "s2"),
        ("s1", "s3"),
    )
    num_core: ClassVar[int] = 6

    def _core_limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Tensor:
        return odd_limits(k, rows)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return odd_radius(theta, k)

    def _slope(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return odd_slope(theta, k)

    def _distortion(self, k: tuple[Tensor, ...]) -> Distortion:
        p0, p1, s0, s1, s2, s3 = k
        return Distortion((), tangent=(p0, p1), prism=(s0, s1, s2, s3))


@dataclass(frozen=True, eq=False)
class ThinPrismFisheye(DistortedCamera):
    """Equidistant fisheye, then radial k1 .. k4, tangential p1, p2 and thin-prism sx1, sy1 terms.

    Source: COLMAP's THIN_PRISM_FISHEYE, which ETH3D's images have.
    """

    model: ClassVar[str] = "thin_prism_fisheye"
    param_names: ClassVar[tuple[str, ...]] = (
        *_PIXEL_PARAMS,
        *("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    )
    vector_params: ClassVar[tuple[tuple[str, str], ...]] = (("p2", "p1"), ("sx1", "sy1"))

    def _core_limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Tensor:  # noqa: ARG002
        return torch.full_like(rows[:, 0], math.pi)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return theta

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return radius

    def _distortion(self, k: tuple[Tensor, ...]) -> Distortion:
        k1, k2, p1, p2, k3, k4, right, down = k
        zero = torch.zeros_like(right)
        return Distortion((k1, k2, k3, k4), tangent=(p2, p1), prism=(right, zero, down, zero))


@dataclass(frozen=True, eq=False)
class Mei(DistortedCamera):
    """The unified sphere: ``(x, y) / (z + xi)`` of a unit ray, then OpenCV's k1, k2, p1, p2.

    With xi 0 it is a pinhole, with xi 1 stereographic at half the focal length; above 1 it sees as
    far as ``acos(-1 / xi)``, unless the distortion folds before.

    Source: Mei & Rives 2007, as ``cv2.omnidir`` and KITTI-360 (``MEI``) have it.
    """

    model: ClassVar[str] = "mei"
    param_names: ClassVar[tuple[str, ...]] = (*_PIXEL_PARAMS, "xi", "k1", "k2", "p1", "p2")
    param_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"xi": (-1 + 1e-6, math.inf)}
    vector_params: ClassVar[tuple[tuple[str, str], ...]] = (("p2", "p1"),)
    num_core: ClassVar[int] = 1

    def _core_limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Tensor:  # noqa: ARG002
        (xi,) = k
        end = torch.where(xi > 1, -1 / xi.clamp(min=1), -xi.clamp(max=1))
        return bounded(self, k, torch.acos(end))

    def _gain(self, k: tuple[Tensor, ...]) -> Tensor:
        return 1 / (1 + k[0])

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return theta.sin() / (theta.cos() + k[0])

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        (xi,) = k
        square = radius.square()
        root = safe_root(1 + (1 - xi.square()) * square)
        # Both over 1 + square: the ray is (xi + root) (x, y), then (xi + root) - xi (1 + square).
        return torch.atan2(radius * (xi + root), root - xi * square)

    def _distortion(self, k: tuple[Tensor, ...]) -> Distortion:
        k1, k2, p1, p2 = k
        return Distortion((k1, k2), tangent=(p2, p1))
