"""ScanNet++ DSLR: fisheye photographs of rooms with depth rendered from the laser mesh.

Sources: the set's layout (``data/SCENE/dslr``, ``splits/nvs_sem_{train,val}.txt``), its nerfstudio
``transforms.json`` (OPENCV_FISHEYE; COLMAP's pixel centres at +0.5), and its toolkit's
``render_depth``: 16-bit millimetres of **z**. Bounds 1e-3 to 10 m, as UniK3D evaluates it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from dart.cameras import Camera
from dart.cameras.calibration import load_calibration
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.parts import depth_path, read_lines
from dart.errors import UserError

_MILLIMETRES = 1000.0


class ScanNetPPDslr(DepthDataset):
    """The photographs in ``dslr/resized_images``; their depth lies in ``dslr/render_depth``."""

    name: ClassVar[str] = "scannetpp_dslr"
    convention = "z"
    splits = ("train", "val")
    min_distance = 1e-3
    max_distance = 10.0

    def __init__(self, root: Path, **options: Any) -> None:
        self._cameras: dict[str, Camera] = {}
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        for scene in self._scenes():
            folder = self.root / f"data/{scene}/dslr"
            images = sorted((folder / "resized_images").glob("*.JPG"))
            if not images:
                raise UserError(f"{folder / 'resized_images'}: holds no .JPG photographs")
            for image in images:
                yield Entry(
                    key=f"{scene}/{image.stem}",
                    scene=scene,
                    image=image,
                    depth=folder / f"render_depth/{image.stem}.png",
                )

    def _scenes(self) -> list[str]:
        if self.split:
            return read_lines(self.root / f"splits/nvs_sem_{self.split}.txt")
        return sorted(path.parent.name for path in self.root.glob("data/*/dslr"))

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_png16(depth_path(entry)).astype(np.float32) / _MILLIMETRES

    def _read_camera(self, entry: Entry) -> Camera:
        if entry.scene not in self._cameras:
            path = entry.image.parents[1] / "nerfstudio/transforms.json"
            self._cameras[entry.scene] = load_calibration(path, format="nerfstudio")
        return self._cameras[entry.scene]
