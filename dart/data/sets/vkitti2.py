"""Virtual KITTI 2: rendered streets, z in centimetres.

Sources: the set's file names and ``intrinsic.txt`` (``frame cameraID K[0,0] K[1,1] K[0,2]
K[1,2]``: 725.0087, 725.0087, 620.5, 187 in public copies). 620.5 is the middle of 1242 pixels
counted from 0, so half a pixel is added. Bounds 1e-3 to 80 m, as Depth Anything V2 trains
on it; the sky, 65535, lies beyond.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from dart.cameras import Camera, Pinhole
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.parts import depth_path, make_camera, read_lines
from dart.errors import UserError

_SIZE = (375, 1242)
_CENTIMETRES = 100.0
_FRAME = re.compile(r"Camera_(\d+)/rgb_(\d+)\.jpg$")


class VirtualKitti2(DepthDataset):
    """The folders ``Scene*/VARIATION/frames/{rgb,depth}/Camera_{0,1}``.

    All variations (clone, fog, rain, ...) of a scene are one scene: they show the same drive.
    """

    name: ClassVar[str] = "vkitti2"
    convention = "z"
    splits = ()
    min_distance = 1e-3
    max_distance = 80.0

    def _list(self) -> Iterable[Entry]:
        intrinsics: dict[Path, dict[tuple[int, int], Camera]] = {}
        for image in sorted(self.root.glob("Scene*/*/frames/rgb/Camera_*/rgb_*.jpg")):
            variation = image.parents[3]
            if variation not in intrinsics:
                intrinsics[variation] = _read_intrinsics(variation / "intrinsic.txt")
            match = _FRAME.search(image.as_posix())
            if match is None:
                continue
            camera, frame = int(match[1]), int(match[2])
            if (frame, camera) not in intrinsics[variation]:
                raise UserError(
                    f"{variation / 'intrinsic.txt'}: no camera {camera} of frame {frame}"
                )
            yield Entry(
                key=image.relative_to(self.root).with_suffix("").as_posix(),
                scene=variation.parent.name,
                image=image,
                depth=variation / f"frames/depth/Camera_{camera}/depth_{match[2]}.png",
                camera=intrinsics[variation][frame, camera],
            )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_png16(depth_path(entry)).astype(np.float32) / _CENTIMETRES

    def _read_camera(self, entry: Entry) -> Camera:
        assert entry.camera is not None
        return entry.camera


def _read_intrinsics(path: Path) -> dict[tuple[int, int], Camera]:
    """Return the camera of each frame and camera number; equal ones are one object."""
    known: dict[tuple[float, ...], Camera] = {}
    cameras: dict[tuple[int, int], Camera] = {}
    for line in read_lines(path)[1:]:
        try:
            frame, number, *params = (float(text) for text in line.split())
            fx, fy, cx, cy = params
        except ValueError:
            raise UserError(f"{path}: '{line[:80]}' must be six numbers") from None
        values = (fx, fy, cx, cy)
        if values not in known:
            known[values] = make_camera(Pinhole, values, _SIZE, centres="integer")
        cameras[int(frame), int(number)] = known[values]
    return cameras
