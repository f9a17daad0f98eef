"""What tells one state of a data set's files from another: their names and contents.

Reading every byte of a large data set takes minutes, so hashes are remembered in the user's cache
with each file's size and times; only what changed since is read again.
"""

import json
import os
import time
from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

from dart.errors import UserError

_SETTLED_NS = 2_000_000_000
"""A file changed later than this ago may change again within one tick of the clock."""


def _memory_path(folder: Path) -> Path:
    root = os.environ.get("DART_CACHE") or Path.home() / ".cache" / "dart"
    name = sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return Path(root) / "hashes" / f"{name}.json"


def hash_files(
    folder: Path,
    names: Sequence[str],
    *,
    method: Literal["contents", "stamps"],
    skip_missing: bool = False,
) -> str:
    """Return a hash over files: their names, and their contents or sizes and times.

    Args:
        folder: What the names are relative to.
        method: ``contents`` means the same on every machine; ``stamps`` reads no file, but a copy
            counts as another data set.
        skip_missing: Let absent files count as absent.

    Raises:
        UserError: a file is missing or unreadable.
    """
    path = _memory_path(folder)
    known = _recall(path) if method == "contents" else {}
    fresh: dict[str, list[int | str]] = {}
    total = sha256()
    for name in names:
        try:
            state = os.stat(folder / name)
        except OSError as error:
            if skip_missing:
                total.update(f"{name}\0absent\n".encode())
                continue
            raise UserError(f"{folder / name}: cannot be read: {error.strerror}") from None
        stamp = [state.st_size, state.st_mtime_ns]
        told: list[int] | list[str] = stamp
        if method == "contents":
            # The time of the last change of state cannot be set back as that of the content can.
            stamp.append(state.st_ctime_ns)
            digest = _digest(folder / name, stamp, known.get(name))
            if time.time_ns() - max(stamp[1:]) > _SETTLED_NS:
                fresh[name] = [*stamp, digest]
            told = [digest]
        total.update(f"{name}\0{told}\n".encode())
    if fresh != known:
        _remember(path, known | fresh)
    return total.hexdigest()


def _digest(path: Path, stamp: list[int], known: list[int | str] | None) -> str:
    if known is not None and known[:3] == stamp and isinstance(known[3], str):
        return known[3]
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _recall(path: Path) -> dict[str, list[int | str]]:
    try:
        content = json.loads(path.read_text())
        return {name: entry for name, entry in content.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _remember(path: Path, fresh: dict[str, list[int | str]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(fresh))
        partial.replace(path)
    except OSError:
        return  # a cache that cannot be written only costs time
