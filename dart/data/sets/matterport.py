"""Matterport3D and Gibson as panoramas (Pano3D, 360 layouts): PNG and EXR range.

Sources: Pano3D's documentation (single-channel float EXR, ``inf`` where scanning left a hole) and
public lists of the files (``SCENE/NAME_emission_center_0.png``, ``NAME_depth_center_0.exr``). The
panorama is a full sphere, so the camera follows from its size. 0 or a large number also marks
holes in older renderings; nothing beyond 10 m counts (the cap is UniK3D's for HM3D, unverified
here).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import OpenEXR
from jaxtyping import Float32, UInt8
from PIL import Image

from dart.cameras import Camera, Equirectangular
from dart.data.sets.base import DepthDataset, Entry, read_rgb
from dart.data.sets.parts import depth_path, make_camera, read_named
from dart.errors import UserError

_CHANNELS = ("Z", "Y", "R", "G", "B")


class MatterportErp(DepthDataset):
    """The pictures ``SCENE/*_emission_*.png`` with ``*_depth_*.exr`` beside them."""

    name: ClassVar[str] = "matterport_erp"
    convention = "range"
    splits = ()
    min_distance = 0.01
    max_distance = 10.0

    def _list(self) -> Iterable[Entry]:
        for image in sorted(self.root.glob("**/*_emission_*.png")):
            depth = image.name.replace("_emission_", "_depth_")
            yield Entry(
                key=image.relative_to(self.root).with_suffix("").as_posix(),
                scene=image.parent.relative_to(self.root).as_posix(),
                image=image,
                depth=image.with_name(depth).with_suffix(".exr"),
            )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        path = depth_path(entry)
        return read_named(path, "EXR", lambda: _read_exr(path))

    def _read_camera(self, entry: Entry) -> Camera:
        with Image.open(entry.image) as picture:
            width, height = picture.size
        if width != 2 * height:
            raise UserError(f"{entry.image}: {width} x {height} is no full sphere (2 to 1)")
        params = (width / (2 * math.pi), height / math.pi, width / 2, height / 2)
        return make_camera(Equirectangular, params, (height, width), centres="half")


def _read_exr(path: Path) -> Float32[np.ndarray, "h w"]:
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        name = next((name for name in _CHANNELS if name in channels), next(iter(channels)))
        return np.array(channels[name].pixels, dtype=np.float32)
