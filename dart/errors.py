"""Errors that a user can mend: one line that says what, where, and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what the user gave; its text is one line, and the command exits with 2."""


class Stopped(KeyboardInterrupt):
    """The process was told to end; whoever works on something long keeps its state and ends."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class TimeLimit(BaseException):
    """A run took longer than it was allowed; not an Exception, so that no run can swallow it."""


class Pruned(BaseException):
    """A run was ended early by its study; not an Exception, so that no run can swallow it."""

    def __init__(self, step: int) -> None:
        super().__init__(f"ended early after {step} steps")
        self.step = step


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest allowed word, or an empty text."""
    matches = get_close_matches(value, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
