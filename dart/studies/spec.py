"""The study file: what is asked, of which variants, under which protocol and budget.

A mistake is reported before anything runs, as one line with file, line, place, what is allowed
and the nearest match. Nothing here imports torch: ``--plan`` answers at once.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dart.checkpoint_header import read_metadata, resolve_checkpoint
from dart.data.domain_file import find_domain
from dart.errors import UserError, did_you_mean
from dart.recipe import ZERO_SHOT, ProtocolSpec, TrainingSpec, is_domain_file
from dart.studies.design import fractional_design
from dart.studies.factors import Range, Scalar, Values
from dart.studies.mistakes import describe, reason
from dart.studies.model import BLOCKS, PROTOCOL_FACTORS, FactorName, StudySpec, ranges_in
from dart.studies.yaml_file import Place, YamlFile, read_yaml
from dart.variants import VariantInfo, check_hyperparameters, scan_variants, unknown_variant

ONLY_FOR = {
    "settings": "grid",
    "fraction": "fractional",
    "sampler": "search",
    "joint": "search",
    "reference": "search",
    "pruning": "search",
}
"""Key of a study -> the design that alone reads it."""
MAX_PROTOCOLS = 64
DOMAIN_FIELDS = ("source", "target", "held_out")


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
    _check_shared(spec, file)
    _check_design(spec, file)
    _check_protocols(spec, file)
    checkpoint = _check_checkpoint(spec.protocol, file.where(("protocol", "pretrained")))
    return Study(name, file, spec, known, checkpoint)


def _check_protocols(spec: StudySpec, file: YamlFile) -> None:
    for place, domain in _domains(spec.protocol):
        find_domain(spec.protocol.locate(domain), where=file.where(place))
    for protocol in _list_protocols(spec, file):
        if protocol is not spec.protocol:
            where = file.where(("factors",) if spec.design != "grid" else ("settings",))
            for _, domain in _domains(protocol):
                find_domain(protocol.locate(domain), where=where)
            _check_checkpoint(protocol, where)


def _check_checkpoint(protocol: ProtocolSpec, where: str) -> Path:
    try:
        checkpoint = resolve_checkpoint(protocol.pretrained)
        kind = read_metadata(checkpoint)["kind"]
        if kind != "pretrained":
            raise UserError(f"checkpoint {checkpoint} is of kind '{kind}'; allowed: 'pretrained'")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return checkpoint


def _join_files(file: YamlFile) -> dict[str, Any]:
    """Return the study with the paths of domain files, which are relative to it, joined to its."""
    content = file.content

    def join(name: Any) -> Any:
        if isinstance(name, list):
            return [join(item) for item in name]
        if isinstance(name, str) and is_domain_file(name):
            parts = [part.strip() for part in name.split("+")]
            return "+".join(
                str((file.path.parent / part).resolve()) if is_domain_file(part) else part
                for part in parts
            )
        return name

    def join_in(block: Any) -> Any:
        if not isinstance(block, Mapping):
            return block
        return {key: join(value) if key in DOMAIN_FIELDS else value for key, value in block.items()}

    joined = {key: join_in(content[key]) for key in ("protocol", "factors") if key in content}
    if isinstance(content.get("settings"), list):
        joined["settings"] = [join_in(setting) for setting in content["settings"]]
    return content | joined


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


def _check_shared(spec: StudySpec, file: YamlFile) -> None:
    for block in ("factors", "search"):
        for name, factor in getattr(spec, block).items():
            _check_field(spec, name, factor, file.where((block, name)))
    twice = sorted(set(spec.factors) & set(spec.search))
    if twice:
        raise UserError(f"{file.where(('search', twice[0]))}: stands in 'factors' already")


def _check_field(
    spec: StudySpec,
    name: str,
    factor: Range | Values,
    where: str,
    *,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a field that may not vary, or a value of it that does not go with those beside it."""
    # All points between two weights are measured in one run: no factor.
    fields = [*(n for n in TrainingSpec.model_fields if n != "interpolate"), *PROTOCOL_FACTORS]
    if name not in fields:
        raise UserError(
            f"{where}: no field of 'training' or 'protocol' that may vary; they are: "
            f"{', '.join(fields)}{did_you_mean(name, fields)}"
        )
    if name in PROTOCOL_FACTORS:
        if spec.design == "search":
            raise UserError(
                f"{where}: a search compares trials under one protocol; use another design"
            )
        return
    for value in factor.values if isinstance(factor, Values) else (factor.low, factor.high):
        try:
            spec.vary_training({**(beside or {}), name: value})
        except ValidationError as error:
            raise UserError(f"{where}: {reason(error.errors()[0])}, not {value!r}") from None


def _list_protocols(spec: StudySpec, file: YamlFile) -> Iterator[ProtocolSpec]:
    """Yield every protocol that a study uses.

    Raises:
        UserError: One of them is none, or there are too many.
    """
    changes = list(_protocol_changes(spec, file))
    if len(changes) > MAX_PROTOCOLS:
        raise UserError(f"{changes[0][0]}: more than {MAX_PROTOCOLS} protocols")
    for where, values in changes:
        try:
            yield spec.vary_protocol(values)
        except ValidationError as error:
            told = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise UserError(f"{where}: {told}: {reason(error.errors()[0])}") from None


