"""The study file: what is asked, of which variants, under which protocol and budget.

A mistake is reported before anything runs, as one line with file, line, place, what is allowed
and the nearest match. Nothing here imports torch: ``--plan`` answers at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from dart.checkpoint_header import read_metadata, resolve_checkpoint
from dart.comparison import ComparisonSpec
from dart.data.domain_file import find_domain
from dart.errors import UserError, did_you_mean
from dart.recipe import ZERO_SHOT, Frozen, ProtocolSpec, TrainingSpec, is_domain_file
from dart.studies.factors import Factors, Range, Values, no_repeats
from dart.studies.mistakes import describe, reason
from dart.studies.yaml_file import Place, YamlFile, read_yaml
from dart.variants import VariantInfo, check_hyperparameters, scan_variants, unknown_variant

Objective = Literal["target", "forgetting"]
Constraint = Literal["forgetting", "forgetting_relative"]
Design = Literal["ofat", "factorial", "search"]


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
    search: Factors = Field(default={})
    """Fields of ``training`` that differ between trials."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)] = (
        "target",
        "forgetting",
    )
    """What a search minimises."""
    constraints: dict[Constraint, FiniteFloat] = Field(default={}, strict=False)
    """The largest value that a trial may reach to count as feasible."""
    design: Design
    """``ofat``: one factor at a time; ``factorial``: every combination; ``search``: Optuna."""
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
        content.setdefault("design", "search" if _ranges(content) else "factorial")
        return content

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        no_repeats(self.objectives)
        return self


def _ranges(content: Mapping[str, Any]) -> list[Place]:
    """Return the place of every range in a study that may yet be malformed."""
    variants = content.get("variants")
    blocks: dict[Place, Any] = {}
    if isinstance(variants, Mapping):
        blocks |= {("variants", name): factors for name, factors in variants.items()}
    blocks["search",] = content.get("search")
    return [
        (*place, name)
        for place, factors in blocks.items()
        if isinstance(factors, Mapping)
        for name, value in factors.items()
        if isinstance(value, Mapping | Range)
    ]


@dataclass(frozen=True)
class Study:
    """A checked study file."""

    name: str
    file: YamlFile
    spec: StudySpec
    variants: Mapping[str, VariantInfo]
    """The variants that the study names."""
    checkpoint: Path
    """File of the pretrained network."""


def load_spec(path: str | Path) -> Study:
    """Return the study of a YAML file, checked as far as that is possible without running it.

    Raises:
        UserError: One line with file, place, what was allowed and the nearest match.
    """
    file = read_yaml(Path(path))
    name = file.path.stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"{path}: the file's name names the study; use letters, digits, _ . and -")
    try:
        spec = StudySpec.model_validate(_join_files(file))
    except ValidationError as error:
        raise UserError(describe(error, file, root=StudySpec, blocks=BLOCKS)) from None
    known = _check_variants(spec, file)
    _check_search(spec, file)
    _check_design(spec, file)
    for place, domain in _domains(spec.protocol):
        find_domain(spec.protocol.locate(domain), where=file.where(place))
    try:
        checkpoint = resolve_checkpoint(spec.protocol.pretrained)
        kind = read_metadata(checkpoint)["kind"]
        if kind != "pretrained":
            raise UserError(f"checkpoint {checkpoint} is of kind '{kind}'; allowed: 'pretrained'")
    except UserError as error:
        raise UserError(f"{file.where(('protocol', 'pretrained'))}: {error}") from None
    return Study(name, file, spec, known, checkpoint)


def _join_files(file: YamlFile) -> dict[str, Any]:
    """Return the study with the paths of domain files, which are relative to it, joined to its."""
    protocol = file.content.get("protocol")
    if not isinstance(protocol, Mapping):
        return file.content

    def join(name: Any) -> Any:
        if isinstance(name, list):
            return [join(item) for item in name]
        if isinstance(name, str) and is_domain_file(name):
            return str((file.path.parent / name).resolve())
        return name

    roles = ("source", "target", "held_out")
    joined = {key: join(value) if key in roles else value for key, value in protocol.items()}
    return {**file.content, "protocol": joined}


def _domains(protocol: ProtocolSpec) -> list[tuple[Place, str]]:
    places: list[tuple[Place, str]] = [(("protocol", "target"), protocol.target)]
    for role, names in (("source", protocol.source), ("held_out", protocol.held_out)):
        places += [(("protocol", role, index), name) for index, name in enumerate(names)]
    return places


def _check_variants(spec: StudySpec, file: YamlFile) -> dict[str, VariantInfo]:
    known = scan_variants()
    for name, factors in spec.variants.items():
        place = ("variants", name)
        if name == ZERO_SHOT:
            raise UserError(f"{file.where(place)}: every study has this row already; leave it out")
        if name not in known:
            raise UserError(f"{file.where(place)}: {unknown_variant(name, known)}")
        for hyperparameter, factor in factors.items():
            _check_factor(known[name], hyperparameter, factor, file)
    if spec.baseline not in spec.variants:
        raise UserError(
            f"{file.where(('baseline',))}: '{spec.baseline}' is not a variant of this study; it "
            f"has: {', '.join(spec.variants)}{did_you_mean(spec.baseline, spec.variants)}"
        )
    return {name: known[name] for name in spec.variants}


def _check_factor(
    info: VariantInfo, hyperparameter: str, factor: Range | Values, file: YamlFile
) -> None:
    place = ("variants", info.name, hyperparameter)
    if isinstance(factor, Values):
        for value in factor.values:
            check_hyperparameters(info, {hyperparameter: value}, where=file.where(place))
        return
    for end in (factor.low, factor.high):
        check_hyperparameters(info, {hyperparameter: end}, where=file.where(place))
    if info.hyperparameters[hyperparameter].choices:
        raise UserError(f"{file.where(place)}: a range needs a number; give a list of values")


def _check_search(spec: StudySpec, file: YamlFile) -> None:
    fields = TrainingSpec.model_fields
    given = spec.training.model_dump()
    for name, factor in spec.search.items():
        where = file.where(("search", name))
        if name not in fields:
            raise UserError(
                f"{where}: 'training' has no such field; it has: "
                f"{', '.join(fields)}{did_you_mean(name, fields)}"
            )
        values = factor.values if isinstance(factor, Values) else (factor.low, factor.high)
        for value in values:
            try:
                TrainingSpec.model_validate(given | {name: value})
            except ValidationError as error:
                raise UserError(f"{where}: {reason(error.errors()[0])}, not {value!r}") from None


def _check_design(spec: StudySpec, file: YamlFile) -> None:
    ranges = _ranges(dict(spec))
    if spec.design != "search" and ranges:
        raise UserError(
            f"{file.where(ranges[0])}: a range needs 'design: search'; a design "
            f"'{spec.design}' runs lists of values"
        )
