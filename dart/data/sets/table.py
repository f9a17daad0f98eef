"""The manifest: one row a frame, in CSV, JSON or JSON lines, that brings any files as a data set.

Torch-free, so that a plan can tell which files a data set consists of.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from dart.errors import UserError, did_you_mean

FLOAT_SUFFIXES = (".npy", ".npz", ".exr", ".pfm", ".h5", ".hdf5")
DEPTH_SUFFIXES = (".png", *FLOAT_SUFFIXES)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(value.replace(";", " ").replace(",", " ").split())
    return (value,) if isinstance(value, int | float) else value


class Row(BaseModel):
    """One frame; paths are relative to the manifest's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str = Field(min_length=1)
    """The picture: 8 bits a channel."""
    depth: str | None = None
    """PNG of 16 bits, npy, npz, exr, pfm or HDF5; none: a picture without depth."""
    convention: Literal["z", "range"] | None = None
    """``z``: along the optical axis; ``range``: along the ray. Needed where there is depth."""
    depth_scale: FiniteFloat | None = Field(default=None, gt=0)
    """Units of the file per metre: 1000 for millimetres. Needed for PNG; floats are in metres."""
    depth_key: str | None = None
    """Name of the array in an npz or HDF5 file, or of the channel in an EXR."""
    depth_index: int | None = Field(default=None, ge=0)
    """Position along the first axis of an HDF5 array."""
    invalid: Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_list)] = ()
    """Values of the file that mean unknown, besides 0, negative and not finite ones."""
    camera: str | dict[str, Any] | None = None
    """Calibration file, or in JSON the camera itself: model, params, width, height."""
    camera_format: str | None = None
    """Kind of the calibration file, where its content does not tell, such as opencv_fisheye."""
    camera_name: str | None = None
    """Which camera of a calibration file with several, such as cam0."""
    camera_model: str | None = None
    """Name of a lens, for a camera in the row itself."""
    camera_params: Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_list)] = ()
    """fx, fy, cx, cy in pixels (the first pixel's centre is 0.5), then the lens's own."""
    mask: str | None = None
    """Picture of the image's size that is 0 where pixels do not count."""
    crop: Annotated[tuple[int, int, int, int] | None, BeforeValidator(_as_list)] = None
    """top, left, height, width of what an evaluation counts."""
    scene: str | None = None
    """Frames of one scene share it; the image's folder unless given."""
    split: str | None = None
    """The part of the data set that the frame belongs to."""
    key: str | None = None
    """Name of the frame; the image's path without its ending unless given."""

    @property
    def name(self) -> str:
        """The frame's key."""
        return self.key or Path(self.image).with_suffix("").as_posix()

    @property
    def place(self) -> str:
        """The frame's scene."""
        return self.scene or Path(self.image).parent.as_posix()

    def files(self) -> list[str]:
        """Return every file that the row names, relative to the manifest."""
        camera = self.camera if isinstance(self.camera, str) else None
        return [path for path in (self.image, self.depth, self.mask, camera) if path]


@dataclass(frozen=True)
class Table:
    """A checked manifest."""

    path: Path
    rows: tuple[Row, ...]
    places: tuple[str, ...]
    """File and line (CSV, JSON lines) or number (JSON) of every row, for errors."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that rows name."""
        return tuple(sorted({row.split for row in self.rows if row.split is not None}))


def read_table(path: Path, *, defaults: Mapping[str, Any] | None = None) -> Table:
    """Return the rows of a manifest, each checked.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` with an object a line, or ``.json``: a list of
            objects, or an object with ``frames`` and ``defaults``.
        defaults: Values of columns that a row leaves out; what the file says goes first.

    Raises:
        UserError: the file cannot be read, or a row is incomplete or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give the manifest file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a text file in UTF-8 ({reason})") from None
    readers = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_lines}
    if path.suffix.lower() not in readers:
        raise UserError(
            f"{path}: a manifest ends in {', '.join(readers)}, not in '{path.suffix.lower()}'"
        )
    rows, places = [], []
    try:
        for place, content in readers[path.suffix.lower()](path, text):
            rows.append(_check_row({**(defaults or {}), **content}, place))
            places.append(place)
    except (json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not rows:
        raise UserError(f"{path}: the manifest lists no frame")
    return Table(path, tuple(rows), tuple(places))


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
    for content in reader:
        place = f"{path}:{reader.line_num}"
        if None in content:
            raise UserError(f"{place}: more values than the header has columns")
        yield place, {name.strip(): value for name, value in content.items() if value}


def _read_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", _mapping(json.loads(line), f"{path}:{number}")


def _read_json(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    content = json.loads(text)
    defaults: dict[str, Any] = {}
    if isinstance(content, dict):
        for name in content:
            if name not in ("frames", "defaults"):
                raise UserError(f"{path}: unknown key '{name}', allowed are frames, defaults")
        defaults = _mapping(content.get("defaults", {}), f"{path}: defaults")
        content = content.get("frames")
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of frames")
    for number, item in enumerate(content):
        place = f"{path}: frames[{number}]"
        yield place, {**defaults, **_mapping(item, place)}


def _mapping(content: Any, place: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{place}: expected a mapping, got {type(content).__name__}")
    return content


def _check_row(content: Mapping[str, Any], place: str) -> Row:
    columns = Row.model_fields
    for name in content:
        if name not in columns:
            raise UserError(
                f"{place}: unknown column '{name}', allowed are {', '.join(columns)}"
                f"{did_you_mean(str(name), columns)}"
            )
    try:
        row = Row.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = ".".join(str(part) for part in first["loc"][:1])
        shown = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise UserError(f"{place}: {column}: {first['msg']}{shown}") from None
    problem = _missing(row)
    if problem:
        raise UserError(f"{place}: {problem}")
    return row


def _missing(row: Row) -> str:
    """Return what the row must still say, or an empty text."""
    cameras = [row.camera is not None, row.camera_model is not None]
    if sum(cameras) != 1:
        return "a frame needs 'camera' (a file), or 'camera_model' with 'camera_params'"
    if not isinstance(row.camera, str) and (row.camera_format or row.camera_name):
        return "'camera_format' and 'camera_name' go with 'camera', a calibration file"
    if row.depth is None:
        return ""
    suffix = Path(row.depth).suffix.lower()
    if suffix not in DEPTH_SUFFIXES:
        return f"depth '{row.depth}' is of an unknown kind, allowed are {', '.join(DEPTH_SUFFIXES)}"
    if row.convention is None:
        return (
            "'convention' is missing: 'z' (along the optical axis) or 'range' (along the ray); "
            "they differ away from the image's centre and cannot be told apart afterwards"
        )
    if row.depth_scale is None and suffix not in FLOAT_SUFFIXES:
        return "'depth_scale' is missing: units of the file per metre, 1000 for millimetres"
    if row.depth_key is None and suffix in (".h5", ".hdf5"):
        return "'depth_key' is missing: the name of the array in the HDF5 file"
    return ""
