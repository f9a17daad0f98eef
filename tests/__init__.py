"""The tests, and the run-time type checker that they run ``dart`` and ``experiments`` under."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_BEARTYPE = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with its types checked by beartype when it is called.

    An int is good where a float is asked for, as static type checkers have it. Named in
    pyproject.toml; it stands here because jaxtyping 0.3.11 cannot read two packages and a checker
    with options from one line: it then takes all after the first comma for the checker.
    """
    # jaxtyping decorates methods one by one, where beartype cannot know what Self is.
    with suppress(BeartypeDecorHintPep673Exception):
        return _BEARTYPE(function)
    return function
