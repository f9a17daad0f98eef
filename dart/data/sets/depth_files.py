"""Depth of any kind of file as an array in the file's own units, and masks.

Axis letters: ``h w`` pixels.
"""

import re
from pathlib import Path

import numpy as np
import OpenEXR
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray

from dart.data.sets.base import read_hdf5, read_npy, read_png16
from dart.data.sets.files import open_picture
from dart.data.sets.parts import read_named
from dart.errors import UserError, did_you_mean

_EXR_CHANNELS = ("Z", "Y", "R", "G", "B")
_PFM_HEADER = re.compile(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)\s")


def read_depth_array(
    path: Path, *, key: str | None = None, index: int | None = None
) -> Shaped[ndarray, "h w"]:
    """Return the units of a depth file, told from its ending.

    Args:
        key: Name of the array in an npz or HDF5 file, or of the channel in an EXR.
        index: Position along the first axis of an HDF5 array.

    Raises:
        UserError: the file is missing, damaged or holds no single map.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return read_png16(path)
    if suffix in (".h5", ".hdf5"):
        units = read_hdf5(path, key or "", index)
    elif suffix == ".npy":
        units = read_npy(path)
    elif suffix == ".npz":
        units = read_named(path, "an npz archive", lambda: _read_npz(path, key))
    elif suffix == ".exr":
        units = read_named(path, "EXR", lambda: _read_exr(path, key))
    else:
        units = read_named(path, "PFM", lambda: _read_pfm(path))
    shape = units.shape
    if units.ndim == 3 and 1 in (shape[0], shape[2]):
        units = units[0] if shape[0] == 1 else units[..., 0]
    if units.ndim != 2 or units.dtype.kind not in "iuf":
        raise UserError(
            f"{path}: holds {units.dtype} of shape {shape}, expected one map of numbers"
        )
    return units


def _read_npz(path: Path, key: str | None) -> ndarray:
    # NumPy leaves a file that it opened itself open when the archive is damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = list(archive)
        if key is None and len(names) != 1:
            raise UserError(f"{path}: has the arrays {', '.join(names)}; name one as 'depth_key'")
        name = key or names[0]
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"{path}: no array '{name}', it has {', '.join(names)}{hint}")
        return archive[name]


def _read_exr(path: Path, key: str | None) -> ndarray:
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        name = key or next((name for name in _EXR_CHANNELS if name in channels), "")
        if name not in channels:
            hint = did_you_mean(name, channels)
            raise UserError(f"{path}: no channel '{name}', it has {', '.join(channels)}{hint}")
        return np.array(channels[name].pixels)


def _read_pfm(path: Path) -> Float[ndarray, "h w"]:
    content = path.read_bytes()
    header = _PFM_HEADER.match(content)
    if header is None:
        raise UserError(f"{path}: not a single-channel PFM (it begins with 'Pf', width and height)")
    width, height = int(header[1]), int(header[2])
    # The sign of the scale is the byte order; the rows run from the bottom up.
    kind = np.dtype("<f4" if float(header[3]) < 0 else ">f4")
    values = np.frombuffer(content, kind, offset=header.end())
    if values.size != width * height:
        raise UserError(f"{path}: {values.size} numbers, its header says {width} x {height}")
    return values.reshape(height, width)[::-1].astype(np.float32)


def read_mask(path: Path) -> Bool[ndarray, "h w"]:
    """Return where a picture is not black (0).

    Raises:
        UserError: the file is missing or damaged.
    """
    values = np.array(open_picture(path))
    # Transparency, if there is any, does not count.
    return np.asarray((values.reshape(*values.shape[:2], -1)[..., :3] != 0).any(axis=-1))
