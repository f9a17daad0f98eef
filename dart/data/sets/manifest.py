"""A data set of any files, listed in a manifest: what each column means stands in ``table``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray
from PIL import Image

from dart.cameras import Camera, camera_from_dict
from dart.cameras.calibration.load import load_calibration
from dart.data.sets.base import DepthDataset, Entry, resolve_inside
from dart.data.sets.depth_files import read_depth_array, read_mask
from dart.data.sets.files import read_rgb
from dart.data.sets.table import Row, read_table
from dart.errors import UserError


class Manifest(DepthDataset):
    """The frames of a manifest; the values of its column ``split`` are the splits.

    Args:
        root: The manifest.
        defaults: Values of columns that the manifest leaves out.
        limits: Smallest and largest depth that counts, in metres.
    """

    name: ClassVar[str] = "manifest"
    convention: Literal["z", "range"] = "range"

    def __init__(
        self,
        root: Path,
        *,
        split: str | None = None,
        evaluation: bool = False,
        on_missing: Literal["error", "skip"] = "error",
        defaults: Mapping[str, Any] | None = None,
        limits: Sequence[float] = (0.001, 1000.0),
    ) -> None:
        if len(limits) != 2 or not 0 <= limits[0] < limits[1]:
            raise UserError(f"{root}: limits are {list(limits)}, expected [smallest, largest] in m")
        self.min_distance, self.max_distance = limits
        self.table = read_table(Path(root), defaults=defaults)
        self.splits = self.table.splits
        self._rows = {row.name: row for row in self.table.rows}
        self._places = {
            row.name: place for row, place in zip(self.table.rows, self.table.places, strict=True)
        }
        self._cameras: dict[tuple[Path, str | None, str | None], Camera] = {}
        super().__init__(root, split=split, evaluation=evaluation, on_missing=on_missing)
        only_z = all(self._convention_of(entry) == "z" for entry in self.entries)
        self.convention = "z" if only_z else "range"

    def _list(self) -> Iterable[Entry]:
        for row, place in zip(self.table.rows, self.table.places, strict=True):
            if self.split in (None, row.split):
                yield Entry(
                    key=row.name,
                    scene=row.place,
                    image=resolve_inside(self.folder, row.image, where=place),
                    depth=None
                    if row.depth is None
                    else resolve_inside(self.folder, row.depth, where=place),
                )

    def _row(self, entry: Entry) -> Row:
        return self._rows[entry.key]

    def _inside(self, entry: Entry, relative: str) -> Path:
        return resolve_inside(self.folder, relative, where=self._places[entry.key])

    def _further_files(self, entry: Entry) -> Iterable[Path]:
        row = self._row(entry)
        camera = row.camera if isinstance(row.camera, str) else None
        return [self._inside(entry, path) for path in (camera, row.mask) if path is not None]

    def _convention_of(self, entry: Entry) -> Literal["z", "range"]:
        return self._row(entry).convention or "range"

    def _read_image(self, entry: Entry) -> UInt8[ndarray, "h w 3"]:
        return read_rgb(entry.image)

    def _read_depth(self, entry: Entry) -> Float[ndarray, "h w"]:
        assert entry.depth is not None
        row = self._row(entry)
        units = read_depth_array(entry.depth, key=row.depth_key, index=row.depth_index)
        return to_metres(units, scale=row.depth_scale or 1.0, invalid=row.invalid)

    def _read_mask(self, entry: Entry) -> Bool[ndarray, "h w"] | None:
        mask = self._row(entry).mask
        return None if mask is None else read_mask(self._inside(entry, mask))

    def _crop_of(self, entry: Entry, size: tuple[int, int]) -> Bool[ndarray, "h w"] | None:
        crop = self._row(entry).crop
        if crop is None:
            return None
        top, left, height, width = crop
        if min(top, left) < 0 or min(height, width) < 1:
            raise UserError(
                f"{self._places[entry.key]}: crop {crop}: expected top, left, height, width"
            )
        if top + height > size[0] or left + width > size[1]:
            raise UserError(
                f"{self._places[entry.key]}: crop {crop} leaves the image of {size[1]} x {size[0]}"
            )
        counted = np.zeros(size, dtype=bool)
        counted[top : top + height, left : left + width] = True
        return counted

    def _read_camera(self, entry: Entry) -> Camera:
        row, place = self._row(entry), self._places[entry.key]
        if isinstance(row.camera, str):
            path = self._inside(entry, row.camera)
            asked = path, row.camera_format, row.camera_name
            if asked not in self._cameras:
                self._cameras[asked] = load_calibration(path, format=asked[1], name=asked[2])
            return self._cameras[asked]
        described = row.camera or {"model": row.camera_model, "params": list(row.camera_params)}
        if "width" not in described and "height" not in described:
            with Image.open(entry.image) as picture:
                width, height = picture.size
            described = {**described, "width": width, "height": height}
        return camera_from_dict(described, where=f"{place}: camera")


def to_metres(
    units: Shaped[ndarray, "h w"], *, scale: float, invalid: tuple[float, ...]
) -> Float[ndarray, "h w"]:
    """Return the metres of a depth file, 0 at its invalid values.

    Args:
        scale: Units per metre.
        invalid: Values of the file that mean unknown.
    """
    unknown = np.isin(units.astype(np.float64), invalid)
    return np.where(unknown, 0, units / np.float64(scale)).astype(np.float32)
