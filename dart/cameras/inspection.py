"""What a lens does, in numbers: field of view, round trip, nearest ideal lens, and what looks odd.

Axis letters: ``h w`` pixels of the grid that is examined, ``n`` samples along a curve.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from dart.cameras.camera import Camera

_MOST_PIXELS = 2**18
_OFF_CENTRE = 0.1
_FOCAL_RATIO = 1.1
_SMALLEST_FIELD, _SMALLEST_SHARE = 5.0, 0.3
_ROUND_TRIP = 1e-4

Mapped = Callable[[Float[ndarray, " n"]], Float[ndarray, " n"]]

IDEAL_LENSES: Mapping[str, tuple[Mapped, float]] = MappingProxyType(
    {
        "pinhole": (np.tan, math.radians(85)),
        "stereographic": (lambda theta: 2 * np.tan(theta / 2), math.radians(170)),
        "equidistant": (lambda theta: theta, math.pi),
        "equisolid": (lambda theta: 2 * np.sin(theta / 2), math.pi),
        "orthographic": (np.sin, math.pi / 2),
    }
)
"""Radius over focal length of each ideal lens, and up to which polar angle."""


@dataclass(frozen=True)
class Inspection:
    """Everything that ``dart camera`` says and draws."""

    horizontal_fov: float
    """Degrees from the left to the right edge of the image, through the principal point."""
    vertical_fov: float
    diagonal_fov: float
    """Degrees from corner to corner, the wider of both diagonals."""
    seen_share: float
    """Share of the pixels inside the field of view."""
    polar_limit: float | None
    """Degrees off the axis where the lens ends or its radius stops growing; None: no such end."""
    round_trip: float
    """Largest distance in pixels between a pixel and the projection of its ray."""
    nearest_ideal: str
    """Ideal lens with the smallest mean difference."""
    ideal_focal: float
    """Its focal length in pixels."""
    ideal_difference: float
    """Mean angle in degrees between the rays of both."""
    warnings: tuple[str, ...]
    polar: Float[ndarray, "h w"]
    """Polar angle in degrees of the examined pixels; NaN outside the field of view."""
    errors: Float[ndarray, "h w"]
    """Round-trip error in pixels."""
    differences: Float[ndarray, "h w"]
    """Angle in degrees to the ray of the nearest ideal lens."""
    curve: tuple[Float[ndarray, " n"], Float[ndarray, " n"]]
    """Polar angle in degrees and image radius in pixels, to the right of the principal point."""


def inspect_camera(camera: Camera) -> Inspection:
    """Return what a lens does; its formulas are evaluated in float64."""
    camera = camera.to(dtype=torch.float64)
    pixels = _grid(camera.size)
    rays, seen = camera.unproject(pixels)
    again, _ = camera.project(rays)
    inside = seen.numpy()
    errors = np.where(inside, torch.linalg.vector_norm(again - pixels, dim=-1).numpy(), np.nan)
    polar = np.where(inside, _polar(rays).numpy(), np.nan)
    name, focal, differences = _nearest_ideal(camera, pixels, polar)
    fields = _fields(camera)
    share = float(inside.mean())
    error = float(np.nanmax(errors)) if inside.any() else math.inf
    return Inspection(
        *fields,
        seen_share=share,
        polar_limit=_limit(camera),
        round_trip=error,
        nearest_ideal=name,
        ideal_focal=focal,
        ideal_difference=_mean(differences),
        warnings=tuple(_warnings(camera, fields, share, error)),
        polar=np.degrees(polar),
        errors=errors,
        differences=differences,
        curve=_curve(camera),
    )


def _mean(values: Float[ndarray, "h w"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _grid(size: tuple[int, int]) -> Float[torch.Tensor, "h w 2"]:
    """Return pixel centres over the whole image, edge rows included, at most 512 x 512 or so."""
    step = max(1.0, math.sqrt(size[0] * size[1] / _MOST_PIXELS))
    sides = [
        torch.linspace(0.5, n - 0.5, max(1, round(n / step)), dtype=torch.float64) for n in size
    ]
    v, u = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([u, v], dim=-1)


def _polar(rays: Float[torch.Tensor, "*n 3"]) -> Float[torch.Tensor, "*n"]:
    x, y, z = rays.unbind(-1)
    return torch.atan2(torch.hypot(x, y), z)


def _limit(camera: Camera) -> float | None:
    limit = getattr(camera, "polar_limit", None)
    return None if limit is None else math.degrees(float(limit))


def _fields(camera: Camera) -> tuple[float, float, float]:
    """Return the angles across the image: horizontal, vertical, and the wider diagonal."""
    height, width = camera.size
    cx, cy = (float(value) for value in camera.params[2:4])
    pairs = [
        ((0.0, cy), (width, cy)),
        ((cx, 0.0), (cx, height)),
        ((0.0, 0.0), (width, height)),
        ((width, 0.0), (0.0, height)),
    ]
    rays, _ = camera.unproject(torch.tensor(pairs, dtype=torch.float64))
    # Both on the axis' two sides: beyond 180 degrees the angle between the rays would shrink.
    angles = torch.rad2deg(_polar(rays).sum(-1)).tolist()
    return angles[0], angles[1], max(angles[2:])


def _nearest_ideal(
    camera: Camera, pixels: Float[torch.Tensor, "h w 2"], polar: Float[ndarray, "h w"]
) -> tuple[str, float, Float[ndarray, "h w"]]:
    """Return the ideal lens that fits best, its focal length, and the angle to it in degrees."""
    fx, fy, cx, cy = (float(value) for value in camera.params[:4])
    offset = pixels.numpy() - [cx, cy]
    # Pixels that are not square are the sensor's, not the lens's.
    radius = np.hypot(offset[..., 0] * math.sqrt(fy / fx), offset[..., 1] * math.sqrt(fx / fy))
    known = np.isfinite(polar)
    best = ("none", math.nan, np.full(polar.shape, np.nan))
    if not known.any() or camera.model == "equirectangular":
        return best
    smallest = math.inf
    for name, (mapped, reach) in IDEAL_LENSES.items():
        if polar[known].max() > reach:
            continue
        expected = mapped(polar[known])
        focal = float((expected * radius[known]).sum() / max((expected**2).sum(), 1e-300))
        angles = np.linspace(0, reach, 4096)
        same = np.interp(radius / focal, mapped(angles), angles, right=np.nan)
        difference = np.degrees(np.abs(np.where(known, same - polar, np.nan)))
        if _mean(difference) < smallest and np.isfinite(difference[known]).mean() > 0.9:
            smallest, best = _mean(difference), (name, focal, difference)
    return best


def _curve(camera: Camera) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Return polar angle and radius along +x as far as the lens sees, past the image's edge too."""
    angles = torch.linspace(0, math.pi, 721, dtype=torch.float64)[1:-1]
    rays = torch.stack([angles.sin(), torch.zeros_like(angles), angles.cos()], dim=-1)
    pixels, seen = camera.project(rays)
    radius = torch.linalg.vector_norm(pixels - camera.params[2:4], dim=-1)
    reach = 1.5 * math.hypot(*camera.size)
    kept = _first_run((seen & (radius < reach)).numpy())
    return np.degrees(angles.numpy()[kept]), radius.numpy()[kept]


