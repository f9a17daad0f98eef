"""KITTI-360's fisheyes (cameras 02 and 03), with depth that someone projected: range in metres.

Sources: KITTI-360's layout and Mei calibration files; DAC's readers (lists ``kitti360_{train,val}_
fisheye.txt``, PNG / 256, 0.01 to 80 m, validation on drive 0000). Where a conversion put its depth
differs, so ``depth`` is a pattern (its default is unverified).
The official projection returns *signed* range, negative behind the camera, and ignores p1 and p2:
a negative value is a range where the lens looks backwards, and no depth elsewhere. Evaluation
counts what lies in the circle of half the height (UniK3D).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dart.cameras import Camera
from dart.cameras.calibration import load_calibration
from dart.data.sets.base import DepthDataset, Entry, read_npy, read_png16, read_rgb
from dart.data.sets.parts import depth_path, read_named, read_pairs
from dart.errors import UserError

_VALIDATION_DRIVE = "2013_05_28_drive_0000_sync"
_VALIDATION_STEP = 10


class Kitti360Fisheye(DepthDataset):
    """The frames of DAC's lists where they stand in the root, else of ``data_2d_raw``.

    Frames that a list gives no depth are left out; ``without_depth`` names them.
    Without a list, ``val`` is every tenth frame of drive 0000 and ``train`` the other drives.

    Args:
        depth: Where a frame's depth lies, relative to the root: ``.png`` (/ 256), ``.npy`` or
            ``.npz`` (metres). ``{drive}``, ``{camera}`` and ``{frame}`` are filled in.
        mask: Where the mask of a camera lies (``.npy``, above 0 where the vehicle hides the
            scene, as public readers of the published masks take it); ``{camera}`` is filled in.
            No mask by default.
    """

    name: ClassVar[str] = "kitti360_fisheye"
    convention = "range"
    splits = ("train", "val")
    min_distance = 0.01
    max_distance = 80.0

    def __init__(
        self,
        root: Path,
        *,
        depth: str = "data_2d_raw/{drive}/{camera}/proj_depth/{frame}.png",
        mask: str | None = None,
        **options: Any,
    ) -> None:
        self._depth, self._mask = depth, mask
        self._cameras: dict[str, Camera] = {}
        self.without_depth: list[str] = []
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        listing = self.root / f"kitti360_{self.split}_fisheye.txt"
        pairs = read_pairs(listing) if self.split and listing.is_file() else self._scan()
        for image, depth in pairs:
            if depth is None:
                self.without_depth.append(image)
                continue
            path = self.root / image
            yield Entry(
                key=Path(image).with_suffix("").as_posix(),
                scene=path.parents[2].name,
                image=path,
                depth=self.root / depth,
            )

    def _scan(self) -> Iterable[tuple[str, str]]:
        for image in sorted(self.root.glob("data_2d_raw/*/image_0[23]/data_rgb/*.png")):
            drive, camera = image.parents[2].name, image.parents[1].name
            if self.split and (self.split == "val") != (drive == _VALIDATION_DRIVE):
                continue
            if self.split == "val" and int(image.stem) % _VALIDATION_STEP:
                continue
            depth = self._depth.format(drive=drive, camera=camera, frame=image.stem)
            yield image.relative_to(self.root).as_posix(), depth

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        path = depth_path(entry)
        if path.suffix == ".png":
            return read_png16(path).astype(np.float32) / 256
        distance = _read_metres(path)
        if not (distance < 0).any():
            return distance
        camera = self._read_camera(entry)
        if distance.shape != camera.size:
            raise UserError(f"{path}: {distance.shape} values for {camera.size} pixels")
        cosine, _ = self.look_through(camera)
        return np.where(cosine < 0, np.abs(distance), distance)

    def _read_camera(self, entry: Entry) -> Camera:
        name = entry.image.parents[1].name
        if name not in self._cameras:
            path = self.root / f"calibration/{name}.yaml"
            self._cameras[name] = load_calibration(path, format="kitti360")
        return self._cameras[name]

    def _read_mask(self, entry: Entry) -> Bool[np.ndarray, "h w"] | None:
        if self._mask is None:
            return None
        path = self._mask.format(camera=entry.image.parents[1].name)
        return read_npy(self.root / path).squeeze() <= 0

    def _crop(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
        height, width = size
        rows, columns = np.mgrid[:height, :width] + 0.5
        return np.hypot(rows - height / 2, columns - width / 2) <= height / 2


def _read_metres(path: Path) -> Float32[np.ndarray, "h w"]:
    """Return the array of a ``.npy``, or the only array of a ``.npz``."""

    def read() -> np.ndarray:
        with np.load(path, allow_pickle=False) as content:
            (name,) = content.files
            return content[name]

    metres = read_named(path, "one NumPy array", read) if path.suffix == ".npz" else read_npy(path)
    return np.array(metres, dtype=np.float32).squeeze()
