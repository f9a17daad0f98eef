"""Which runs a study needs and which of them exist: names, counts and keys, no torch.

A study's runs are its *cells*: variant x hyperparameters x seed, and the untouched network once.
Whether a cell has run is read from the folder that its key names; there is no other ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dart.checkpoint_header import hash_checkpoint, resolve_checkpoint
from dart.data.domain_file import fingerprint
from dart.errors import UserError
from dart.recipe import (
    ZERO_SHOT,
    ProtocolSpec,
    Recipe,
    TrainingSpec,
    canonical_hash,
    domain_label,
)
from dart.studies.choices import (
    JOINT,
    Choice,
    factors_of,
    list_choices,
    list_searches,
)
from dart.studies.factors import Scalar, Values
from dart.studies.model import FactorName, Kind
from dart.studies.records import (
    State,
    check_folder,
    estimate_seconds,
    read_cells,
    read_result,
    state_of,
)
from dart.studies.spec import Study
from dart.variants import VariantInfo, check_hyperparameters, scan_variants, unknown_variant

MAX_CELLS = 100_000


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    recipe: Recipe
    trial: int
    """Counts a variant's choices of hyperparameters, from 0."""
    training: Mapping[str, Scalar] = field(default_factory=dict)
    """Fields of ``training`` that differ between trials."""
    protocol: Mapping[str, Scalar] = field(default_factory=dict)
    """Fields of ``protocol`` that differ between trials."""
    pruned: int | None = None
    """Steps after which a search ended the run early."""

    @cached_property
    def key(self) -> str:
        """The run's key."""
        return self.recipe.key

    @property
    def label(self) -> str:
        """Return what the run is, for people."""
        return f"{self.recipe.variant} trial {self.trial} seed {self.recipe.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return the cell's entry in ``cells.json``."""
        entry = {
            "key": self.key,
            "variant": self.recipe.variant,
            "hyperparameters": self.recipe.hyperparameters,
            "training": dict(self.training),
            "seed": self.recipe.seed,
            "trial": self.trial,
        }
        more = {"protocol": dict(self.protocol)} if self.protocol else {}
        return entry | more | ({} if self.pruned is None else {"pruned": self.pruned})


@dataclass(frozen=True)
class Resources:
    """Identities of what all runs of a protocol read."""

    pretrained_sha256: str
    data: Mapping[str, str]

    @classmethod
    def read(
        cls, protocol: ProtocolSpec, checkpoint: Path, *, source_train: bool = False
    ) -> "Resources":
        """Return the identities as they are on disk now.

        Args:
            source_train: Whether training reads the sources' training images.
        """
        digest = hash_checkpoint(checkpoint)
        splits = [(name, "test") for name in protocol.roles]
        splits += [(name, "val") for name, role in protocol.roles.items() if role != "held_out"]
        splits.append((protocol.target, "train"))
        splits += [(name, "train") for name in protocol.source if source_train]
        data = {
            f"{name}/{split}": fingerprint(protocol.locate(name), split) for name, split in splits
        }
        return cls(digest, data)


def resolve_recipe(
    info: VariantInfo | None,
    hyperparameters: Mapping[str, object],
    *,
    protocol: ProtocolSpec,
    training: TrainingSpec,
    seed: int,
    resources: Resources,
) -> Recipe:
    """Return the recipe of one run; ``info=None`` is the untouched network.

    Nothing is trained in that case, so its recipe holds neither training nor seed and its run is
    shared by every study of the same protocol.

    Raises:
        UserError: A hyperparameter is unknown or has the wrong type.
    """
    data = dict(resources.data)
    if info is None:
        data.pop(f"{protocol.target}/train")
        return Recipe(
            variant=ZERO_SHOT,
            protocol=protocol,
            pretrained_sha256=resources.pretrained_sha256,
            data=data,
        )
    return Recipe(
        variant=info.name,
        hyperparameters=check_hyperparameters(info, hyperparameters),
        variant_code=info.code,
        protocol=protocol,
        training=training,
        seed=seed,
        pretrained_sha256=resources.pretrained_sha256,
        data=data,
    )


