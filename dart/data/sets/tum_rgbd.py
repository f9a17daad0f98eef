"""TUM RGB-D (Kinect, z) and ICL-NUIM (rendered rooms, z or range).

Sources: the pages of the sets and public readers of both. TUM: 16-bit PNG / 5000 metres, pictures
and depth associated by time; the colour cameras' calibration (fr3 is published undistorted), whose
pixels are counted from 0; the page recommends the driver's default lens for depth, here the rays
are the picture's. ICL-NUIM: the same PNG with ``associations.txt``, or POV-Ray's
``.depth`` text, which is range. Its calibration has fy = -480 because POV-Ray's y points up; with
y down, as here, the same rays have fy = +480. No cap is published for either: 10 m.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from dart.cameras import Camera, Pinhole, RadialTangential
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.parts import depth_path, make_camera, read_lines, read_named
from dart.errors import UserError

_SIZE = (480, 640)
_SCALE = 5000.0
_INTRINSICS = {
    "1": (517.306408, 516.469215, 318.643040, 255.313989),
    "2": (520.908620, 521.007327, 325.141442, 249.701764),
    "3": (535.4, 539.2, 320.1, 247.6),
}
_DISTORTIONS = {
    "1": (0.262383, -0.953104, -0.005358, 0.002628, 1.163314, 0.0, 0.0, 0.0),
    "2": (0.231222, -0.784899, -0.003257, -0.000105, 0.917205, 0.0, 0.0, 0.0),
}
_RENDERED = "scene_[0-9]*_[0-9]*.png"
_ICL = (481.20, 480.0, 319.5, 239.5)


class _Sequences(DepthDataset):
    splits = ()
    min_distance = 1e-3
    max_distance = 10.0

    def _folders(self, *names: str) -> list[Path]:
        """Return the root or its subfolders that hold one of these files."""
        candidates = [self.root, *sorted(path for path in self.root.glob("*") if path.is_dir())]
        return [path for path in candidates if any(any(path.glob(name)) for name in names)]

    def _entry(self, folder: Path, image: str, depth: str) -> Entry:
        # The root may be given as '.', and its name tells the camera.
        scene = folder.resolve().name
        return Entry(
            key=f"{scene}/{Path(image).stem}",
            scene=scene,
            image=folder / image,
            depth=folder / depth,
        )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_png16(depth_path(entry)).astype(np.float32) / _SCALE


class TumRgbd(_Sequences):
    """One sequence folder (``rgbd_dataset_freiburg1_xyz``), or a folder of them.

    Args:
        tolerance: Seconds between a picture and the depth nearest to it; others are left out.
    """

    name: ClassVar[str] = "tum_rgbd"
    convention = "z"

    def __init__(self, root: Path, *, tolerance: float = 0.02, **options: Any) -> None:
        self._tolerance = tolerance
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        for folder in self._folders("rgb.txt"):
            depths = _read_times(folder / "depth.txt")
            for image, depth in _associate(
                _read_times(folder / "rgb.txt"), depths, tolerance=self._tolerance
            ):
                yield self._entry(folder, image, depth)

    def _read_camera(self, entry: Entry) -> Camera:
        match = re.search(r"freiburg([123])|fr([123])", entry.scene)
        if match is None:
            raise UserError(
                f"{entry.image}: folder '{entry.scene}' names no camera, freiburg1 to 3"
            )
        number = match[1] or match[2]
        params = _INTRINSICS[number]
        if number not in _DISTORTIONS:
            return make_camera(Pinhole, params, _SIZE, centres="integer")
        params += _DISTORTIONS[number]
        return make_camera(RadialTangential, params, _SIZE, centres="integer")


class IclNuim(_Sequences):
    """Sequence folders with ``associations.txt``, or with POV-Ray's ``.depth`` files."""

    name: ClassVar[str] = "icl_nuim"
    convention = "z"

    def _list(self) -> Iterable[Entry]:
        for folder in self._folders(_RENDERED):
            for image in sorted(folder.glob(_RENDERED)):
                yield self._entry(folder, image.name, f"{image.stem}.depth")
        for folder in self._folders("associations.txt"):
            for line in read_lines(folder / "associations.txt"):
                images = [field for field in line.split() if field.startswith("rgb/")]
                depths = [field for field in line.split() if field.startswith("depth/")]
                if len(images) != 1 or len(depths) != 1:
                    raise UserError(f"{folder / 'associations.txt'}: '{line[:80]}' names no pair")
                yield self._entry(folder, images[0], depths[0])

    def _convention_of(self, entry: Entry) -> Literal["z", "range"]:
        return "range" if depth_path(entry).suffix == ".depth" else "z"

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        path = depth_path(entry)
        if path.suffix != ".depth":
            return super()._read_depth(entry)

        def read() -> np.ndarray:
            return np.array(path.read_text().split(), dtype=np.float32).reshape(_SIZE)

        return read_named(path, f"{_SIZE[0] * _SIZE[1]} numbers", read)

    def _read_camera(self, entry: Entry) -> Camera:  # noqa: ARG002
        return make_camera(Pinhole, _ICL, _SIZE, centres="integer")


def _read_times(path: Path) -> list[tuple[float, str]]:
    try:
        return sorted(
            (float(time), name) for time, name in (line.split()[:2] for line in read_lines(path))
        )
    except ValueError:
        raise UserError(f"{path}: each line must be 'timestamp file'") from None


def _associate(
    images: list[tuple[float, str]], depths: list[tuple[float, str]], *, tolerance: float
) -> Iterable[tuple[str, str]]:
    """Yield each picture with the depth nearest in time, closest pairs first taken, each once."""
    times = [time for time, _ in depths]
    near: list[tuple[float, int, int]] = []
    for number, (time, _) in enumerate(images):
        start = bisect_left(times, time - tolerance)
        for other in range(start, len(times)):
            if times[other] - time >= tolerance:
                break
            near.append((abs(times[other] - time), number, other))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, number, other in sorted(near):
        if number not in pairs and other not in taken:
            pairs[number] = other
            taken.add(other)
    for number in sorted(pairs):
        yield images[number][1], depths[pairs[number]][1]
