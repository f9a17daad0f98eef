"""DIODE: laser-scanned rooms and streets, ``.npy`` depth and mask beside each picture.

Source: the set's devkit (layout, ``[fx, fy, cx, cy] = [886.81, 927.06, 512, 384]``, mask 1 =
valid). The principal point is the middle of 1024 x 768 pixels, so pixel centres are at +0.5. The
devkit does not say whether depth is z or range; z is what the field takes it for (unverified).
Its issue 20 doubts the intrinsics: right angles come out at 42.3 x 32.4 degrees, not at 60 x 45.
Bounds: 0.6 m, the scanner's nearest, to 25 m indoors and 80 m outdoors.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dart.cameras import Camera, Pinhole
from dart.data.sets.base import DepthDataset, Entry, read_npy, read_rgb
from dart.data.sets.parts import check_choice, make_camera
from dart.errors import UserError

_SIZE = (768, 1024)
_INTRINSICS = (886.81, 927.06, 512.0, 384.0)
_FARTHEST = {"indoors": 25.0, "outdoor": 80.0}


class Diode(DepthDataset):
    """The folders ``{train,val}/{indoors,outdoor}/scene_*/scan_*``.

    Args:
        place: ``indoors`` or ``outdoor``; both otherwise.
    """

    name: ClassVar[str] = "diode"
    convention = "z"
    splits = ("train", "val")
    min_distance = 0.6
    max_distance = max(_FARTHEST.values())

    def __init__(self, root: Path, *, place: str | None = None, **options: Any) -> None:
        self._places = [check_choice("place", place, _FARTHEST)] if place else list(_FARTHEST)
        self.max_distance = max(_FARTHEST[name] for name in self._places)
        super().__init__(root, **options)

    def _list(self) -> Iterable[Entry]:
        top = self.root / self.split if self.split else self.root
        for place in self._places:
            for image in sorted(top.glob(f"**/{place}/scene_*/scan_*/*.png")):
                yield Entry(
                    key=image.relative_to(self.root).with_suffix("").as_posix(),
                    scene=f"{place}/{image.parent.parent.name}",
                    image=image,
                    depth=image.with_name(f"{image.stem}_depth.npy"),
                )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        depth = self._read_map(entry, "_depth.npy").astype(np.float32)
        farthest = _FARTHEST["outdoor" if entry.scene.startswith("outdoor") else "indoors"]
        return np.where(depth <= farthest, depth, np.float32(0))

    def _read_mask(self, entry: Entry) -> Bool[np.ndarray, "h w"] | None:
        return self._read_map(entry, "_depth_mask.npy") > 0

    def _read_map(self, entry: Entry, ending: str) -> np.ndarray:
        path = entry.image.with_name(entry.image.stem + ending)
        array: np.ndarray = read_npy(path)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.ndim != 2:
            raise UserError(f"{path}: shape {array.shape}; (h, w) or (h, w, 1) is expected")
        return array

    def _read_camera(self, entry: Entry) -> Camera:  # noqa: ARG002
        return make_camera(Pinhole, _INTRINSICS, _SIZE, centres="half")