def create_recipe(
    variant: str,
    hyperparameters: Mapping[str, object],
    protocol: ProtocolSpec,
    training: TrainingSpec,
    seed: int,
) -> Recipe:
    """Return the recipe of one run outside a study, with what it reads as it is on disk now.

    Raises:
        UserError: The variant, a hyperparameter or the checkpoint is not there.
    """
    known = scan_variants()
    if variant != ZERO_SHOT and variant not in known:
        raise unknown_variant(variant, known)
    return resolve_recipe(
        known.get(variant),
        hyperparameters,
        protocol=protocol,
        training=training,
        seed=seed,
        resources=Resources.read(
            protocol,
            resolve_checkpoint(protocol.pretrained),
            source_train=variant != ZERO_SHOT and training.reads_source,
        ),
    )


class Planner:
    """Turns the choices of one study into cells."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._resources: dict[tuple[str, bool], Resources] = {}
        self._read(study.spec.protocol)

    def _read(self, protocol: ProtocolSpec, *, source_train: bool = False) -> Resources:
        """Return what the runs of a protocol read; files are read once."""
        name = protocol.model_dump_json(), source_train
        if name not in self._resources:
            try:
                checkpoint = resolve_checkpoint(protocol.pretrained)
                self._resources[name] = Resources.read(
                    protocol, checkpoint, source_train=source_train
                )
            except UserError as error:
                raise UserError(f"{self.study.file.where(('protocol',))}: {error}") from None
        return self._resources[name]

    def zero_shot(self, protocol: ProtocolSpec | None = None) -> Cell:
        """Return the cell of the untouched network under a protocol, the study's own if None."""
        protocol = protocol or self.study.spec.protocol
        recipe = resolve_recipe(
            None,
            {},
            protocol=protocol,
            training=TrainingSpec(),
            seed=0,
            resources=self._read(protocol),
        )
        return Cell(recipe, 0)

    def cells(self, variant: str, choice: Choice, *, trial: int) -> list[Cell]:
        """Return one cell a seed for one choice of a variant's factors."""
        spec = self.study.spec
        fixed = {
            name: factor.values[0]
            for name, factor in spec.variants[variant].items()
            if isinstance(factor, Values)
        }
        parts: dict[Kind, dict[str, Scalar]] = {
            "hyperparameters": {},
            "training": {},
            "protocol": {},
        }
        for (kind, name), value in choice.items():
            parts[kind][name] = value
        training = spec.vary_training(parts["training"])
        protocol = spec.vary_protocol(parts["protocol"])
        resources = self._read(protocol, source_train=training.reads_source)
        labels = {name: _label(value) for name, value in parts["protocol"].items()}
        return [
            Cell(
                resolve_recipe(
                    self.study.variants[variant],
                    fixed | parts["hyperparameters"],
                    protocol=protocol,
                    training=training,
                    seed=seed,
                    resources=resources,
                ),
                trial,
                parts["training"],
                labels,
            )
            for seed in spec.budget.seeds
        ]

    def enumerate(self) -> list[Cell]:
        """Return every cell that is known before anything runs, the untouched network first.

        Raises:
            UserError: There are more than ``MAX_CELLS``.
        """
        cells: dict[str, Cell] = {}
        for variant in self.study.spec.variants:
            for trial, choice in enumerate(list_choices(self.study, variant)):
                for cell in self.cells(variant, choice, trial=trial):
                    cells.setdefault(cell.key, cell)
                if len(cells) > MAX_CELLS:
                    where = self.study.file.where(("variants",))
                    raise UserError(f"{where}: more than {MAX_CELLS} runs; use 'design: search'")
        return [*self._untouched(cells.values()), *cells.values()]

    def _untouched(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return the untouched network under every protocol that the cells have."""
        protocols = {id(self.study.spec.protocol): self.study.spec.protocol}
        varied = {cell.recipe.protocol.model_dump_json(): cell.recipe.protocol for cell in cells}
        if varied:
            protocols = varied
        found = [self.zero_shot(protocol) for protocol in protocols.values()]
        return list({cell.key: cell for cell in found}.values())

    def recall(self, entries: Sequence[Mapping[str, Any]]) -> list[Cell]:
        """Return the cells of a search that were proposed earlier and still belong to the study.

        An entry belongs if the study as it stands now gives it the same key.
        """
        cells: dict[str, Cell] = {}
        for entry in entries:
            for cell in self._recall_one(entry):
                if cell.key == entry["key"]:
                    pruned = entry.get("pruned") if self.study.spec.pruning else None
                    cells.setdefault(cell.key, replace(cell, pruned=pruned))
        return list(cells.values())

    def _recall_one(self, entry: Mapping[str, Any]) -> list[Cell]:
        variant = entry["variant"]
        if variant not in self.study.variants:
            return []
        given = {"hyperparameters": entry["hyperparameters"], "training": entry["training"]}
        choice: dict[FactorName, Scalar] = {}
        for (kind, name), factor in factors_of(self.study, variant).items():
            value = given[kind].get(name)
            if value is None or not factor.allows(value):
                return []
            choice[kind, name] = value
        return self.cells(variant, choice, trial=entry["trial"])


def _label(value: Scalar) -> Scalar:
    """Return a domain's value without the folders of its file."""
    return "+".join(map(domain_label, value.split("+"))) if isinstance(value, str) else value


def search_identity(planner: Planner, variant: str) -> str:
    """Return what makes two searches the same; their trials may then be shared.

    The number of trials is left out, so that a search can be continued with a larger budget.

    Args:
        variant: Its name, or ``JOINT``.
    """
    study, spec = planner.study, planner.study.spec
    variants = list(spec.variants) if variant == JOINT else [variant]
    factors = {
        f"{kind}.{name}" if variant != JOINT else f"{one}.{kind}.{name}": factor.model_dump()
        for one in variants
        for (kind, name), factor in factors_of(study, one).items()
    }
    content = {
        "study": study.name,
        "variant": variant,
        "factors": factors,
        "keys": [cell.key for one in variants for cell in planner.cells(one, {}, trial=0)],
        "metric": spec.protocol.metric,
        "objectives": spec.objectives,
        "constraints": spec.constraints,
    }
    # Absent where it is off: searches from before there was any are continued.
    return canonical_hash(
        content | ({"pruning": spec.pruning.model_dump()} if spec.pruning else {})
    )


@dataclass(frozen=True)
class Plan:
    """Every run of a study, what is left to propose, and how long it will take."""

    cells: list[Cell]
    results: list[dict[str, Any] | None]
    open_trials: Mapping[str, int]
    """Variant -> trials of a search that are yet to be proposed."""
    seconds_left: float | None
    """None where no past run tells."""

    def states(self) -> list[State]:
        """Return the state of every cell."""
        return [
            "pruned" if result is None and cell.pruned is not None else state_of(result)
            for cell, result in zip(self.cells, self.results, strict=True)
        ]


def make_plan(study: Study, results: Path, *, only: Sequence[str] = ()) -> Plan:
    """Return all runs of a study, or of some of its variants, with their states.

    Raises:
        UserError: ``results`` is not a folder, or the checkpoint or a data set is gone.
    """
    check_folder(results)
    planner = Planner(study)
    cells = planner.enumerate()
    proposed: dict[str, int] = {}
    if study.spec.design == "search":
        memory = read_cells(results, study.name)
        known = {cell.key for cell in cells}
        cells += [cell for cell in planner.recall(memory["cells"]) if cell.key not in known]
        proposed = memory["proposed"]
    wanted = {ZERO_SHOT, *(only or study.spec.variants)}
    cells = [cell for cell in cells if cell.recipe.variant in wanted]
    records = [read_result(results, cell.key) for cell in cells]
    open_trials = {}
    for search in list_searches(study, [name for name in study.spec.variants if name in wanted]):
        used = proposed.get(search_identity(planner, search), 0)
        open_trials[search] = max(0, study.spec.budget.trials - used)
    missing = [
        cell.recipe
        for cell, record in zip(cells, records, strict=True)
        if record is None and cell.pruned is None
    ]
    for search, trials in open_trials.items():
        # What a joint search will choose is unknown; the baseline stands for it.
        variant = study.spec.baseline if search == JOINT else search
        runs = planner.cells(variant, {}, trial=0) if trials else []
        missing += [cell.recipe for cell in runs] * trials
    return Plan(cells, records, open_trials, estimate_seconds(missing, results))
