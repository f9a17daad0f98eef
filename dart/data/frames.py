"""Rendered frames on disk: a JPEG picture, a 16-bit PNG of ranges, and an index of both.

A set is a folder or a zip with ``index.json``, ``image/*.jpg`` and ``range/*.png``. The index
holds the camera and the checksums of every frame, so that a damaged file is named, not learnt from.
"""

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dart.errors import UserError

INDEX = "index.json"
FORMAT = 1
_JPEG_QUALITY = 92
_LARGEST = 65535


@dataclass(frozen=True)
class FrameRecord:
    """What the index says about one frame."""

    key: str
    """Name of the frame, for instance ``rooms_pinhole/test/110003-0``."""
    scene: int
    view: int
    camera: dict[str, Any]
    image_sha256: str
    range_sha256: str

    @property
    def stem(self) -> str:
        """Name of the frame's files without folder and ending."""
        return f"{self.scene:06d}-{self.view}"

    @property
    def image_file(self) -> str:
        """Path of the picture within the set."""
        return f"image/{self.stem}.jpg"

    @property
    def range_file(self) -> str:
        """Path of the ranges within the set."""
        return f"range/{self.stem}.png"


@dataclass(frozen=True)
class FrameIndex:
    """What a set of frames holds and how it was made."""

    domain: str
    split: str
    size: tuple[int, int]
    range_scale: float
    frames: tuple[FrameRecord, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of ``index.json``."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content, indent=1) + "\n"


def parse_index(text: str | bytes, *, where: str) -> FrameIndex:
    """Return the index of a set.

    Raises:
        UserError: the text is no index of the format that this version reads.
    """
    try:
        content = json.loads(text)
        version = content.pop("format")
        frames = tuple(FrameRecord(**frame) for frame in content.pop("frames"))
        height, width = content.pop("size")
        index = FrameIndex(**content, size=(height, width), frames=frames)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}: not an index of rendered frames ({reason})") from None
    if version != FORMAT:
        raise UserError(f"{where}: index format {version}, this version reads {FORMAT}")
    return index


def encode_image(image: Float[Tensor, "3 h w"]) -> bytes:
    """Return a picture with values in 0..1 as JPEG."""
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def encode_range(distance: Float[Tensor, "h w"], *, scale: float) -> bytes:
    """Return metres as a 16-bit PNG of ``scale`` units per metre; 0 stays 0."""
    units = (distance.double() * scale).round().clamp(0, _LARGEST).cpu().numpy().astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(units).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def decode_image(content: bytes, *, where: str) -> UInt8[Tensor, "3 h w"]:
    """Return the pixels of a JPEG.

    Raises:
        UserError: the bytes are no picture.
    """
    pixels = _decode(content, "RGB", where)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def decode_range(content: bytes, *, scale: float, where: str) -> Float[Tensor, "h w"]:
    """Return the metres of a 16-bit PNG, 0 where unknown.

    Raises:
        UserError: the bytes are no 16-bit picture.
    """
    units = np.array(_decode(content, "I;16", where)).astype(np.float64)
    return torch.from_numpy((units / scale).astype(np.float32))


def _decode(content: bytes, mode: str, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{where}: damaged picture ({str(error).splitlines()[0]})") from None
    if picture.mode != mode:
        raise UserError(f"{where}: pixels of kind {picture.mode}, expected {mode}")
    return picture


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either complete or absent, whatever ends the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


class FrameStore:
    """Reads the files of a set, from a folder or a zip.

    Raises:
        UserError: there is no set at ``path``, or it was never finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._owner = -1
        if path.is_dir() and not (path / INDEX).is_file():
            raise UserError(
                f"{path}: no {INDEX}: the rendering never finished; run the same dart render again"
            )
        self.index = parse_index(self.read(INDEX), where=f"{path}/{INDEX}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open archive behind: another process opens its own."""
        return {**self.__dict__, "_archive": None, "_owner": -1}

    def read(self, name: str, *, checksum: str | None = None) -> bytes:
        """Return the bytes of one file of the set.

        Raises:
            UserError: the file is missing, unreadable or not the one that the index describes.
        """
        where = f"{self.path}/{name}"
        try:
            content = self._read(name)
        except KeyError:
            raise UserError(f"{where}: missing from the pack; install or render it anew") from None
        except (OSError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{where}: cannot be read ({reason}); render it anew") from None
        if checksum is not None and sha256(content).hexdigest() != checksum:
            raise UserError(f"{where}: checksum differs from the index; the file is damaged")
        return content

    def _read(self, name: str) -> bytes:
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        # A file handle shared with a forked worker would share its position.
        if self._archive is None or self._owner != os.getpid():
            self._archive, self._owner = zipfile.ZipFile(self.path), os.getpid()
        return self._archive.read(name)


def write_pack(folder: Path, pack: Path) -> None:
    """Put a finished set into one zip, byte for byte the same for the same frames."""
    store = FrameStore(folder)
    names = [INDEX]
    for record in store.index.frames:
        names += [record.image_file, record.range_file]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            kind = zipfile.ZIP_DEFLATED if name == INDEX else zipfile.ZIP_STORED
            archive.writestr(entry, store.read(name), compress_type=kind)
    write_atomically(pack, buffer.getvalue())


def sorted_frames(frames: Sequence[FrameRecord]) -> tuple[FrameRecord, ...]:
    """Return the frames in the order of scenes and views."""
    return tuple(sorted(frames, key=lambda record: (record.scene, record.view)))
