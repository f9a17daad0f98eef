"""iBims-1: 100 laser-scanned rooms for evaluation, ``ibims1_core_raw``.

Sources: public readers of the set agree on 16-bit PNG times 50 / 65535 metres, on ``fx,fy,cx,cy``
in ``calib/NAME.txt``, and on masks above 0 being usable. Depth is z in the authors' evaluation
script (v0.9). Its planarity error counts pixels from 1, where a line that is commented out counted
from 0; readers count from 0, as is assumed here: a pixel's difference at most. Bounds 0.005 to
25 m, as UniDepth has them.
"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from dart.cameras import Camera, Pinhole
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.parts import depth_path, make_camera, read_lines, read_named
from dart.errors import UserError

_SIZE = (480, 640)
_METRES = 50.0 / 65535.0


class Ibims1(DepthDataset):
    """The frames of ``imagelist.txt``, in the raw folder or beside it."""

    name: ClassVar[str] = "ibims1"
    convention = "z"
    splits = ()
    min_distance = 0.005
    max_distance = 25.0

    def _list(self) -> Iterable[Entry]:
        folder = self.root / "ibims1_core_raw"
        folder = folder if folder.is_dir() else self.root
        listing = folder / "imagelist.txt"
        if not listing.is_file():
            listing = self.root / "imagelist.txt"
        for name in read_lines(listing):
            yield Entry(
                key=name,
                scene=name,
                image=folder / f"rgb/{name}.png",
                depth=folder / f"depth/{name}.png",
            )

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return (read_png16(depth_path(entry)) * _METRES).astype(np.float32)

    def _read_mask(self, entry: Entry) -> Bool[np.ndarray, "h w"] | None:
        return _read_usable(entry, "mask_invalid") & _read_usable(entry, "mask_transp")

    def _read_camera(self, entry: Entry) -> Camera:
        path = entry.image.parent.parent / "calib" / f"{entry.key}.txt"
        try:
            fx, fy, cx, cy = (float(text) for text in " ".join(read_lines(path)).split(","))
        except ValueError:
            raise UserError(f"{path}: expected 'fx,fy,cx,cy' in pixels") from None
        return make_camera(Pinhole, (fx, fy, cx, cy), _SIZE, centres="integer")


def _read_usable(entry: Entry, folder: str) -> Bool[np.ndarray, "h w"]:
    path = entry.image.parent.parent / folder / entry.image.name

    def read() -> np.ndarray:
        with Image.open(path) as mask:
            return np.asarray(mask.convert("L")) > 0

    return read_named(path, "a picture", read)
