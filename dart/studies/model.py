"""What a study file may say: its keys, their types and their defaults.

Nothing here imports torch: ``--plan`` answers at once.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from dart.comparison import ComparisonSpec
from dart.recipe import Frozen, ProtocolSpec, TrainingSpec
from dart.studies.factors import Factors, Range, Scalar, Values, field_value, no_repeats
from dart.studies.yaml_file import Place

Objective = Literal["target", "forgetting"]
Constraint = Literal["forgetting", "forgetting_relative"]
Design = Literal["ofat", "factorial", "fractional", "grid", "search"]
Sampler = Literal["auto", "gp", "tpe", "nsga2", "nsga3", "random"]
Kind = Literal["hyperparameters", "training", "protocol"]
FactorName = tuple[Kind, str]
PROTOCOL_FACTORS = ("pretrained", "source", "target", "held_out")


class Budget(Frozen):
    """What every variant may spend."""

    trials: int = Field(default=8, ge=1, le=10_000)
    """Choices of hyperparameters a variant gets in a search; other designs run every choice."""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
        Field(min_length=1, strict=False),
    ] = (0,)
    """Each trial is run once with each."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        no_repeats(self.seeds)
        return self


class Fraction(Frozen):
    """How much of all combinations a fractional design runs."""

    runs: int | None = Field(default=None, ge=2, le=1024)
    """Combinations a variant is run with: a power of two."""
    resolution: int | None = Field(default=None, ge=3, le=10)
    """The smallest resolution, from which the number of runs follows; 4 if neither is given."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.runs is not None and self.resolution is not None:
            raise ValueError("give runs or resolution, not both")
        if self.runs is not None and self.runs.bit_count() != 1:
            raise ValueError(f"runs must be a power of two, not {self.runs}")
        return self


class Pruning(Frozen):
    """Runs of a search end early where others of the same search are better on both objectives."""

    rungs: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=20, strict=False)
    ]
    """Steps of training after which a run is compared with the others."""
    eta: int = Field(default=3, ge=2, le=100)
    """One in ``eta`` of those that reached a rung goes on from it."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError("rungs must be steps in ascending order")
        return self


class StudySpec(Frozen):
    """One question, as a study file asks it."""

    question: str = ""
    """What the study is to answer, in one sentence."""
    baseline: str = ""
    """The variant that every other is compared with; the first one unless given."""
    variants: dict[str, Factors] = Field(min_length=1)
    """Variant -> hyperparameter -> a value, a list of values or a range."""
    protocol: ProtocolSpec = ProtocolSpec()
    """Network, domains and metric: the same for all variants."""
    training: TrainingSpec = TrainingSpec()
    """How every variant is trained."""
    factors: Factors = Field(default={})
    """Fields of ``training`` and ``protocol`` that differ between trials."""
    search: Factors = Field(default={})
    """Fields of ``training`` that differ between trials; an older name of ``factors``."""
    settings: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    """A grid's list: names of hyperparameters and fields, and for which ``variant``."""
    fraction: Fraction = Fraction()
    """The size of a fractional design."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)] = (
        "target",
        "forgetting",
    )
    """What a search minimises."""
    constraints: dict[Constraint, FiniteFloat] = Field(default={}, strict=False)
    """The largest value that a trial may reach to count as feasible."""
    design: Design
    """Which combinations are run (docs/studies.md)."""
    sampler: Sampler = "auto"
    """What proposes trials; ``auto`` is ``gp`` below 150 trials, and ``tpe`` above."""
    joint: bool = False
    """One search over all variants, not one for each."""
    reference: dict[Objective, FiniteFloat] = Field(default={}, strict=False)
    """Corner of the hypervolume: a tenth worse than the untouched network unless given."""
    pruning: Pruning | None = None
    """When runs end early; none does unless given."""
    budget: Budget = Budget()
    """Trials and seeds."""
    comparison: ComparisonSpec = ComparisonSpec()
    """Levels and margins of the verdicts."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        content = dict(content)
        variants = content.get("variants")
        if isinstance(variants, Mapping) and variants:
            content.setdefault("baseline", next(iter(variants)))
        content.setdefault("design", "search" if ranges_in(content) else "factorial")
        return content

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        no_repeats(self.objectives)
        return self

    @property
    def shared(self) -> dict[FactorName, Range | Values]:
        """What varies for every variant, apart from the variant itself."""
        found: dict[FactorName, Range | Values] = {}
        for name, factor in (self.factors | self.search).items():
            found["training" if name in TrainingSpec.model_fields else "protocol", name] = factor
        return found

    def vary_training(self, changes: Mapping[str, Scalar]) -> TrainingSpec:
        """Return how a cell is trained.

        Raises:
            ValidationError: A value is not allowed.
        """
        values = {n: field_value(TrainingSpec, n, value) for n, value in changes.items()}
        return TrainingSpec.model_validate(self.training.model_dump() | values)

    def vary_protocol(self, changes: Mapping[str, Scalar]) -> ProtocolSpec:
        """Return the protocol of a cell.

        Raises:
            ValidationError: A value is not allowed.
        """
        if not changes:
            return self.protocol
        values = {n: field_value(ProtocolSpec, n, value) for n, value in changes.items()}
        return ProtocolSpec.model_validate(self.protocol.model_dump() | values)


def ranges_in(content: Mapping[str, Any]) -> list[Place]:
    """Return the place of every range in a study that may yet be malformed."""
    variants = content.get("variants")
    blocks: dict[Place, Any] = {}
    if isinstance(variants, Mapping):
        blocks |= {("variants", name): factors for name, factors in variants.items()}
    blocks |= {(name,): content.get(name) for name in ("factors", "search")}
    return [
        (*place, name)
        for place, factors in blocks.items()
        if isinstance(factors, Mapping)
        for name, value in factors.items()
        if isinstance(value, Mapping | Range)
    ]


BLOCKS: Mapping[str, type[BaseModel]] = {
    "protocol": ProtocolSpec,
    "training": TrainingSpec,
    "budget": Budget,
    "comparison": ComparisonSpec,
    "fraction": Fraction,
    "pruning": Pruning,
}
