"""What a study declares before it runs about how its variants will be compared.

None of it changes a run, so none of it enters a run's key; it is kept in ``cells.json``.
"""

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from dart.recipe import Frozen

RELATIVE = 0.05
"""Margin and ROPE where a study declares none, as a share of the value before adaptation."""


class ComparisonSpec(Frozen):
    """Levels and margins of the verdicts (docs/verdicts.md)."""

    rows: Literal["variants", "trials"] | None = None
    """What is compared: each variant by its trial that was best on validation, or each trial by
    itself. Trials in a grid and variants in any other design, unless given."""
    alpha: FiniteFloat = Field(default=0.05, gt=0, lt=0.5, strict=False)
    """Error rate of the claims: of the family of all variants, for each objective."""
    margin: FiniteFloat | None = Field(default=None, gt=0, strict=False)
    """Forgetting beyond the baseline's that still counts as none, in the metric's unit."""
    margin_relative: FiniteFloat | None = Field(default=None, gt=0, strict=False)
    """The same as a share of the sources' value before adaptation; 0.05 if neither is given."""
    rope: FiniteFloat | None = Field(default=None, gt=0, strict=False)
    """Difference in adaptation that makes no practical difference, in the metric's unit."""
    rope_relative: FiniteFloat | None = Field(default=None, gt=0, strict=False)
    """The same as a share of the target's value before adaptation; 0.05 if neither is given."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for name in ("margin", "rope"):
            if getattr(self, name) is not None and getattr(self, f"{name}_relative") is not None:
                raise ValueError(f"give {name} or {name}_relative, not both")
        return self

    def resolve_margin(self, before: float) -> float:
        """Return the margin in the metric's unit, from the sources' value before adaptation."""
        return _resolve(self.margin, self.margin_relative, before)

    def resolve_rope(self, before: float) -> float:
        """Return the ROPE in the metric's unit, from the target's value before adaptation."""
        return _resolve(self.rope, self.rope_relative, before)


def _resolve(absolute: float | None, relative: float | None, before: float) -> float:
    if absolute is not None:
        return absolute
    return abs(before) * (RELATIVE if relative is None else relative)
