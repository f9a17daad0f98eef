"""What the writers of small published data sets share: a tilted plane, rays by hand, files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NORMAL = np.array([0.25, -0.15, 1.0]) / np.linalg.norm([0.25, -0.15, 1.0])
HOLES = (slice(10, 30), slice(40, 90))
"""Where each set's depth says that nothing is known."""

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Published:
    """One written data set, and what its first frame must be read as."""

    root: Path
    rays: Pixels
    """Unit rays by hand, (h, w, 3)."""
    stored: Pixels
    """Metres as the file holds them, in the set's convention; 0 where there is none."""
    quantum: float
    """Metres between two neighbouring stored values."""
    depth_file: Path
    image_file: Path
    plane: float = 3.0
    """Metres between the plane and the camera."""
    convention: str = "z"
    options: Mapping[str, Any] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    """Keys of all frames."""


def pixel_grid(size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Return columns and rows counted from 0, (h, w) each."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return columns, rows


def unit(x: Pixels, y: Pixels, z: Pixels) -> Pixels:
    rays = np.stack([x, y, z], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def pinhole_rays(
    size: tuple[int, int], params: tuple[float, float, float, float], *, first_centre: float
) -> Pixels:
    """Return rays of a pinhole whose first pixel has its centre at ``first_centre``."""
    fx, fy, cx, cy = params
    u, v = pixel_grid(size)
    x, y = (u + first_centre - cx) / fx, (v + first_centre - cy) / fy
    return unit(x, y, np.ones_like(x))


def polar_rays(x: Pixels, y: Pixels, theta: Pixels) -> Pixels:
    """Return rays at the polar angle ``theta`` in the direction of (x, y)."""
    radius = np.maximum(np.hypot(x, y), 1e-12)
    return np.stack(
        [np.sin(theta) * x / radius, np.sin(theta) * y / radius, np.cos(theta)], axis=-1
    )


def angle_of(radius: Pixels, grows: Callable[[Pixels], Pixels], *, limit: float) -> Pixels:
    """Return the angle whose radius is given, by a dense table; NaN beyond ``limit``."""
    angles = np.linspace(0, limit, 2_000_001)
    return np.interp(radius, grows(angles), angles, right=np.nan)


def plane_depth(rays: Pixels, *, convention: str, plane: float) -> Pixels:
    """Return the depth of the tilted plane; 0 where the ray does not meet it within 40 m."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = plane / (rays @ NORMAL)
        distance = np.where((distance > 0) & (distance < 9), distance, 0.0)
    depth = distance * rays[..., 2] if convention == "z" else distance
    depth[HOLES] = 0
    return np.nan_to_num(depth)


def picture(size: tuple[int, int]) -> Pixels:
    """Return a picture whose channels differ, so that swapped ones show."""
    u, v = pixel_grid(size)
    channels = [60 + 40 * np.sin(u / 9), 130 + 30 * np.cos(v / 7), 200 + 0 * u]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_picture(path: Path, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size)).save(path, quality=98)
    return path


def write_png16(path: Path, units: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(units).astype(np.uint16)).save(path)
    return path


def write_npy(path: Path, array: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def quantise(depth: Pixels, quantum: float) -> Pixels:
    return np.round(depth / quantum) * quantum
