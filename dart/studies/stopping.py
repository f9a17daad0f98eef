"""Ctrl-C and SIGTERM: a run that is training ends after its step, so that its state is kept.

SIGTERM is how clusters take a machine back. A second signal does not wait for the step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dart.errors import Stopped, TimeLimit

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Turns signals into ``Stopped``, at a moment when nothing is lost.

    Only a main thread hears signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Ray answers any signal with a KeyboardInterrupt of its own.
        is_own = isinstance(error, Stopped)
        if isinstance(error, KeyboardInterrupt) and not is_own and self.signum is not None:
            raise Stopped(self.signum) from None

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        is_first, self.signum = self.signum is None, self.signum or signum
        if not (self.is_training and is_first):
            raise Stopped(signum)

    def begin(self) -> None:
        """Be told that a step of training begins, which a signal is to wait for."""
        self.is_training = True

    def step(self, done: int, steps: int) -> None:
        """Be told that a step of training is over.

        Raises:
            Stopped: If a signal came during the step.
        """
        # After the last step the rest cannot be resumed: a signal then ends it at once.
        self.is_training = done < steps
        if self.signum is not None:
            self.end()
            raise Stopped(self.signum)

    def end(self) -> None:
        """Be told that no run is training any more."""
        self.is_training = False


@contextmanager
def limit_time(seconds: float | None) -> Iterator[None]:
    """Raise ``TimeLimit`` when the block takes longer; only in a main thread.

    Raises:
        TimeLimit: After ``seconds``.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signum: int, _frame: FrameType | None) -> None:
        raise TimeLimit(f"it took longer than its time limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
