"""KITTI with Eigen's split: sparse laser depth, PNG / 256 metres, z.

Sources: the lists of BTS (``rgb depth focal``; ``None`` is a frame without depth), KITTI's raw
layout and ``calib_cam_to_cam.txt`` (``P_rect_02``, ``S_rect_02``; pixel centres from 0), the crops
of FACTS 7.2. Both laser and improved truth are stored alike: the lists' paths decide.
Bounds 1e-3 to 80 m.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from dart.cameras import Camera
from dart.cameras.calibration import load_calibration
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.parts import check_choice, depth_path, read_pairs

_KB_SIZE = (352, 1216)
_COLUMNS = (0.03594771, 0.96405229)
_ROWS = {"garg": (0.40810811, 0.99189189), "eigen": (0.3324324, 0.91351351)}


class KittiEigen(DepthDataset):
    """The frames of ``eigen_{train,test}_files_with_gt.txt`` in the root.

    Frames that the list gives no depth (``None``: 45 of the 697 test frames with improved truth)
    are left out; ``without_depth`` names them.

    Args:
        images: Folder of the dates (``2011_09_26``), relative to the root.
        truth: Folder in which the lists' depth paths start, relative to the root.
        kb_crop: Whether frames are cropped to 352 x 1216, bottom and centre, as BTS does.
        crop: The crop of an evaluation, ``garg`` or ``eigen``, counted in the (cropped) frame.
    """

    name: ClassVar[str] = "kitti_eigen"
    convention = "z"
    splits = ("train", "test")
    min_distance = 1e-3
    max_distance = 80.0

    def __init__(
        self,
        root: Path,
        *,
        images: str = "",
        truth: str = "",
        kb_crop: bool = True,
        crop: str | None = "garg",
        **options: Any,
    ) -> None:
        self._images, self._truth = images, truth
        self._kb_crop = kb_crop
        self._evaluation_crop = None if crop is None else check_choice("crop", crop, _ROWS)
        self._cameras: dict[tuple[Path, str], Camera] = {}
        self.without_depth: list[str] = []
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        for split in [self.split] if self.split else self.splits:
            lines = self.root / f"eigen_{split}_files_with_gt.txt"
            for image, depth in read_pairs(lines):
                if depth is None:
                    self.without_depth.append(image)
                    continue
                yield Entry(
                    key=image,
                    scene=next((part for part in Path(image).parts if "drive" in part), "unknown"),
                    image=self.root / self._images / image,
                    depth=self.root / self._truth / depth,
                )

    def _cropped(self, pixels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        if not self._kb_crop:
            return pixels
        top, left = _kb_corner((pixels.shape[0], pixels.shape[1]))
        return pixels[top : top + _KB_SIZE[0], left : left + _KB_SIZE[1]]

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return self._cropped(read_rgb(entry.image))

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return self._cropped(read_png16(depth_path(entry)).astype(np.float32) / 256)

    def _read_camera(self, entry: Entry) -> Camera:
        # DATE/DRIVE/image_02/data/FRAME.png
        calibration = entry.image.parents[3] / "calib_cam_to_cam.txt", entry.image.parents[1].name
        if calibration not in self._cameras:
            path, name = calibration
            camera = load_calibration(path, format="kitti", name=name)
            window = (*_kb_corner(camera.size), *_KB_SIZE)
            self._cameras[calibration] = camera.crop(*window) if self._kb_crop else camera
        return self._cameras[calibration]

    def _crop(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
        if self._evaluation_crop is None:
            return None
        height, width = size
        top, bottom = (int(share * height) for share in _ROWS[self._evaluation_crop])
        left, right = (int(share * width) for share in _COLUMNS)
        mask = np.zeros(size, dtype=bool)
        mask[top:bottom, left:right] = True
        return mask


def _kb_corner(size: tuple[int, int]) -> tuple[int, int]:
    return max(size[0] - _KB_SIZE[0], 0), max((size[1] - _KB_SIZE[1]) // 2, 0)