def _protocol_changes(spec: StudySpec, file: YamlFile) -> Iterator[tuple[str, dict[str, Scalar]]]:
    shared: dict[str, tuple[Scalar, ...]] = {}
    for (kind, name), factor in spec.shared.items():
        if kind == "protocol":
            if not isinstance(factor, Values):
                raise UserError(f"{file.where(('factors', name))}: give a list of names")
            shared[name] = factor.values
    where = file.where(("factors", next(iter(shared)))) if shared else ""
    for values in itertools.islice(itertools.product(*shared.values()), MAX_PROTOCOLS + 1):
        yield where, dict(zip(shared, values, strict=True))
    for index, setting in enumerate(spec.settings):
        given = {name: value for name, value in setting.items() if name in PROTOCOL_FACTORS}
        if given:
            first = {name: options[0] for name, options in shared.items()}
            yield file.where(("settings", index)), first | given


def _check_design(spec: StudySpec, file: YamlFile) -> None:
    for key, design in ONLY_FOR.items():
        if key in spec.model_fields_set and spec.design != design:
            raise UserError(f"{file.where((key,))}: is read by 'design: {design}' alone")
    ranges = ranges_in(dict(spec))
    if spec.design != "search" and ranges:
        raise UserError(
            f"{file.where(ranges[0])}: a range needs 'design: search'; a design "
            f"'{spec.design}' runs lists of values"
        )
    checks = {"fractional": _check_fraction, "grid": _check_settings, "search": _check_search}
    if spec.design in checks:
        checks[spec.design](spec, file)


def _lists(spec: StudySpec, variant: str) -> dict[Place, int]:
    """Return place -> number of values of everything that varies for a variant."""
    places = {("variants", variant, n): factor for n, factor in spec.variants[variant].items()}
    places |= {(b, n): f for b in ("factors", "search") for n, f in getattr(spec, b).items()}
    return {
        place: len(factor.values)
        for place, factor in places.items()
        if isinstance(factor, Values) and len(factor.values) > 1
    }


def _check_fraction(spec: StudySpec, file: YamlFile) -> None:
    for variant in spec.variants:
        lists = _lists(spec, variant)
        for place, count in lists.items():
            if count != 2:
                raise UserError(
                    f"{file.where(place)}: a fractional design takes two values, not {count}"
                )
        try:
            fractional_design(len(lists), **spec.fraction.model_dump())
        except UserError as error:
            where = file.where(("fraction",) if "fraction" in file.content else ("design",))
            raise UserError(f"{where}: variant '{variant}': {error}") from None


def _check_settings(spec: StudySpec, file: YamlFile) -> None:
    if not spec.settings:
        raise UserError(f"{file.where(('design',))}: a grid needs 'settings', a list of them")
    for variant in spec.variants:
        for place in _lists(spec, variant):
            raise UserError(f"{file.where(place)}: a grid lists its values in 'settings'")
    seen: list[tuple[str, dict[FactorName, Scalar]]] = []
    for index, setting in enumerate(spec.settings):
        where = file.where(("settings", index))
        only = setting.get("variant", spec.baseline)
        if not isinstance(only, str) or only not in spec.variants:
            raise UserError(
                f"{where}: {only!r} is not a variant of this study; it has: "
                f"{', '.join(spec.variants)}{did_you_mean(str(only), spec.variants)}"
            )
        for variant in variants_of(spec, setting):
            choice = resolve_setting(spec, variant, setting, where)
            if (variant, choice) in seen:
                raise UserError(f"{where}: stands in the list already")
            seen.append((variant, choice))


def variants_of(spec: StudySpec, setting: Mapping[str, Any]) -> list[str]:
    """Return the variants that a setting of a grid is for: the one it names, or all."""
    return [setting["variant"]] if "variant" in setting else list(spec.variants)


def resolve_setting(
    spec: StudySpec, variant: str, setting: Mapping[str, Any], where: str = ""
) -> dict[FactorName, Scalar]:
    """Return what a setting of a grid gives to the factors of a variant.

    Raises:
        UserError: A name or a value is not allowed.
    """
    info = scan_variants()[variant]
    training = {name: value for name, value in setting.items() if name in TrainingSpec.model_fields}
    choice: dict[FactorName, Scalar] = {}
    for name, value in setting.items():
        if name == "variant":
            continue
        if not isinstance(value, Scalar):
            raise UserError(f"{where}: '{name}' must be a number, a text, true or false")
        fields = [*TrainingSpec.model_fields, *PROTOCOL_FACTORS]
        if name in info.hyperparameters or name not in fields:
            check_hyperparameters(info, {name: value}, where=where)
            choice["hyperparameters", name] = value
            continue
        _check_field(spec, name, Values(values=(value,)), where, beside=training)
        choice["training" if name in TrainingSpec.model_fields else "protocol", name] = value
    return choice


def _check_search(spec: StudySpec, file: YamlFile) -> None:
    trials = spec.budget.trials
    if spec.joint and trials < len(spec.variants):
        raise UserError(
            f"{file.where(('budget', 'trials'))}: {trials} trials are too few for a joint search "
            f"of {len(spec.variants)} variants, each of which is tried once"
        )
    missing = [name for name in spec.objectives if spec.reference and name not in spec.reference]
    if missing:
        raise UserError(f"{file.where(('reference',))}: '{missing[0]}' is missing")
    if spec.pruning is not None and spec.pruning.rungs[-1] >= _steps(spec):
        raise UserError(
            f"{file.where(('pruning', 'rungs'))}: the last rung, {spec.pruning.rungs[-1]}, is not "
            f"below the {_steps(spec)} steps of training"
        )


def _steps(spec: StudySpec) -> int:
    """Return the fewest steps that a trial may have."""
    factor = (spec.factors | spec.search).get("steps")
    if factor is None:
        return spec.training.steps
    return min(factor.values) if isinstance(factor, Values) else factor.low
