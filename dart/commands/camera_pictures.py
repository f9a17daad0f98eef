"""The two pictures of ``dart camera``: what the lens does, and an image through it.

Axis letters: ``h w`` pixels of the image or of the examined grid, ``3`` colours or x, y, z,
``n`` points along a line.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from dart.cameras import Camera, Equirectangular, Pinhole, warp_grid
from dart.cameras.inspection import IDEAL_LENSES, Inspection

_CELLS = 10
_SAMPLES = 120
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:gray")
_SMALLEST_ERROR = 1e-10
_VIEW = 480
_WIDE = 100.0
_PANORAMA_WIDTH = 1024


def draw_sheet(camera: Camera, found: Inspection, lines: Sequence[str], path: Path) -> None:
    """Write the picture of a lens: grid, angle contours, error maps, curve, and what it says.

    Args:
        lines: The text beside the pictures.
    """
    figure = Figure(figsize=(15, 9.4), dpi=90, layout="constrained")
    grid = figure.subplots(2, 3)
    _draw_room(grid[0, 0], camera)
    _draw_contours(figure, grid[0, 1], camera, found)
    _draw_map(
        grid[0, 2],
        camera,
        np.log10(np.maximum(found.errors, _SMALLEST_ERROR)),
        f"round trip: at most {found.round_trip:.1e} px",
        "log10 of the error in pixels",
        limits=(math.log10(_SMALLEST_ERROR), 0.0),
    )
    _draw_curve(grid[1, 0], found)
    _draw_map(
        grid[1, 1],
        camera,
        found.differences,
        f"angle to the nearest ideal lens: {found.nearest_ideal}",
        "degrees",
    )
    grid[1, 2].set_axis_off()
    text = grid[1, 2].text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=7.5)
    text.set_in_layout(False)
    figure.savefig(path)


def _frame(axes: Axes, camera: Camera, title: str) -> None:
    height, width = camera.size
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)


def _room_lines() -> Iterator[tuple[int, Float[ndarray, "n 3"]]]:
    """Yield the lines of a square grid on each face of a cube around the lens."""
    along = np.linspace(-1, 1, _SAMPLES)
    for face in range(6):
        axis, sign = face % 3, 1 if face < 3 else -1
        others = [index for index in range(3) if index != axis]
        for at in np.linspace(-1, 1, _CELLS + 1):
            for first, second in (others, others[::-1]):
                points = np.full((_SAMPLES, 3), float(sign))
                points[:, first], points[:, second] = at, along
                yield face, points


def _draw_room(axes: Axes, camera: Camera) -> None:
    for face, points in _room_lines():
        pixels, seen = camera.project(torch.from_numpy(points))
        shown = np.where(seen.numpy()[:, None], pixels.numpy(), np.nan)
        # A panorama's line that leaves on the right comes back on the left.
        jump = np.hypot(*np.diff(shown, axis=0).T) > camera.size[1] / 2
        shown[1:][jump] = np.nan
        axes.plot(*shown.T, color=_COLOURS[face], lw=0.8)
    axes.plot(*camera.params[2:4].tolist(), "k+", ms=9)
    _frame(axes, camera, "grids on a cube; green: ahead, +: principal point")


def _draw_contours(figure: Figure, axes: Axes, camera: Camera, found: Inspection) -> None:
    extent = (0, camera.size[1], camera.size[0], 0)
    shown = axes.imshow(found.polar, extent=extent, cmap="viridis")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="degrees off the axis")
    known = found.polar[np.isfinite(found.polar)]
    if known.size and min(found.polar.shape) > 1:
        step = next(s for s in (1, 2, 5, 10, 15, 30) if known.max() / s <= 12 or s == 30)
        height, width = found.polar.shape
        x = np.linspace(0.5, camera.size[1] - 0.5, width)
        y = np.linspace(0.5, camera.size[0] - 0.5, height)
        levels = np.arange(step, known.max(), step)
        if len(levels):
            lines = axes.contour(x, y, found.polar, levels=levels, colors="white", linewidths=0.9)
            axes.clabel(lines, fmt="%g", fontsize=8)
    _frame(axes, camera, "polar angle, blank outside the field of view")


def _draw_map(
    axes: Axes,
    camera: Camera,
    values: Float[ndarray, "h w"],
    title: str,
    label: str,
    limits: tuple[float | None, float | None] = (0.0, None),
) -> None:
    extent = (0, camera.size[1], camera.size[0], 0)
    if np.isfinite(values).any():
        shown = axes.imshow(values, extent=extent, cmap="magma", vmin=limits[0], vmax=limits[1])
        axes.figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    _frame(axes, camera, title)


def _draw_curve(axes: Axes, found: Inspection) -> None:
    angles, radius = found.curve
    edge = float(radius.max()) * 1.05 if radius.size else 1.0
    for name, (mapped, reach) in IDEAL_LENSES.items():
        if math.isfinite(found.ideal_focal):
            theta = np.linspace(0, reach, 400)
            axes.plot(np.degrees(theta), found.ideal_focal * mapped(theta), lw=1, label=name)
    axes.plot(angles, radius, "k", lw=2.2, label="this lens")
    seen = found.polar[np.isfinite(found.polar)]
    if seen.size:
        axes.axvline(float(seen.max()), color="gray", ls=":", lw=1)
        axes.annotate(
            "widest in the image",
            (float(seen.max()), edge * 0.03),
            fontsize=8,
            rotation=90,
            ha="right",
        )
    axes.set_xlim(0, max(10.0, float(angles.max()) if angles.size else 90.0))
    axes.set_ylim(0, edge)
    axes.set_xlabel("degrees off the axis")
    axes.set_ylabel("radius in the image [px], to the right")
    axes.set_title(f"radius; ideal lenses with f = {found.ideal_focal:.1f} px", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def draw_views(
    camera: Camera, image: UInt8[ndarray, "h w 3"], found: Inspection, path: Path
) -> None:
    """Write an image, its rectified views (straight lines are straight) and its panorama."""
    views = _list_views(found)
    figure = Figure(figsize=(15, 9.6), dpi=90, layout="constrained")
    grid = figure.add_gridspec(2, len(views) + 1)
    axes = figure.add_subplot(grid[0, 0])
    axes.imshow(image)
    axes.set_title("image", fontsize=10)
    for column, (title, turn, field) in enumerate(views, start=1):
        axes = figure.add_subplot(grid[0, column])
        focal = _VIEW / 2 / math.tan(math.radians(field) / 2)
        view = Pinhole(torch.tensor([focal, focal, _VIEW / 2, _VIEW / 2]), (_VIEW, _VIEW))
        axes.imshow(_sample(camera, image, view, _turn(turn)))
        axes.set_title(f"{title}: {field:.0f} degrees, lines in space are straight", fontsize=10)
    for other in figure.axes:
        other.set_xticks([])
        other.set_yticks([])
    axes = figure.add_subplot(grid[1, :])
    panorama, extent = _panorama(found)
    axes.imshow(_sample(camera, image, panorama, None), extent=extent)
    axes.set_title("panorama: longitude and latitude in degrees", fontsize=10)
    figure.savefig(path)


def _list_views(found: Inspection) -> list[tuple[str, float, float]]:
    """Return title, turn to the right and field of view, in degrees, of the rectified views."""
    front = ("front", 0.0, min(90.0, max(20.0, found.horizontal_fov)))
    if found.horizontal_fov < _WIDE:
        return [front]
    turn = min(90.0, found.horizontal_fov / 2 - 30)
    return [("left", -turn, 80.0), front, ("right", turn, 80.0)]


def _turn(degrees: float) -> Float[torch.Tensor, "3 3"]:
    """Return the rotation that takes the axis of a view to the right by so many degrees."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])


def _panorama(found: Inspection) -> tuple[Equirectangular, tuple[float, float, float, float]]:
    """Return a panorama that holds the field of view, and its extent in degrees."""
    wide = min(180.0, found.horizontal_fov / 2 + 3)
    tall = min(90.0, found.vertical_fov / 2 + 3)
    height = max(16, round(_PANORAMA_WIDTH * tall / wide))
    scale = _PANORAMA_WIDTH / 2 / math.radians(wide)
    params = torch.tensor([scale, scale, _PANORAMA_WIDTH / 2, height / 2])
    return Equirectangular(params, (height, _PANORAMA_WIDTH)), (-wide, wide, tall, -tall)


def _sample(
    camera: Camera,
    image: UInt8[ndarray, "h w 3"],
    view: Camera,
    rotation: Float[torch.Tensor, "3 3"] | None,
) -> UInt8[ndarray, "height width 3"]:
    """Return the image as another camera at the same point has it; grey where it has nothing."""
    pixels, seen = warp_grid(camera, view, rotation)
    # OpenCV's first pixel has its centre at (0, 0).
    u, v = (pixels - 0.5).float().numpy().transpose(2, 0, 1)
    colours = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(seen.numpy()[..., None], colours, np.uint8(200))
