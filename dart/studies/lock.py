"""One process a study."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dart.errors import UserError
from dart.locks import Held, hold_lock

LOCK = "lock"


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """Hold the lock of a study's results folder.

    Raises:
        UserError: If another process holds it.
    """
    path = folder / LOCK
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path))
        except Held as holder:
            raise UserError(
                f"study '{folder.name}' is already running here (process {holder}, {path}); "
                "wait for it, or give --results another folder"
            ) from None
        yield
