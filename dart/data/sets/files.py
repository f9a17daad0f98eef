"""Readers of the files of data sets: whatever is wrong is one line that names the file.

Nothing stays open, and no library writes to the terminal. Axis letters: ``h w`` pixels.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import UInt8, UInt16
from numpy import ndarray
from PIL import Image

from dart.errors import UserError, did_you_mean


def open_picture(path: Path) -> Image.Image:
    """Return a picture of any kind, decoded.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged or not a picture ({reason})") from None
    return picture


def read_rgb(path: Path) -> UInt8[ndarray, "h w 3"]:
    """Return a picture of 8 bits a channel as RGB; grey is repeated, transparency left out.

    Raises:
        UserError: the file is missing, damaged or of more than 8 bits.
    """
    picture = open_picture(path)
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P"):
        raise UserError(f"{path}: pixels of kind {picture.mode}, allowed are 8-bit colour and grey")
    return np.array(picture.convert("RGB"))


def read_png16(path: Path) -> UInt16[ndarray, "h w"]:
    """Return the units of a 16-bit single-channel picture.

    Raises:
        UserError: the file is missing, damaged, or of another kind, such as 8 bits or colour.
    """
    picture = open_picture(path)
    if not picture.mode.startswith("I"):
        raise UserError(f"{path}: pixels of kind {picture.mode}, a depth picture has 16-bit grey")
    return np.array(picture).astype(np.uint16)


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds.

    Raises:
        UserError: the file is missing, not JSON or not a mapping.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def read_npy(path: Path) -> ndarray:
    """Return the array of a ``.npy`` file, mapped into memory rather than read.

    Raises:
        UserError: the file is missing, damaged or holds Python objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole .npy file ({str(error).splitlines()[0]})") from None


def read_hdf5(path: Path, key: str, index: int | None = None) -> ndarray:
    """Return a data set of an HDF5 file, or one item along its first axis.

    The file is opened and closed again: a handle must not be shared with a forked worker.

    Raises:
        UserError: the file is missing, damaged or has no such key or item.
    """
    try:
        with h5py.File(path, "r") as file:
            found = file.get(key)
            if not isinstance(found, h5py.Dataset):
                names = ", ".join(list(file)[:8])
                raise UserError(
                    f"{path}: no array '{key}', it has {names}{did_you_mean(key, file)}"
                )
            if index is not None and not 0 <= index < found.shape[0]:
                raise UserError(f"{path}: {key} has {found.shape[0]} items, none numbered {index}")
            return np.asarray(found[()] if index is None else found[index])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a whole HDF5 file ({reason})") from None
