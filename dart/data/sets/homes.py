"""Rendered homes as panoramas: ``NNNN.jpg``, ``NNNN_range.png``, ``NNNN.json`` side by side.

The panorama is equirectangular and whole: 360 by 180 degrees, its middle looks forward. The PNG
holds ``range_scale`` units per metre along the ray, 0 is unknown.
"""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from dart.cameras import Camera, Equirectangular
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb
from dart.data.sets.files import read_json
from dart.errors import UserError


class Homes(DepthDataset):
    """Panoramas of furnished rooms; every one is a scene of its own."""

    name: ClassVar[str] = "homes"
    convention: Literal["z", "range"] = "range"
    min_distance = 0.01
    max_distance = 30.0

    def _list(self) -> Iterable[Entry]:
        for path in sorted(self.folder.glob("*_range.png")):
            stem = path.name.removesuffix("_range.png")
            yield Entry(key=stem, scene=stem, image=path.with_name(f"{stem}.jpg"), depth=path)

    def _read_image(self, entry: Entry) -> UInt8[ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float[ndarray, "h w"]:
        assert entry.depth is not None
        path = self.folder / f"{entry.key}.json"
        scale = read_json(path).get("range_scale")
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise UserError(f"{path}: range_scale is {scale!r}, expected units per metre above 0")
        return (read_png16(entry.depth) / np.float64(scale)).astype(np.float32)

    def _read_camera(self, entry: Entry) -> Camera:
        path = self.folder / f"{entry.key}.json"
        content = read_json(path)
        if content.get("model") != "erp":
            raise UserError(f"{path}: model is {content.get('model')!r}, allowed is 'erp'")
        sides = [content.get(name) for name in ("w", "h")]
        width, height = (side if isinstance(side, int) else 0 for side in sides)
        if width < 1 or width != 2 * height:
            raise UserError(f"{path}: w, h are {sides}; a whole panorama is twice as wide as high")
        params = [width / math.tau, height / math.pi, width / 2, height / 2]
        return Equirectangular(torch.tensor(params), (height, width))
