"""What may vary in a study: a value, a list of values to compare, or a range to search."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Tag,
    model_validator,
)

from dart.recipe import Frozen

Scalar = bool | int | float | str


def _check_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r}")
    return value


def _check_scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"must be a number, a text, true or false, not {value!r}")
    return value


Number = Annotated[Any, AfterValidator(_check_number)]


class Range(Frozen):
    """Every number from ``low`` to ``high``: for a search."""

    low: Number
    """Smallest value, allowed itself."""
    high: Number
    """Largest value, allowed itself."""
    log: bool = False
    """Sample the logarithm evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, but {self.low} >= {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true, not {self.low}")
        return self

    def allows(self, value: Scalar) -> bool:
        """Say whether ``value`` lies in the range."""
        return not isinstance(value, str) and self.low <= value <= self.high


class Values(Frozen):
    """One value, or several to compare."""

    values: tuple[Annotated[Any, AfterValidator(_check_scalar)], ...]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.values:
            raise ValueError("the list is empty; give at least one value")
        no_repeats(self.values)
        return self

    def allows(self, value: Scalar) -> bool:
        """Say whether ``value`` is one of the values."""
        return value in self.values


def no_repeats(values: Iterable[Any]) -> None:
    """Refuse a value that is listed twice.

    Raises:
        ValueError: For the first one.
    """
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{value!r} stands twice in the list")
        seen.append(value)


class _Listed(dict[str, Any]):
    """Tells values that this module wrapped from a mapping that the user wrote."""


def _as_factor(value: Any) -> Any:
    if isinstance(value, Mapping | Range | Values):
        return value
    return _Listed(values=tuple(value) if isinstance(value, list) else (value,))


def _kind_of(value: Any) -> str:
    return "<values>" if isinstance(value, _Listed | Values) else "<range>"


Factor = Annotated[
    Annotated[Values, Tag("<values>")] | Annotated[Range, Tag("<range>")],
    Discriminator(_kind_of),
    BeforeValidator(_as_factor),
]
Factors = Annotated[
    dict[str, Factor], BeforeValidator(lambda value: {} if value is None else value)
]


def field_value(model: type[BaseModel], name: str, value: Scalar) -> Any:
    """Return a factor's value as a field of a model takes it: ``a+b`` is a list of two.

    A cell, a table and Optuna hold numbers and words, but no lists; ``none`` is the empty one.
    """
    is_list = isinstance(model.model_fields[name].default, tuple)
    if not is_list or not isinstance(value, str):
        return value
    return () if value == "none" else tuple(value.split("+"))
