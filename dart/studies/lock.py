"""One process a study: the kernel gives the lock back however its holder ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dart.errors import UserError


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Hold the lock of a study's results folder.

    Raises:
        UserError: If another process holds it.
    """
    path = folder / "lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"study '{folder.name}' is already running here (process {holder}, {path}); "
                "wait for it, or give --results another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # a name that stays is that of a process that was killed


def find_holder(folder: Path) -> str | None:
    """Return the process that holds a study's lock, or None if it is free."""
    try:
        with (folder / "lock").open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
            return None
    except OSError:
        return None
