"""NYU Depth v2: the labelled ``.mat`` and the folders of BTS; Kinect, z in metres.

Sources: the data set's own description (HDF5 arrays whose axes MATLAB reverses, 1-based
``splits.mat``) and the lists of BTS. Depth 1e-3 to 10 m, evaluation inside Eigen's crop. The
intrinsics are those of the set's toolbox; its slight distortion is ignored, as in the field. Its
``rgb_plane2rgb_world.m`` counts pixels from 1, but RGBDemo, which calibrated them, uses OpenCV and
counts from 0: 0 is assumed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy.io import loadmat

from dart.cameras import Camera, Pinhole
from dart.data.sets.base import DepthDataset, Entry, read_hdf5, read_png16, read_rgb
from dart.data.sets.parts import check_choice, depth_path, make_camera, read_named, read_pairs
from dart.errors import UserError

_SIZE = (480, 640)
_INTRINSICS = (518.8579, 519.4696, 325.5824, 253.7362)
_ARRAYS = {"raw": "rawDepths", "filled": "depths"}
_MILLIMETRES = 1000.0


class _Nyu(DepthDataset):
    convention = "z"
    splits = ("train", "test")
    min_distance = 1e-3
    max_distance = 10.0

    def _read_camera(self, entry: Entry) -> Camera:  # noqa: ARG002
        return make_camera(Pinhole, _INTRINSICS, _SIZE, centres="integer")

    def _crop(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
        if size != _SIZE:
            raise UserError(f"{self.name}: Eigen's crop is for {_SIZE} pixels, not {size}")
        mask = np.zeros(size, dtype=bool)
        mask[45:471, 41:601] = True
        return mask


class NyuLabelled(_Nyu):
    """The 1,449 frames of ``nyu_depth_v2_labeled.mat``, with ``splits.mat`` beside it.

    Args:
        depth: ``raw`` is what the sensor measured (0 where it did not), ``filled`` the set's
            in-painted depth.
    """

    name: ClassVar[str] = "nyuv2_labelled"

    def __init__(self, root: Path, *, depth: str = "raw", **options: Any) -> None:
        self._depths = _ARRAYS[check_choice("depth", depth, _ARRAYS)]
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        path = self.root / "nyu_depth_v2_labeled.mat"
        scenes = read_named(path, "HDF5", lambda: _read_scenes(path))
        for index in self._indices(len(scenes)):
            yield Entry(
                key=f"{scenes[index]}/{index + 1:04d}",
                scene=scenes[index],
                image=path,
                depth=path,
                index=index,
            )

    def _indices(self, count: int) -> list[int]:
        if self.split is None:
            return list(range(count))
        path = self.root / "splits.mat"
        name = f"{self.split}Ndxs"
        numbers = read_named(path, "a MATLAB file", lambda: loadmat(path)[name].ravel())
        if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= count:
            raise UserError(f"{path}: {name} must lie in 1..{count}")
        return [int(number) - 1 for number in numbers]

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_hdf5(entry.image, "images", entry.index).transpose(2, 1, 0)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_hdf5(entry.image, self._depths, entry.index).T.astype(np.float32)


def _read_scenes(path: Path) -> list[str]:
    with h5py.File(path, "r") as file:
        references: Any = file["scenes"]
        texts: list[Any] = [file[reference] for reference in references[()].ravel()]
        return ["".join(chr(code) for code in text[()].ravel()) for text in texts]


class NyuBts(_Nyu):
    """The folders ``sync`` (train) and ``official_splits/test`` with BTS's list files.

    ``nyudepthv2_train_files_with_gt.txt`` and ``nyudepthv2_test_files_with_gt.txt`` stand in the
    root. Scenes of the test split are kinds of rooms: its folders tell no more.
    """

    name: ClassVar[str] = "nyuv2_bts"

    def _list(self) -> Iterable[Entry]:
        folders = {"train": "sync", "test": "official_splits/test"}
        for split in [self.split] if self.split else self.splits:
            lines = self.root / f"nyudepthv2_{split}_files_with_gt.txt"
            for image, depth in read_pairs(lines):
                folder = self.root / folders[split]
                yield Entry(
                    key=f"{split}/{image}",
                    scene=f"{split}/{Path(image).parent}",
                    image=folder / image,
                    depth=folder / depth if depth else None,
                )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return read_png16(depth_path(entry)).astype(np.float32) / _MILLIMETRES
