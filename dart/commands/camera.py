"""``dart camera``."""

import math
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from rich.console import Console

from dart.cameras import Camera, count_aliased_bands, load_calibration
from dart.cameras.inspection import Inspection, inspect_camera
from dart.commands.camera_pictures import draw_sheet, draw_views
from dart.commands.common import make_folder, print_json, write_whole
from dart.errors import UserError

_FINEST_STRIDE = 4
_SIZE = re.compile(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of ``HxW``.

    Raises:
        UserError: If it is anything else.
    """
    if text is None:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example 480x640")
    return int(match[1]), int(match[2])


def read_image(path: Path) -> UInt8[ndarray, "h w 3"]:
    """Return a photograph, RGB.

    Raises:
        UserError: If there is none or OpenCV cannot read it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such image")
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UserError(f"{path}: not a readable image: {error.err}") from None
    if image is None:
        raise UserError(f"{path}: not a readable image (PNG, JPEG or what OpenCV reads)")
    return image


def check_image(camera: Camera, size: tuple[int, int], *, file: Path, image: Path) -> None:
    """Compare the camera's resolution with the image's.

    Raises:
        UserError: If they differ; the text says what to do.
    """
    if camera.size == size:
        return
    (height, width), (other_height, other_width) = camera.size, size
    text = (
        f"{file} is the camera of {width}x{height} images, but {image} has "
        f"{other_width}x{other_height} (width x height)"
    )
    if abs(other_width - width * other_height / height) <= 1:
        raise UserError(f"{text}; if it was resized: --size {other_height}x{other_width}")
    raise UserError(f"{text}, another aspect: it was cropped, or the file is another camera's")


def camera(options: Namespace) -> int:
    """Print what a calibration file says, and draw it."""
    lens = load_calibration(
        options.file, format=options.format, name=options.name, size=parse_size(options.size)
    )
    photograph: Path | None = options.image
    image = None if photograph is None else read_image(photograph)
    if image is not None and photograph is not None:
        check_image(lens, image.shape[:2], file=options.file, image=photograph)
    found = inspect_camera(lens)
    folder = options.out or options.file.parent
    make_folder(folder)
    stem = "_".join(filter(None, (options.file.stem, _plain(options.name))))
    lines = describe(lens, found)
    pictures = [folder / f"{stem}_camera.png"]
    write_whole(
        pictures[0], lambda path: draw_sheet(lens, found, [options.file.name, *lines], path)
    )
    if image is not None and photograph is not None:
        pictures.append(folder / f"{stem}_{photograph.stem}_views.png")
        write_whole(pictures[1], lambda path: draw_views(lens, image, found, path))
    if options.json:
        print_json(_content(lens, found, pictures))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, style="yellow" if line.startswith("warning") else None, markup=False)
    console.print(*map(str, pictures), sep="\n", markup=False)
    return 0


def _plain(name: str | None) -> str | None:
    return None if name is None else re.sub(r"[^\w.-]+", "_", name)


def describe(lens: Camera, found: Inspection) -> list[str]:
    """Return what there is to say about a lens, a line each."""
    height, width = lens.size
    values = lens.params.double().tolist()
    params = [f"{n} {v:.7g}" for n, v in zip(lens.param_names, values, strict=True)]
    end = "none" if found.polar_limit is None else f"{found.polar_limit:.2f} degrees off the axis"
    ideal = f"{found.nearest_ideal}, f = {found.ideal_focal:.2f} px, "
    ideal += f"{found.ideal_difference:.3g} degrees away on average"
    aliased, bands = count_aliased_bands(lens, _FINEST_STRIDE)
    groups = [params[i : i + 4] for i in range(0, len(params), 4)]
    return [
        f"lens             {lens.model}, {width}x{height} pixels (width x height)",
        *(
            f"{'parameters' if i == 0 else '':<17}{', '.join(group)}"
            for i, group in enumerate(groups)
        ),
        "                 (pixels; the first pixel's centre is (0.5, 0.5))",
        f"field of view    {found.horizontal_fov:.2f} horizontal, {found.vertical_fov:.2f} "
        f"vertical, {found.diagonal_fov:.2f} diagonal (degrees)",
        f"pixels inside it {found.seen_share:.2%}",
        f"the lens ends    {end}",
        f"round trip       {found.round_trip:.2e} px at most",
        f"nearest ideal    {ideal if math.isfinite(found.ideal_focal) else 'none'}",
        f"embedding        {aliased} of {bands} Fourier bands alias at stride {_FINEST_STRIDE}",
        *(f"warning          {text}" for text in found.warnings),
    ]


def _content(lens: Camera, found: Inspection, pictures: list[Path]) -> dict[str, Any]:
    numbers = {
        "horizontal_fov_degrees": found.horizontal_fov,
        "vertical_fov_degrees": found.vertical_fov,
        "diagonal_fov_degrees": found.diagonal_fov,
        "seen_share": found.seen_share,
        "polar_limit_degrees": found.polar_limit,
        "round_trip_pixels": found.round_trip,
        "ideal_focal": found.ideal_focal,
        "ideal_difference_degrees": found.ideal_difference,
    }
    known = {k: v if v is not None and np.isfinite(v) else None for k, v in numbers.items()}
    return {
        "camera": lens.to_dict(),
        **known,
        "nearest_ideal": found.nearest_ideal,
        "warnings": list(found.warnings),
        "pictures": [str(path) for path in pictures],
    }
