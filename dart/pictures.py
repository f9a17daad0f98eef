"""Distance maps as pictures, with a scale in metres.

Axes: ``h w`` pixels, ``3`` colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy import ndarray

COLOURS = colormaps["turbo_r"].with_extremes(bad="black")
_NAME = 44
"""Letters of a frame's name that fit below its picture."""


@dataclass(frozen=True)
class Panel:
    """One row of a sheet: an image, its true distance, and what was predicted before and after."""

    name: str
    image: Float[ndarray, "h w 3"]
    true: Float[ndarray, "h w"]
    valid: Bool[ndarray, "h w"]
    before: Float[ndarray, "h w"]
    after: Float[ndarray, "h w"]


def _limits(distances: Float[ndarray, " n"]) -> LogNorm:
    low, high = np.percentile(distances, [2, 98])
    return LogNorm(low, max(high, low * 1.01))


def _show(
    axes: Axes, distance: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"], norm: LogNorm
) -> None:
    axes.imshow(np.ma.masked_where(~valid, distance), cmap=COLOURS, norm=norm)


def draw_distance(distance: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"], path: Path) -> None:
    """Write a PNG of one distance map, colours from near (red) to far (blue), scale in metres."""
    h, w = distance.shape
    figure = Figure(figsize=(7, 0.6 + 5.8 * h / w), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    norm = _limits(distance[valid])
    _show(axes, distance, valid, norm)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, shrink=0.9)
    _label_metres(bar.ax, norm)
    bar.set_label("distance along the ray [m]")
    figure.savefig(path)


def _label_metres(axes: Axes, norm: LogNorm) -> None:
    assert norm.vmin is not None
    assert norm.vmax is not None
    ticks = np.geomspace(norm.vmin, norm.vmax, 6)
    axes.set_yticks(ticks, [f"{tick:.2f}" if tick < 1 else f"{tick:.1f}" for tick in ticks])
    axes.minorticks_off()


def draw_panels(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG sheet: image, truth, before, after, and their relative errors, a row an image."""
    titles = ("image", "true distance", "before", "after", "|error| before", "|error| after")
    figure = Figure(figsize=(2.1 * 6 + 1.6, 1.75 * len(panels) + 0.3), dpi=90, layout="constrained")
    grid = figure.subplots(len(panels), len(titles), squeeze=False)
    for row, panel in zip(grid, panels, strict=True):
        norm = _limits(panel.true[panel.valid])
        row[0].imshow(panel.image.clip(0, 1))
        row[0].set_ylabel(panel.name, fontsize=7)
        for axes, values in zip(row[1:4], (panel.true, panel.before, panel.after), strict=True):
            _show(axes, values, panel.valid, norm)
        bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=row[3])
        _label_metres(bar.ax, norm)
        bar.set_label("m")
        safe = np.where(panel.valid, panel.true, 1.0)
        scale = Normalize(0, 0.6)
        for axes, values in zip(row[4:], (panel.before, panel.after), strict=True):
            error = np.ma.masked_where(~panel.valid, np.abs(values - panel.true) / safe)
            axes.imshow(error, cmap="magma", norm=scale)
        figure.colorbar(ScalarMappable(scale, "magma"), ax=row[5], label="relative")
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    figure.savefig(path)


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet: a picture, maps that share one scale in metres, and one more."""

    name: str
    image: Float[ndarray, "h w 3"] | UInt8[ndarray, "h w 3"]
    maps: tuple[Float[ndarray, "h w"], ...]
    """Metres; NaN where unknown. The first decides the scale."""
    error: Float[ndarray, "h w"] | None = None
    """Relative error; NaN where unknown."""
    mask: Bool[ndarray, "h w"] | None = None


def shrink_map(values: Float[ndarray, "h w"], longest: int) -> Float[ndarray, "height width"]:
    """Return the means over square blocks, so that no side is longer than ``longest``.

    Unknown pixels (NaN) do not count; a block is unknown if all of it is. So a map of few points,
    as a lidar gives, stays visible.
    """
    step = -(-max(values.shape) // longest)
    if step == 1:
        return values
    h, w = values.shape
    padded = np.pad(values, ((0, -h % step), (0, -w % step)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _shrink_mask(mask: Bool[ndarray, "h w"], longest: int) -> Bool[ndarray, "height width"]:
    """Return where a block has any True: a few points stay visible, as in ``shrink_map``."""
    return np.isfinite(shrink_map(np.where(mask, 1.0, np.nan), longest))


def shrink_row(row: SheetRow, longest: int = 320) -> SheetRow:
    """Return the row at the size at which a sheet shows it, so that many of them stay small."""
    step = -(-max(row.image.shape[:2]) // longest)
    small = [shrink_map(values, longest) for values in row.maps]
    return replace(
        row,
        image=row.image[::step, ::step].copy(),
        maps=tuple(small),
        error=None if row.error is None else shrink_map(row.error, longest),
        mask=None if row.mask is None else _shrink_mask(row.mask, longest),
    )


def draw_sheet(rows: Sequence[SheetRow], path: Path, *, titles: Sequence[str]) -> None:
    """Write a PNG of one row a frame: picture, maps with a bar in metres, relative error, mask."""
    width = 2.6 * len(titles) + 1.4
    heights = [max(0.6, 2.4 * row.image.shape[0] / row.image.shape[1]) + 0.3 for row in rows]
    figure = Figure(figsize=(width, sum(heights) + 0.4), dpi=90, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for cells, row in zip(grid, rows, strict=True):
        _draw_row(figure, list(cells), row)
        for axes in cells:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    figure.savefig(path)


def _draw_row(figure: Figure, cells: Sequence[Axes], row: SheetRow) -> None:
    cells[0].imshow(row.image.clip(0, 1) if row.image.dtype.kind == "f" else row.image)
    # Below, not beside: a name is longer than a wide picture is high.
    cells[0].set_xlabel(f"..{row.name[-_NAME:]}" if len(row.name) > _NAME else row.name, fontsize=7)
    free = iter(cells[1:])
    known = row.maps[0][np.isfinite(row.maps[0])]
    norm = _limits(known) if known.size else LogNorm(1, 10)
    for values in row.maps:
        _show(next(free), values, np.isfinite(values), norm)
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=cells[len(row.maps)])
    _label_metres(bar.ax, norm)
    bar.set_label("m", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    if row.error is not None:
        scale = Normalize(0, 0.6)
        axes = next(free)
        axes.set_facecolor("0.6")
        axes.imshow(np.ma.masked_invalid(row.error), cmap="magma", norm=scale)
        bar = figure.colorbar(ScalarMappable(scale, "magma"), ax=axes)
        bar.set_label("relative", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    if row.mask is not None:
        next(free).imshow(row.mask, cmap="gray", vmin=0, vmax=1)
