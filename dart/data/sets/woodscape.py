"""WoodScape and SynWoodScape: fisheyes around a car, radial polynomial lenses.

Sources: the WoodScape paper and calibration JSON; public readers of SynWoodScape (``depth_maps/
raw_data/NAME.npy`` in metres; ``calibration_data/FV.json`` once a camera). SynWoodScape's fisheye
depth is range (checked by a third party, its BEV pictures' is z: they are dropped); beyond 40 m
lies sky or what its loaders leave out. WoodScape publishes no depth: its frames serve prediction
and checks.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from dart.cameras import Camera
from dart.cameras.calibration import load_calibration
from dart.data.sets.base import DepthDataset, Entry, read_npy, read_rgb
from dart.data.sets.parts import depth_path

_VIEWS = ("FV", "RV", "MVL", "MVR")


class WoodScape(DepthDataset):
    """The pictures of ``rgb_images`` (front, rear, left, right), without depth.

    Frames are told apart by their number, which is also the scene: the set names no drives.
    """

    name: ClassVar[str] = "woodscape"
    convention = "range"
    splits = ()
    min_distance = 0.01
    max_distance = 80.0

    def _list(self) -> Iterable[Entry]:
        for image in sorted(self.root.glob("rgb_images/*.png")):
            number, _, view = image.stem.partition("_")
            if view in _VIEWS:
                yield Entry(key=image.stem, scene=number, image=image, depth=self._depth(image))

    def _depth(self, image: Path) -> Path | None:  # noqa: ARG002
        return None

    def _read_image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float32[np.ndarray, "h w"]:
        return np.array(read_npy(depth_path(entry)), dtype=np.float32).squeeze()

    def _read_camera(self, entry: Entry) -> Camera:
        folder = self.root / "calibration_data"
        path = folder / f"{entry.key}.json"
        if not path.is_file():
            path = folder / f"{entry.key.partition('_')[2]}.json"
        return load_calibration(path, format="woodscape")


class SynWoodScape(WoodScape):
    """SynWoodScape: the same, rendered, with range.

    The four views of an instant are one scene; instants of one drive are not told apart.

    Args:
        farthest: Metres beyond which a pixel is sky and not counted.
    """

    name: ClassVar[str] = "synwoodscape"

    def __init__(self, root: Path, *, farthest: float = 40.0, **options: Any) -> None:
        self.max_distance = farthest
        super().__init__(root, **options)

    def _depth(self, image: Path) -> Path | None:
        return self.root / f"depth_maps/raw_data/{image.stem}.npy"
