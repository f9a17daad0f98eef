"""Files that one process holds: the kernel gives a lock back however its holder ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Held(Exception):
    """Another process holds a lock; the text is its number."""


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock whose file says which process does.

    Raises:
        Held: Another one does.
        OSError: The file cannot be written.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(_read_holder(file)) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # a name that stays is that of a process that was killed


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock as soon as no other process does."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find_holder(path: Path) -> str | None:
    """Return the process that holds a lock, or None if it is free."""
    try:
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_holder(file)
            return None
    except OSError:
        return None


def _read_holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"