def _first_run(flags: Bool[ndarray, " n"]) -> Bool[ndarray, " n"]:
    return np.logical_and.accumulate(flags)


def _warnings(
    camera: Camera, fields: tuple[float, float, float], share: float, error: float
) -> list[str]:
    height, width = camera.size
    fx, fy, cx, cy = (float(value) for value in camera.params[:4])
    found = []
    off = max(abs(cx / width - 0.5), abs(cy / height - 0.5))
    if off > _OFF_CENTRE:
        found.append(
            f"the principal point ({cx:.1f}, {cy:.1f}) lies {off:.0%} of a side off the centre "
            f"({width / 2:g}, {height / 2:g}): is the file of another resolution or a crop?"
        )
    ratio = max(fx / fy, fy / fx)
    if ratio > _FOCAL_RATIO:
        found.append(f"fx / fy = {fx / fy:.3f}: pixels are rarely that far from square")
    if fields[0] < _SMALLEST_FIELD:
        found.append(
            f"the horizontal field of view is {fields[0]:.2g} degrees: is the focal length in "
            "pixels of these images?"
        )
    # In metres, millimetres or parts of the width, a focal length is far below a tenth of it.
    if camera.model in ("pinhole", "radial_tangential", "kannala_brandt") and fx < 0.1 * width:
        found.append(
            f"fx = {fx:g} for {width} columns: a focal length in metres, millimetres or parts of "
            "the width? pixels are needed"
        )
    if share < _SMALLEST_SHARE:
        found.append(f"only {share:.0%} of the pixels lie inside the field of view")
    if error > _ROUND_TRIP:
        found.append(
            f"a pixel comes back {error:.2g} px from where it was: the lens is not one to one"
        )
    return found
