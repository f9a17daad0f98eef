"""Why a run failed, in one word, and which failures may heal by themselves.

Told from the error's class and text alone, so that torch need not be imported here.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from dart.errors import TimeLimit, UserError, did_you_mean

Failure = Literal[
    "out_of_memory",
    "diverged",
    "out_of_disk",
    "time_limit",
    "preempted",
    "crashed",
    "input",
    "bug",
]
"""``input``: what the run was given cannot be used; ``crashed``: its process died unasked;
``bug``: everything else."""
SHORT: Mapping[str, Failure] = {
    "oom": "out_of_memory",
    "nan": "diverged",
    "disk": "out_of_disk",
    "timeout": "time_limit",
    "killed": "crashed",
}
REASON_LENGTH = 500
ATTEMPTS: Mapping[Failure, int] = {"out_of_memory": 2, "crashed": 3}
"""How often a run is tried in all; once for what is not listed, always again if preempted."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_TEXTS = ("no space left on device", "disk is full", "disk quota exceeded", "file too large")
MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def classify(error: BaseException) -> Failure:
    """Return the kind of an error, judged by it and by what caused it."""
    chain = list(_causes(error))
    if any(_is_disk(cause) for cause in chain):
        return "out_of_disk"
    if isinstance(error, TimeLimit):
        return "time_limit"
    if any(_is_memory(cause) for cause in chain):
        return "out_of_memory"
    if _is_named(error, "Diverged"):
        return "diverged"
    return "input" if isinstance(error, UserError) else "bug"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _is_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return True
    return any(text in str(error).lower() for text in DISK_TEXTS)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_named(error, "OutOfMemoryError"):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in MEMORY_TEXTS)


def may_heal(result: Mapping[str, Any]) -> bool:
    """Say whether a failed run is to be tried again without being asked."""
    if result["status"] != "failed":
        return False
    known: dict[str | None, int] = {**ATTEMPTS}
    failure = result.get("failure")
    return failure == "preempted" or int(result.get("attempts", 1)) < known.get(failure, 1)


def describe_error(error: BaseException) -> str:
    """Return one line; the kind of error is named unless the text was written for people."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.errno in FULL_DISK:
        text = os.strerror(error.errno or 0).lower()
    if not isinstance(error, ValueError | TimeLimit) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "..."


def read_kinds(words: list[str]) -> frozenset[Failure]:
    """Return the failures that the words of a command name; ``all`` is every one.

    Raises:
        UserError: For a word that names none.
    """
    every: tuple[Failure, ...] = get_args(Failure)
    kinds: set[Failure] = set()
    for word in words:
        name = word.replace("-", "_").lower()
        if name == "all":
            return frozenset(every)
        if name not in SHORT and name not in every:
            allowed = ["all", *SHORT, *every]
            raise UserError(
                f"--failed {word}: no kind of failure; allowed: {', '.join(allowed)}"
                f"{did_you_mean(name, allowed)}"
            )
        kinds.add(SHORT.get(name) or name)  # pyright: ignore[reportArgumentType]
    return frozenset(kinds)
