"""What the readers of published data sets share: list files, damaged files, principal points."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import torch

from dart.cameras import Camera
from dart.data.sets.base import Entry
from dart.errors import UserError, did_you_mean

_Lens = TypeVar("_Lens", bound=Camera)
_Read = TypeVar("_Read")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list file, without blank ones and comments (``#``).

    Raises:
        UserError: the file is missing or no text.
    """
    text = read_named(path, "text", lambda: path.read_text(encoding="utf-8-sig"))
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
            raise UserError(f"{path}: '{line[:80]}' must be 'image depth [focal]'")
        image, depth = (field.lstrip("/") for field in fields[:2])
        pairs.append((image, None if depth == "None" else depth))
    return pairs


def read_named(path: Path, kind: str, read: Callable[[], _Read]) -> _Read:
    """Return ``read()``; whatever goes wrong becomes an error that names the file.

    Args:
        kind: What the file should be, for the error.

    Raises:
        UserError: the file is missing, damaged or not what is expected.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return read()
    except UserError:
        raise
    # Libraries of file formats raise what they like; the user needs the file's name.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:160]
        raise UserError(f"{path}: not readable as {kind} ({reason})") from None


def check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``.

    Raises:
        UserError: it is none of ``allowed``.
    """
    names = list(allowed)
    if value not in names:
        hint = did_you_mean(value, names)
        raise UserError(f"{option} is '{value}', allowed are {', '.join(names)}{hint}")
    return value


def depth_path(entry: Entry) -> Path:
    """Return where the depth of a frame that has one lies."""
    assert entry.depth is not None
    return entry.depth


def make_camera(
    lens: type[_Lens],
    params: tuple[float, ...],
    size: tuple[int, int],
    *,
    centres: Literal["integer", "half"],
) -> _Lens:
    """Return a lens whose principal point is counted as the data set counts it.

    Args:
        params: fx, fy, cx, cy in pixels, then the lens's own.
        size: Height and width in pixels.
        centres: ``integer``: the first pixel's centre is (0, 0), as OpenCV has it; ``half``:
            (0.5, 0.5), as here.
    """
    shift = 0.5 if centres == "integer" else 0.0
    fx, fy, cx, cy, *rest = params
    return lens(torch.tensor([fx, fy, cx + shift, cy + shift, *rest]), size)
