"""What a design makes of a study's lists: the choices of each variant's factors."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dart.studies.design import describe, fractional_design
from dart.studies.factors import Scalar, Values
from dart.studies.model import FactorName
from dart.studies.spec import Study, resolve_setting, variants_of

Choice = Mapping[FactorName, Scalar]
JOINT = "all variants"
"""Stands for the variant where one search is over all of them."""


def factors_of(study: Study, variant: str) -> dict[FactorName, Any]:
    """Return all that may vary for one variant: hyperparameters first, then what all share."""
    factors: dict[FactorName, Any] = {}
    for name, factor in study.spec.variants[variant].items():
        factors["hyperparameters", name] = factor
    return factors | study.spec.shared


def list_choices(study: Study, variant: str) -> Iterator[Choice]:
    """Yield the choices that a variant's factors allow under the study's design.

    A ``search`` has none beforehand, unless nothing varies or its budget covers every combination.
    """
    spec = study.spec
    if spec.design == "search" and not is_exhaustive(study, variant):
        return
    values = {name: factor.values for name, factor in factors_of(study, variant).items()}
    match spec.design:
        case "ofat":
            yield from _one_at_a_time(values)
        case "fractional":
            yield from _fraction(study, values)
        case "grid":
            yield from _grid(study, variant, values)
        case _:
            for combination in itertools.product(*values.values()):
                yield dict(zip(values, combination, strict=True))


def _one_at_a_time(values: Mapping[FactorName, Sequence[Scalar]]) -> Iterator[Choice]:
    """Yield the first value of every list, then each other value alone."""
    base = {name: options[0] for name, options in values.items()}
    yield base
    for name, options in values.items():
        yield from ({**base, name: option} for option in options[1:])


def _varied(values: Mapping[FactorName, Sequence[Scalar]]) -> list[FactorName]:
    return [name for name, options in values.items() if len(options) > 1]


def _fraction(study: Study, values: Mapping[FactorName, Sequence[Scalar]]) -> Iterator[Choice]:
    names = _varied(values)
    base = {name: options[0] for name, options in values.items()}
    design = fractional_design(len(names), **study.spec.fraction.model_dump())
    for levels in design.levels():
        chosen = {name: values[name][level] for name, level in zip(names, levels, strict=True)}
        yield base | chosen


def _grid(
    study: Study, variant: str, values: Mapping[FactorName, Sequence[Scalar]]
) -> Iterator[Choice]:
    """Yield a variant's settings in their order, its own values alone if it has none."""
    spec = study.spec
    base = {name: options[0] for name, options in values.items()}
    settings = [setting for setting in spec.settings if variant in variants_of(spec, setting)]
    for setting in settings or [{}]:
        yield base | resolve_setting(spec, variant, setting)


def describe_design(study: Study) -> dict[str, list[str]]:
    """Return variant -> lines on its design that a list of cells does not show."""
    if study.spec.design != "fractional":
        return {}
    lines = {}
    for variant in study.spec.variants:
        values = {name: factor.values for name, factor in factors_of(study, variant).items()}
        names = _varied(values)
        design = fractional_design(len(names), **study.spec.fraction.model_dump())
        if names:
            lines[variant] = describe(design, [name for _, name in names])
    return lines


def list_searches(study: Study, variants: Sequence[str]) -> list[str]:
    """Return the searches that a study needs for some of its variants; ``JOINT`` is one for all."""
    if study.spec.design != "search":
        return []
    if study.spec.joint:
        return [JOINT]
    return [name for name in variants if not is_exhaustive(study, name)]


def is_exhaustive(study: Study, variant: str) -> bool:
    """Say whether a search of this variant can simply run every combination."""
    if study.spec.joint:
        return False
    combinations = 1
    for factor in factors_of(study, variant).values():
        if not isinstance(factor, Values):
            return False
        combinations *= len(factor.values)
    return combinations <= study.spec.budget.trials
