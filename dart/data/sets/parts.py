"""What the readers of published data sets share: list files, arrays on disk, intrinsics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5py
import numpy as np
import torch
from jaxtyping import Shaped

from dart.cameras import Camera
from dart.errors import UserError

_Lens = TypeVar("_Lens", bound=Camera)
_Read = TypeVar("_Read")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list file, without blank ones and comments (``#``).

    Raises:
        UserError: the file is missing, unreadable or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"'{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read as text: {error}") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_pairs(path: Path) -> list[tuple[str, str | None]]:
    """Return image and depth of each line ``image depth [focal]``; ``None`` is no depth.

    Leading slashes are dropped: the lists of BTS write ``/scene/rgb.jpg`` for a relative path.

    Raises:
        UserError: the file is missing, or a line names no image and depth.
    """
    pairs: list[tuple[str, str | None]] = []
    for line in read_lines(path):
        fields = line.split()
        if len(fields) < 2:
            raise UserError(f"'{path}': '{line[:80]}' must be 'image depth [focal]'")
        image, depth = (field.lstrip("/") for field in fields[:2])
        pairs.append((image, None if depth == "None" else depth))
    return pairs


def read_array(path: Path) -> Shaped[np.ndarray, "..."]:
    """Return the array of a ``.npy`` (memory-mapped) or the only array of a ``.npz``.

    Raises:
        UserError: the file is missing, damaged or holds something else.
    """
    return naming(path, "a NumPy array", lambda: _load_array(path))


def _load_array(path: Path) -> np.ndarray:
    content = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        if len(content.files) != 1:
            raise ValueError(f"one array expected, it holds {', '.join(content.files) or 'none'}")
        return content[content.files[0]]


def read_hdf5(path: Path, key: str, index: int | None = None) -> Shaped[np.ndarray, "..."]:
    """Return an array of an HDF5 file, or one element of it without reading the others.

    The file is closed again: an open handle does not survive a fork into a loader's workers.

    Raises:
        UserError: the file is missing or damaged, or has no such array.
    """

    def read() -> np.ndarray:
        with h5py.File(path, "r") as file:
            if key not in file:
                raise ValueError(f"it has no '{key}', only {', '.join(file) or 'nothing'}")
            dataset: Any = file[key]
            return np.asarray(dataset[()] if index is None else dataset[index])

    return naming(path, "HDF5", read)


def naming(path: Path, kind: str, read: Callable[[], _Read]) -> _Read:
    """Return ``read()``; whatever goes wrong becomes an error that names the file.

    Raises:
        UserError: the file is missing, damaged or not what is expected.
    """
    if not path.is_file():
        raise UserError(f"'{path}' does not exist")
    try:
        return read()
    except UserError:
        raise
    # Libraries of file formats raise what they like; the user needs the file's name.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"'{path}' cannot be read as {kind}: {reason}") from None


def make_camera(
    lens: type[_Lens],
    params: tuple[float, ...],
    size: tuple[int, int],
    *,
    centres: Literal["integer", "half"],
) -> _Lens:
    """Return a lens whose principal point is counted as the data set counts it.

    Args:
        lens: The lens model.
        params: fx, fy, cx, cy (pixels) and the lens's own.
        size: Height and width in pixels.
        centres: ``integer``: the first pixel's centre is (0, 0), as OpenCV has it; ``half``:
            (0.5, 0.5), as here.
    """
    shift = 0.5 if centres == "integer" else 0.0
    fx, fy, cx, cy, *rest = params
    return lens(torch.tensor([fx, fy, cx + shift, cy + shift, *rest]), size)
