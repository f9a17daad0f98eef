"""Load a camera from whatever calibration file there is."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dart.cameras.calibration import (
    aria,
    camodocal,
    colmap,
    flat,
    kalibr,
    kitti,
    nerfstudio,
    opencv,
    woodscape,
)
from dart.cameras.calibration import content as c
from dart.cameras.camera import Camera
from dart.cameras.files import camera_from_dict
from dart.cameras.table import LENSES
from dart.errors import UserError, did_you_mean

_OWN = "dart"

FORMATS: Mapping[str, c.Format] = MappingProxyType(
    {
        form.name: form
        for form in (
            opencv.FORMAT,
            opencv.FISHEYE,
            kalibr.FORMAT,
            colmap.FORMAT,
            nerfstudio.FORMAT,
            kitti.FORMAT,
            kitti.ODOMETRY,
            camodocal.FORMAT,
            woodscape.FORMAT,
            aria.FORMAT,
            flat.FORMAT,
        )
    }
)
"""Formats of others by name; ours is ``dart``."""


def list_formats() -> tuple[str, ...]:
    """Return the names that ``format`` may have."""
    return (_OWN, *FORMATS)


def load_calibration(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    name: str | None = None,
    size: tuple[int, int] | None = None,
) -> Camera:
    """Return the camera of a calibration file, in float32, pixel centres at +0.5.

    Args:
        format: One of ``list_formats()``; by default what the content looks like.
        name: Which camera of a file with several.
        size: Height and width of the images. Where the file has another size of the same aspect,
            the camera is resized; where it has none, this is it.

    Raises:
        UserError: If the file cannot be read, is of no known format or of several, is wrong, holds
            several cameras and none was named, or is of images of another aspect.
    """
    path = Path(path)
    where = f"camera file '{path}'"
    if format is not None and format not in list_formats():
        raise UserError(
            f"unknown calibration format '{format}'; known: {', '.join(list_formats())}"
            + did_you_mean(format, list_formats())
        )
    content = c.parse(c.read_text(path), where)
    guessed = _guess(content, where) if format is None else format
    if guessed == _OWN:
        if name is not None:
            raise UserError(f"{where}: holds one camera without a name, not '{name}'")
        return _fit(camera_from_dict(content, where=where), size, where)
    form = FORMATS[guessed]
    where = f"{where} ({guessed})"
    part, label = _choose(form, form.list_cameras(content, where), name, where)
    describe = form.describe if format is None else form.describe_named or form.describe
    where = where if label is None else f"{where}: {label}"
    return _create(describe(part, where), size, where)


def list_names(path: str | Path, *, format: str | None = None) -> list[str]:  # noqa: A002
    """Return the names of a file's cameras; none for a file of our own.

    Raises:
        UserError: As ``load_calibration``.
    """
    where = f"camera file '{path}'"
    content = c.parse(c.read_text(Path(path)), where)
    guessed = _guess(content, where) if format is None else format
    return [] if guessed == _OWN else list(FORMATS[guessed].list_cameras(content, where))


def _guess(content: Any, where: str) -> str:
    found = [name for name, form in FORMATS.items() if form.detect(content)]
    if isinstance(content, Mapping) and "params" in content and "model" in content:
        found = found or [_OWN]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{where} could be {' or '.join(found)}; choose with --format (camera_format)"
        )
    if isinstance(content, Mapping) and {"model", "params"} & content.keys():
        return _OWN
    raise UserError(
        f"{where} is of no known calibration format; known: {', '.join(list_formats())}"
    )


def _choose(
    form: c.Format, cameras: Mapping[Any, Any], name: str | None, where: str
) -> tuple[Any, str | None]:
    """Return one camera's part, and its name where there are several."""
    if name is None:
        if len(cameras) == 1:
            return next(iter(cameras.values())), None
        name = next((choice for choice in form.default if choice in cameras), None)
    if name is None:
        raise UserError(
            f"{where} holds {len(cameras)} cameras: {_some(cameras)}; "
            "choose with --name (camera_name)"
        )
    if name not in cameras:
        hint = did_you_mean(name, cameras)
        raise UserError(f"{where} has no camera '{name}'; it has: {_some(cameras)}{hint}")
    return cameras[name], name


def _some(cameras: Mapping[Any, Any]) -> str:
    names = [c.shown(name)[1:-1] for name in list(cameras)[:8]]
    return ", ".join(names) + (", ..." if len(cameras) > len(names) else "")


def _create(found: c.Description, size: tuple[int, int] | None, where: str) -> Camera:
    whole = found.size or size
    if whole is None:
        raise UserError(f"{where}: the file does not say the image's size; give --size HxW")
    lens = LENSES[found.model]
    shift = 0.5 - found.first_centre
    fx, fy, cx, cy, *rest = found.params
    params = torch.tensor([fx, fy, cx + shift, cy + shift, *rest], dtype=torch.float64).float()
    options = {} if found.max_polar is None else {"max_polar": found.max_polar}
    try:
        camera = lens(params, whole, **options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return _fit(camera, size, where)


def _fit(camera: Camera, size: tuple[int, int] | None, where: str) -> Camera:
    """Return the camera at ``size``, which must have its aspect to within a pixel."""
    if size is None or size == camera.size:
        return camera
    height, width = camera.size
    if min(size) < 1:
        raise UserError(f"{where}: size {size[0]}x{size[1]}; both sides must be at least 1")
    if abs(size[1] - width * size[0] / height) > 1 and abs(size[0] - height * size[1] / width) > 1:
        raise UserError(
            f"{where}: its images have height {height} and width {width}, not {size[0]} and "
            f"{size[1]}, and the aspect differs: that was cropped or is another camera's"
        )
    return camera.resize(size)
