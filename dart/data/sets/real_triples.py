"""Photographs with depth and calibration, one triple of files each, listed in a manifest.

The layout is ``manifest.json`` beside ``<group>/<id>_{rgb.*, depth.png, calib.json}``. Metres are
``png / depth_scale``, 0 is unknown, each frame says whether its depth is z or range.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from dart.cameras import Camera, camera_from_dict
from dart.data.sets.base import DepthDataset, Entry, read_png16, read_rgb, resolve_inside
from dart.data.sets.files import read_json
from dart.errors import UserError

MANIFEST = "manifest.json"
_MODELS = {"kannala_brandt4": "kannala_brandt"}
_LISTED = re.compile(r"([kps])(\d+)")
_FIRST = {"k": 1, "p": 1, "s": 0}


class RealTriples(DepthDataset):
    """Triples of files; the groups of the manifest are the splits.

    Frames whose names differ in the last number alone count as one scene, whatever their group:
    a kitchen seen through two lenses is one kitchen.
    """

    name: ClassVar[str] = "real_triples"
    convention: Literal["z", "range"] = "z"
    min_distance = 0.001
    max_distance = 80.0

    def __init__(
        self,
        root: Path,
        *,
        split: str | None = None,
        evaluation: bool = False,
        on_missing: Literal["error", "skip"] = "error",
    ) -> None:
        self._samples = _read_manifest(Path(root) / MANIFEST)
        self._by_key = {sample["id"]: sample for sample in self._samples}
        self.splits = tuple(sorted({str(sample["group"]) for sample in self._samples}))
        super().__init__(root, split=split, evaluation=evaluation, on_missing=on_missing)

    def _list(self) -> Iterable[Entry]:
        for sample in self._samples:
            if self.split in (None, sample["group"]):
                yield Entry(
                    key=sample["id"],
                    scene=re.sub(r"_[a-z]?\d+[a-z]?$", "", sample["id"].rsplit("/", 1)[-1]),
                    image=self._inside(sample, "rgb"),
                    depth=self._inside(sample, "depth"),
                )

    def _inside(self, sample: Mapping[str, Any], kind: str) -> Path:
        where = f"{self.root / MANIFEST}: {sample['id']}: {kind}"
        return resolve_inside(self.root, sample[kind], where=where)

    def _further_files(self, entry: Entry) -> Iterable[Path]:
        return [self._inside(self._by_key[entry.key], "calib")]

    def _read_image(self, entry: Entry) -> UInt8[ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float[ndarray, "h w"]:
        assert entry.depth is not None
        scale = self._by_key[entry.key]["depth_scale"]
        return (read_png16(entry.depth) / np.float64(scale)).astype(np.float32)

    def _read_camera(self, entry: Entry) -> Camera:
        return read_calibration(self._inside(self._by_key[entry.key], "calib"))

    def _convention_of(self, entry: Entry) -> Literal["z", "range"]:
        return self._by_key[entry.key]["depth_kind"]


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    samples = read_json(path).get("samples")
    if not isinstance(samples, list) or not samples:
        raise UserError(f"{path}: needs a list 'samples'")
    for number, sample in enumerate(samples):
        where = f"{path}: samples[{number}]"
        if not isinstance(sample, Mapping):
            raise UserError(f"{where}: expected a mapping")
        for key in ("id", "group", "rgb", "depth", "calib", "depth_kind", "depth_scale"):
            if key not in sample:
                raise UserError(f"{where}: '{key}' is missing")
        if sample["depth_kind"] not in ("z", "range"):
            raise UserError(
                f"{where}: depth_kind is {sample['depth_kind']!r}, allowed are 'z' and 'range'"
            )
        scale = sample["depth_scale"]
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise UserError(f"{where}: depth_scale is {scale!r}, expected units per metre above 0")
    return samples


def read_calibration(path: Path) -> Camera:
    """Return the camera of a triple; integer pixel centres in the file, ours are at +0.5.

    Raises:
        UserError: the file is missing, unreadable or describes no lens.
    """
    content = read_json(path)
    params = {name: content[name] for name in content if _is_param(name)}
    for name in ("k", "p", "s"):
        for number, value in enumerate(content.get(name, ()), start=_FIRST[name]):
            params[f"{name}{number}"] = value
    for centre in ("cx", "cy"):
        if isinstance(params.get(centre), int | float):
            params[centre] += 0.5
    model = content.get("model")
    described = {
        "model": _MODELS.get(str(model), model),
        "params": params,
        "width": content.get("width"),
        "height": content.get("height"),
    }
    if "max_theta_deg" in content:
        described["max_polar_degrees"] = content["max_theta_deg"]
    return camera_from_dict(described, where=str(path))


def _is_param(name: str) -> bool:
    named = ("fx", "fy", "cx", "cy", "xi", "alpha", "beta")
    return name in named or _LISTED.fullmatch(name) is not None
