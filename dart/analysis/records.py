"""The files that a study leaves behind, read and checked.

A results folder holds ``studies/NAME/cells.json``, which says what runs belong to a study, and
``runs/KEY/`` with the record of each. Runs are shared between studies, so what depends on a
study, such as its metric, is never taken from a run's record.
"""

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dart.comparison import ComparisonSpec
from dart.errors import UserError, did_you_mean

KEY_LENGTH = 16
"""Characters of a run's key that name its folder."""

AHEAD = 8
"""Files that are fetched at the same time."""
AT_ONCE = 32
"""Files that a thread takes together; a shorter queue costs less than reading."""

Setting = bool | int | float | str
Record = TypeVar("Record", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Cell(_Model):
    """One run that a study asks for."""

    key: str
    variant: str
    hyperparameters: dict[str, Setting] = {}
    training: dict[str, Setting] = {}
    """Fields of the training that differ between trials."""
    protocol: dict[str, Setting] = {}
    """Fields of the protocol that differ between trials."""
    pruned: int | None = None
    """Steps after which a search ended the run early; it has no result."""
    seed: int
    trial: int | str | None = None

    @property
    def settings(self) -> dict[str, Setting]:
        """All that may tell this run's trial from the variant's other trials."""
        return self.hyperparameters | self.training | self.protocol


class StudyRecord(_Model):
    """What a study asked."""

    study: str
    question: str = ""
    baseline: str = ""
    metric: str
    design: str = ""
    comparison: ComparisonSpec = ComparisonSpec()
    cells: list[Cell]


class DomainMeans(_Model):
    """The means over the images of one domain, metric -> value."""

    role: Literal["source", "target", "held_out"]
    before: dict[str, float]
    after: dict[str, float]


class Environment(_Model):
    """Which code made a run, and on what."""

    git_sha: str | None = None
    dirty: bool = False
    versions: dict[str, str] = {}
    device: str | None = None


class RunRecord(_Model):
    """What a run measured; a failed run has its reason instead."""

    key: str
    status: Literal["finished", "failed"]
    reason: str | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    flops_per_image: float | None = None
    steps: int | None = None
    """Steps of training that were taken."""
    domains: dict[str, DomainMeans] = {}
    validation_domains: dict[str, DomainMeans] = {}
    convention: str | None = None
    """What the errors are of: the distance along the ray, or depth along the optical axis."""
    environment: Environment = Field(default_factory=Environment)  # a copy costs more
    wall_seconds: float | None = None
    fold: int = 1
    """Runs that took their steps together, this one included."""
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class Study:
    """A study and where its results lie."""

    record: StudyRecord
    folder: Path
    results: Path

    def describe(self, cell: Cell) -> str:
        """Return the settings of a cell, where a variant has several trials those that differ."""
        names = self._differing[cell.variant] or tuple(cell.settings)
        known = [(name, cell.settings[name]) for name in names if name in cell.settings]
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in known
        )

    @cached_property
    def _differing(self) -> dict[str, tuple[str, ...]]:
        """Variant -> the settings that its trials differ in."""
        values: dict[str, dict[str, set[Setting | None]]] = {}
        counts = Counter(cell.variant for cell in self.record.cells)
        seen: Counter[tuple[str, str]] = Counter()
        for cell in self.record.cells:
            of_variant = values.setdefault(cell.variant, {})
            for name, value in cell.settings.items():
                of_variant.setdefault(name, set()).add(value)
                seen[cell.variant, name] += 1
        return {
            variant: tuple(
                name
                for name, known in of_variant.items()
                if len(known) > 1 or seen[variant, name] < counts[variant]
            )
            for variant, of_variant in values.items()
        }

    def run_folder(self, cell: Cell) -> Path:
        """Return where the run of ``cell`` is, or will be."""
        return self.results / "runs" / cell.key[:KEY_LENGTH]


def results_folder(results: str | os.PathLike[str] | None = None) -> Path:
    """Return ``results``, else the environment's ``DART_RESULTS``, else ``results``."""
    return Path(results or os.environ.get("DART_RESULTS") or "results")


