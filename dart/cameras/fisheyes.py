"""Fisheyes without tangential terms: the four ideal ones, WoodScape's polynomial, and two spheres.

The radius is over the focal length, so an ideal lens has ``theta`` near its axis.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dart.cameras.polar import PolarCamera, SeriesCamera, bounded
from dart.cameras.solve import first_root, safe_root

_PIXEL_PARAMS = ("fx", "fy", "cx", "cy")
_TINY = 1e-12
_BEFORE_180 = 5e-7


@dataclass(frozen=True, eq=False)
class Equidistant(PolarCamera):
    """Fisheye whose image radius is ``theta``: 360 degrees."""

    model: ClassVar[str] = "equidistant"
    param_names: ClassVar[tuple[str, ...]] = _PIXEL_PARAMS

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:  # noqa: ARG002
        return torch.full_like(rows[:, 0], math.pi)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return theta

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return radius


@dataclass(frozen=True, eq=False)
class Equisolid(PolarCamera):
    """Fisheye whose image radius is ``2 sin(theta / 2)``: 360 degrees."""

    model: ClassVar[str] = "equisolid"
    param_names: ClassVar[tuple[str, ...]] = _PIXEL_PARAMS

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:  # noqa: ARG002
        # At 180 degrees the radius no longer tells angles apart, and the ray loses its azimuth.
        return torch.full_like(rows[:, 0], math.pi - _BEFORE_180)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return 2 * torch.sin(theta / 2)

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return 2 * torch.atan2(radius, safe_root((2 - radius) * (2 + radius)))


@dataclass(frozen=True, eq=False)
class Stereographic(PolarCamera):
    """Fisheye whose image radius is ``2 tan(theta / 2)``, up to 1000 focal lengths."""

    model: ClassVar[str] = "stereographic"
    param_names: ClassVar[tuple[str, ...]] = _PIXEL_PARAMS

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        return bounded(self, k, torch.full_like(rows[:, 0], math.pi))

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return 2 * torch.tan(theta / 2)

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return 2 * torch.atan(radius / 2)


@dataclass(frozen=True, eq=False)
class Orthographic(PolarCamera):
    """Fisheye whose image radius is ``sin(theta)``: 180 degrees."""

    model: ClassVar[str] = "orthographic"
    param_names: ClassVar[tuple[str, ...]] = _PIXEL_PARAMS

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:  # noqa: ARG002
        return torch.full_like(rows[:, 0], math.pi / 2)

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:  # noqa: ARG002
        return torch.sin(theta)

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return torch.atan2(radius, safe_root((1 - radius) * (1 + radius)))


@dataclass(frozen=True, eq=False)
class RadialPolynomial(SeriesCamera):
    """Fisheye whose image radius is ``k1 theta + k2 theta^2 + k3 theta^3 + k4 theta^4``.

    WoodScape's lens: fx is 1, fy the aspect ratio, and k are in pixels. Deviation: its first pixel
    has its centre at (0, 0), here it is (0.5, 0.5).

    Source: Yogamani et al. 2019 (WoodScape), ``radial_poly`` of its calibration files.
    """

    model: ClassVar[str] = "radial_polynomial"
    param_names: ClassVar[tuple[str, ...]] = (*_PIXEL_PARAMS, "k1", "k2", "k3", "k4")
    param_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"k1": (_TINY, math.inf)}

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        powers = torch.stack(k, dim=-1).cpu().numpy() * np.arange(1, len(k) + 1)
        scaled = powers * math.pi ** np.arange(len(k))
        return rows.new_tensor([math.pi * first_root(row) for row in scaled])

    def _gain(self, k: tuple[Tensor, ...]) -> Tensor:
        return k[0]

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        k1, k2, k3, k4 = k
        return theta * (k1 + theta * (k2 + theta * (k3 + theta * k4)))

    def _slope(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        k1, k2, k3, k4 = k
        return k1 + theta * (2 * k2 + theta * (3 * k3 + theta * 4 * k4))


@dataclass(frozen=True, eq=False)
class EUCM(PolarCamera):
    """The enhanced unified model: ``r / (alpha sqrt(beta r^2 + z^2) + (1 - alpha) z)``.

    With alpha 0 it is a pinhole, with alpha 1 orthographic; above 0.5 it sees beyond 90 degrees as
    far as its radius grows.

    Source: Khomutenko, Garcia & Martinet 2016.
    """

    model: ClassVar[str] = "eucm"
    param_names: ClassVar[tuple[str, ...]] = (*_PIXEL_PARAMS, "alpha", "beta")
    param_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "alpha": (0.0, 1.0),
        "beta": (_TINY, math.inf),
    }

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:  # noqa: ARG002
        return bounded(self, k, unified_limit(*k))

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        return unified_radius(theta, *k)

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        return unified_polar(radius, *k)


@dataclass(frozen=True, eq=False)
class DoubleSphere(PolarCamera):
    """Two spheres, ``xi`` apart, then a pinhole shifted by ``alpha / (1 - alpha)``.

    With xi 0 it is ``EUCM`` with beta 1. From the second sphere on it is that lens too, so the
    formulas here are EUCM's around the angle that the second sphere sees.

    Source: Usenko, Demmel & Cremers 2018.
    """

    model: ClassVar[str] = "double_sphere"
    param_names: ClassVar[tuple[str, ...]] = (*_PIXEL_PARAMS, "xi", "alpha")
    param_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "xi": (-1 + 1e-6, math.inf),
        "alpha": (0.0, 1.0),
    }

    def _limits(self, k: tuple[Tensor, ...], rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:  # noqa: ARG002
        xi, alpha = k
        # Beyond a sphere that lies outside the first one, the second sees points twice.
        fold = torch.where(xi > 1, torch.acos(-1 / xi.clamp(min=1)), math.pi)
        limit = unified_limit(alpha, torch.ones_like(alpha))
        first = torch.where(limit >= seen_from(fold, xi), fold, _seen_at_centre(limit, xi))
        return bounded(self, k, torch.minimum(first, fold))

    def _gain(self, k: tuple[Tensor, ...]) -> Tensor:
        return 1 / (1 + k[0])

    def _radius(self, theta: Tensor, k: tuple[Tensor, ...]) -> Tensor:
        xi, alpha = k
        return unified_radius(seen_from(theta, xi), alpha, torch.ones_like(alpha))

    def _polar(self, radius: Tensor, k: tuple[Tensor, ...], limit: Tensor) -> Tensor:  # noqa: ARG002
        xi, alpha = k
        return _seen_at_centre(unified_polar(radius, alpha, torch.ones_like(alpha)), xi)


def seen_from(theta: Tensor, xi: Tensor) -> Tensor:
    """Return the polar angle of a point of the unit sphere, seen from ``xi`` behind its centre."""
    return torch.atan2(theta.sin(), theta.cos() + xi)


def _seen_at_centre(theta: Tensor, xi: Tensor) -> Tensor:
    """Return the inverse of ``seen_from`` on the sheet that lies in front."""
    sine, cosine = theta.sin(), theta.cos()
    length = xi * cosine + safe_root(1 - (xi * sine).square())
    return torch.atan2(length * sine, length * cosine - xi)


def unified_radius(theta: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return EUCM's radius of a polar angle."""
    sine, cosine = theta.sin(), theta.cos()
    distance = (beta * sine.square() + cosine.square()).sqrt()
    return sine / (alpha * distance + (1 - alpha) * cosine)


def unified_polar(radius: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the inverse of ``unified_radius`` below its fold."""
    square = beta * radius.square()
    inner = (1 - (2 * alpha - 1) * square).clamp(min=0)
    divisor = alpha * safe_root(inner) + 1 - alpha
    divisor = torch.where(divisor > 0, divisor, 1.0)
    # The usual 1 - alpha^2 square above the line, in a form that loses nothing at alpha 1.
    return torch.atan2(radius, (inner - (1 - alpha).square() * square) / divisor)


def unified_limit(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return where EUCM's radius stops growing (alpha above 0.5) or has no bound."""
    fold = torch.atan2((2 * alpha - 1).clamp(min=0).sqrt(), -(1 - alpha) * beta.sqrt())
    pole = torch.atan2((1 - 2 * alpha).clamp(min=0).sqrt(), -alpha * beta.sqrt())
    return torch.where(alpha > 0.5, fold, pole)
