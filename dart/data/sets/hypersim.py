"""Hypersim: rendered rooms, HDF5 range in metres, NaN where there is nothing.

Sources: the set's documentation and issues: ``depth_meters`` is the distance to the optical
centre; f = 886.81 pixels with the principal point in the middle (pixel centres at +0.5).
Some scenes shift or tilt their lens: with ``metadata_camera_parameters.csv`` of the set's
repository in the root, each scene's own ``M_cam_from_uv`` is used. Up to 50 m (UniK3D).
"""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.linalg import rq

from dart.cameras import Camera, Pinhole
from dart.data.sets.base import DepthDataset, Entry, read_hdf5, read_rgb
from dart.data.sets.parts import depth_path, make_camera, read_named
from dart.errors import UserError

_SIZE = (768, 1024)
_FOCAL = 886.81
_IMAGE = re.compile(r"scene_(cam_\d+)_final_preview/frame\.(\d+)\.tonemap\.jpg$")
_LARGEST_SKEW = 1e-3


class Hypersim(DepthDataset):
    """The frames ``ai_*/images/scene_cam_*_final_preview/frame.*.tonemap.jpg``.

    A split needs ``metadata_images_split_scene_v1.csv`` of the set's repository in the root.
    """

    name: ClassVar[str] = "hypersim"
    convention = "range"
    splits = ("train", "val", "test")
    min_distance = 1e-3
    max_distance = 50.0

    def __init__(self, root: Path, **options: Any) -> None:
        self._cameras: dict[str, Camera] = {}
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        self._cameras = self._scene_cameras()
        chosen = self._frames_of_split()
        for image in sorted(self.root.glob("ai_*/images/scene_cam_*_final_preview/*.tonemap.jpg")):
            match = _IMAGE.search(image.as_posix())
            if match is None:
                continue
            scene, camera, frame = image.parents[2].name, match[1], match[2]
            if chosen is not None and (scene, camera, int(frame)) not in chosen:
                continue
            geometry = image.parents[1] / f"scene_{camera}_geometry_hdf5"
            yield Entry(
                key=f"{scene}/{camera}/{frame}",
                scene=scene,
                image=image,
                depth=geometry / f"frame.{frame}.depth_meters.hdf5",
            )

    def _frames_of_split(self) -> set[tuple[str, str, int]] | None:
        if self.split is None:
            return None
        path = self.root / "metadata_images_split_scene_v1.csv"
        return {
            (row["scene_name"], row["camera_name"], int(row["frame_id"]))
            for row in _read_table(path)
            if row["split_partition_name"] == self.split
        }

    def _scene_cameras(self) -> dict[str, Camera]:
        path = self.root / "metadata_camera_parameters.csv"
        if not path.is_file():
            return {}
        return read_named(path, "a table of cameras", lambda: _read_cameras(path))

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_hdf5(depth_path(entry), "dataset").astype(np.float32)

    def _read_camera(self, entry: Entry) -> Camera:
        if self._cameras and entry.scene not in self._cameras:
            path = self.root / "metadata_camera_parameters.csv"
            raise UserError(f"{path}: no scene '{entry.scene}'")
        middle = (_FOCAL, _FOCAL, _SIZE[1] / 2, _SIZE[0] / 2)
        default = make_camera(Pinhole, middle, _SIZE, centres="half")
        return self._cameras.get(entry.scene, default)


def _read_table(path: Path) -> list[dict[str, str]]:
    def read() -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read_named(path, "CSV", read)


def _read_cameras(path: Path) -> dict[str, Camera]:
    cameras: dict[str, Camera] = {}
    for row in _read_table(path):
        numbers = [[float(row[f"M_cam_from_uv_{i}{j}"]) for j in range(3)] for i in range(3)]
        cameras[row["scene_name"]] = _camera_from_uv(np.array(numbers), row["scene_name"])
    return cameras


def _camera_from_uv(matrix: Float[np.ndarray, "3 3"], scene: str) -> Camera:
    """Return the pinhole whose rays are those of ``M_cam_from_uv``.

    The matrix turns (u, v, 1), -1 to 1 to the right and up, into a ray with y up and z backwards.
    A tilted lens is a pinhole with another optical axis: range does not depend on the axis, so the
    camera is that of the rotated frame.

    Raises:
        UserError: the rays are those of no pinhole with square axes.
    """
    height, width = _SIZE
    uv_from_pixel = np.array([[2 / width, 0, -1], [0, -2 / height, 1], [0, 0, 1]])
    rays = np.diag([1.0, -1.0, -1.0]) @ matrix @ uv_from_pixel
    pixel_from_ray = np.linalg.inv(rays)
    if np.linalg.det(pixel_from_ray) < 0:
        pixel_from_ray = -pixel_from_ray
    intrinsics = rq(pixel_from_ray)[0]
    intrinsics = intrinsics * np.sign(np.diag(intrinsics)) / abs(intrinsics[2, 2])
    if abs(intrinsics[0, 1]) > _LARGEST_SKEW * intrinsics[0, 0]:
        raise UserError(f"scene {scene}: its axes are not square (skew {intrinsics[0, 1]:.3g} px)")
    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    return make_camera(Pinhole, (fx, fy, cx, cy), _SIZE, centres="half")
