"""The files that a study leaves behind, read and checked.

A results folder holds ``studies/NAME/cells.json``, which says what runs belong to a study, and
``runs/KEY/`` with the record of each. Runs are shared between studies, so what depends on a
study, such as its metric, is never taken from a run's record.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from dart.errors import UserError, did_you_mean

KEY_LENGTH = 16
"""Characters of a run's key that name its folder."""

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
    seed: int
    trial: int | str | None = None

    @property
    def settings(self) -> dict[str, Setting]:
        """All that may tell this run's trial from the variant's other trials."""
        return self.hyperparameters | self.training


class StudyRecord(_Model):
    """What a study asked."""

    study: str
    question: str = ""
    baseline: str = ""
    metric: str
    cells: list[Cell]


class DomainMeans(_Model):
    """The means over the images of one domain, metric -> value."""

    role: Literal["source", "target", "held_out"]
    before: dict[str, float]
    after: dict[str, float]


class RunRecord(_Model):
    """What a run measured; a failed run has its reason instead."""

    key: str
    status: Literal["finished", "failed"]
    reason: str | None = None
    trainable_parameters: int | None = None
    domains: dict[str, DomainMeans] = {}
    validation_domains: dict[str, DomainMeans] = {}
    wall_seconds: float | None = None
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class Study:
    """A study and where its results lie."""

    record: StudyRecord
    folder: Path
    results: Path

    def describe(self, cell: Cell) -> str:
        """Return the settings of a cell, where a variant has several trials those that differ."""
        others = [c.settings for c in self.record.cells if c.variant == cell.variant]
        differ = [name for name in cell.settings if len({s.get(name) for s in others}) > 1]
        return ", ".join(f"{name}={cell.settings[name]}" for name in differ or cell.settings)

    def run_folder(self, cell: Cell) -> Path:
        """Return where the run of ``cell`` is, or will be."""
        return self.results / "runs" / cell.key[:KEY_LENGTH]


def results_folder(results: str | os.PathLike[str] | None = None) -> Path:
    """Return ``results``, else the environment's ``DART_RESULTS``, else ``results``."""
    return Path(results or os.environ.get("DART_RESULTS") or "results")


def open_study(
    name_or_path: str | os.PathLike[str], *, results: str | os.PathLike[str] | None = None
) -> Study:
    """Find a study by its name, its YAML file or its folder in the results.

    Raises:
        UserError: If there is none, or its record cannot be read.
    """
    path = Path(name_or_path)
    if (path / "cells.json").is_file():
        root = results_folder(results) if results else path.resolve().parent.parent
        return Study(_read(path / "cells.json", StudyRecord), path, root)
    root = results_folder(results)
    name = path.stem if path.suffix in {".yaml", ".yml"} else str(name_or_path)
    known = sorted(found.parent.name for found in root.glob("studies/*/cells.json"))
    if name not in known:
        has = f"it has: {', '.join(known)}" if known else "it has none yet; run: make study"
        nearest = did_you_mean(name, known)
        raise UserError(f"no study {name!r} in {root / 'studies'}; {has}{nearest}")
    folder = root / "studies" / name
    study = Study(_read(folder / "cells.json", StudyRecord), folder, root)
    if not study.record.cells:
        raise UserError(f"{folder / 'cells.json'}: the study asks for no run")
    return study


def read_run(study: Study, cell: Cell) -> RunRecord | None:
    """Return the record of a run; nothing if it is still to be made.

    Raises:
        UserError: If the record is there and cannot be read.
    """
    folder = study.run_folder(cell)
    if not folder.is_dir():
        return None
    path = folder / "result.json"
    record = _read(path, RunRecord)
    if record.key != cell.key:
        raise UserError(f"{path}: the record is of run {record.key!r}, not of {cell.key!r}")
    return record


def read_images(study: Study, cells: Iterable[Cell]) -> pd.DataFrame:
    """Return the errors per image of all ``cells``, with their ``key``; cached in one file.

    Raises:
        UserError: If a run has no such file, or it cannot be read.
    """
    paths = {cell.key: study.run_folder(cell) / "per_image.parquet" for cell in cells}
    cache = study.folder / f".per_image-{_fingerprint(paths)}.parquet"
    if cache.is_file():
        with suppress(OSError, ValueError):  # a broken cache is made anew
            return pd.read_parquet(cache)
    frames = [_read_parquet(path).assign(key=key) for key, path in paths.items()]
    images = pd.concat(frames, ignore_index=True)
    with suppress(OSError):  # results may be on a disk that is only read
        partial = cache.with_suffix(f".{os.getpid()}")
        images.to_parquet(partial, index=False)
        for old in study.folder.glob(".per_image-*.parquet"):
            old.unlink(missing_ok=True)
        partial.replace(cache)
    return images


def _fingerprint(paths: Mapping[str, Path]) -> str:
    """Hash which files they are and when they were written."""
    digest = hashlib.sha256()
    for key, path in paths.items():
        with suppress(OSError):  # the reader says which one is missing
            state = path.stat()
            digest.update(f"{key} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read_parquet(path: Path) -> pd.DataFrame:
    wanted = {"domain", "role", "image", "scene", "metric", "before", "after"}
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        _refuse(path, error)
    if missing := sorted(wanted - set(frame.columns)):
        raise UserError(f"{path}: cannot be read: it has no column {missing[0]!r}")
    return frame


def _read(path: Path, model: type[Record]) -> Record:
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: cannot be read: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: Exception) -> NoReturn:
    reason = "the file is not there" if isinstance(error, FileNotFoundError) else str(error)
    one_line = " ".join(reason.split())
    raise UserError(f"{path}: cannot be read: {one_line}") from None