def open_study(
    name_or_path: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
    whole: bool = False,
) -> Study:
    """Find a study by its name, its YAML file or its folder in the results.

    Args:
        name_or_path: Which study.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        tracking_uri: Address of an MLflow store to read the study from instead.
        whole: Keep a variant's trials together where the study compares them one by one.

    Raises:
        UserError: If there is none, or its record cannot be read.
    """
    found = _find_study(Path(name_or_path), results, tracking_uri)
    compared = found.record.comparison.rows or (
        "trials" if found.record.design == "grid" else "variants"
    )
    return found if whole or compared == "variants" else _split_trials(found)


def _split_trials(study: Study) -> Study:
    """Return the study with each trial in the place of a variant, named by what tells it apart."""
    cells = study.record.cells
    trials = Counter(variant for variant, _ in {(cell.variant, cell.trial) for cell in cells})

    def name(cell: Cell) -> str:
        settings = study.describe(cell) if trials[cell.variant] > 1 else ""
        return f"{cell.variant} {settings}".strip()

    first = next((cell for cell in cells if cell.variant == study.record.baseline), None)
    named = {
        "cells": [cell.model_copy(update={"variant": name(cell)}) for cell in cells],
        "baseline": study.record.baseline if first is None else name(first),
    }
    return replace(study, record=study.record.model_copy(update=named))


def _find_study(
    path: Path, results: str | os.PathLike[str] | None, tracking_uri: str | None
) -> Study:
    if tracking_uri is not None:
        # Imported by name, and only here: results are read without MLflow, which takes seconds.
        fetch = import_module("dart.fetching").fetch_study
        return _open_folder(fetch(_name_of(path), tracking_uri=tracking_uri))
    if (path / "cells.json").is_file():
        return _open_folder(path, root=results_folder(results) if results else None)
    root, name = results_folder(results), _name_of(path)
    known = sorted(found.parent.name for found in root.glob("studies/*/cells.json"))
    if name not in known:
        has = f"it has: {', '.join(known)}" if known else "it has none yet; run: make study"
        nearest = did_you_mean(name, known)
        raise UserError(f"no study {name!r} in {root / 'studies'}; {has}{nearest}")
    return _open_folder(root / "studies" / name, root=root)


def _name_of(path: Path) -> str:
    return path.stem if path.suffix in {".yaml", ".yml"} else str(path)


def _open_folder(folder: Path, *, root: Path | None = None) -> Study:
    record = _read(folder / "cells.json", StudyRecord)
    whole = [cell for cell in record.cells if cell.pruned is None]
    record = record.model_copy(update={"cells": whole})
    if not record.cells:
        raise UserError(f"{folder / 'cells.json'}: the study asks for no run")
    return Study(record, folder, root or folder.resolve().parent.parent)


def read_run(study: Study, cell: Cell) -> RunRecord | None:
    """Return the record of a run; nothing if it is still to be made.

    Raises:
        UserError: If the record is there and cannot be read.
    """
    path = study.run_folder(cell) / "result.json"
    try:
        record = _read(path, RunRecord)
    except UserError:
        if not path.parent.is_dir():
            return None
        raise
    if record.key != cell.key:
        raise UserError(f"{path}: the record is of run {record.key!r}, not of {cell.key!r}")
    return record


@contextmanager
def keeping_everything() -> Iterator[None]:
    """Let nothing look for garbage: among ten thousand records it takes as long as reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def reading_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Have files fetched into the system's memory: a disk gives many at once as fast as one.

    What cannot be opened is left to whoever reads it.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        yield
        return
    with ThreadPoolExecutor(AHEAD) as threads:
        threads.map(_fetch, [paths[at : at + AT_ONCE] for at in range(0, len(paths), AT_ONCE)])
        try:
            yield
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _fetch(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds; Python's own way takes half as long again for a small one.

    Raises:
        OSError: It cannot be read, or not whole.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        content = os.read(file, size)
    finally:
        os.close(file)
    if len(content) != size:
        raise OSError("it ends early")
    return content


def _read(path: Path, model: type[Record]) -> Record:
    try:
        content = read_whole(path)
        with suppress(ValidationError):  # far faster than by way of Python's own objects
            return model.model_validate_json(content)
        return model.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: cannot be read: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        refuse(path, error)


def refuse(path: Path, error: Exception) -> NoReturn:
    """Raise the one line for a file that cannot be read."""
    reason = "the file is not there" if isinstance(error, FileNotFoundError) else str(error)
    one_line = " ".join(reason.split())
    raise UserError(f"{path}: cannot be read: {one_line}") from None
