"""A study as its files tell it: cells, records, counts and means; neither torch nor MLflow."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from dart.errors import UserError, did_you_mean
from dart.locks import find_holder
from dart.metrics import compare
from dart.studies.lock import LOCK
from dart.studies.records import KEY_LENGTH, read_result, run_folder, state_of

SUMMARY = ("target_after", "adaptation", "forgetting", "forgetting_relative", "held_out_after")
ABOUT = ("question", "baseline", "metric", "design")
SUFFIXES = (".yaml", ".yml")


def in_study_metric(result: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return a run's outcome in a study's metric; the run may be another study's too."""
    if result["status"] != "finished" or result.get("metric") == metric:
        return {}
    return {"metric": metric, **compare(result["domains"], metric)}


def summarize_runs(runs: Iterable[tuple[str, Mapping[str, Any]]], metric: str) -> dict[str, float]:
    """Return the numbers of a whole study: means over the runs of each variant, and counts.

    Args:
        runs: Variant and record of every run that was committed.
        metric: The study's metric.
    """
    finished: dict[str, list[dict[str, Any]]] = {}
    failed = 0
    for variant, result in runs:
        if result["status"] != "finished":
            failed += 1
            continue
        finished.setdefault(variant, []).append({**result, **in_study_metric(result, metric)})
    done = sum(map(len, finished.values()))
    summary: dict[str, float] = {"runs_finished": done, "runs_failed": failed}
    for variant, records in finished.items():
        for name in SUMMARY:
            values = [record[name] for record in records if record.get(name) is not None]
            if values:
                summary[f"{name}/{variant}"] = fmean(values)
    return summary


@dataclass(frozen=True)
class Written:
    """A study that was run at least once, from its ``cells.json``."""

    results: Path
    name: str
    content: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return self.results / "studies" / self.name

    @property
    def metric(self) -> str:
        """The metric of the study's tables."""
        return self.content["metric"]

    @property
    def about(self) -> dict[str, str]:
        """What the study's parent run in MLflow says of it."""
        return {name: self.content[name] for name in ABOUT if name in self.content}

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The entries of every cell."""
        return list(self.content["cells"])

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Key -> record of every committed run."""
        read = {cell["key"]: read_result(self.results, cell["key"]) for cell in self.cells}
        return {key: record for key, record in read.items() if record is not None}

    def committed(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield entry and record of every committed run."""
        for cell in self.cells:
            if cell["key"] in self.records:
                yield cell, self.records[cell["key"]]

    def holder(self) -> str | None:
        """Return the process that runs the study now."""
        return find_holder(self.folder / LOCK)

    def running(self) -> list[dict[str, Any]]:
        """Return the entries of the cells that are being run now."""
        if self.holder() is None:
            return []
        names = {path.name for path in (self.results / "runs").glob(".tmp-*")}
        begun = {name.split("-")[1] for name in names if "-old-" not in name}
        return [cell for cell in self.cells if cell["key"][:KEY_LENGTH] in begun]

    def states(self) -> dict[str, str]:
        """Return key -> ``done``, ``running``, ``failed``, ``pruned`` or ``missing``."""
        states: dict[str, str] = {
            c["key"]: "pruned"
            if c.get("pruned") is not None and c["key"] not in self.records
            else state_of(self.records.get(c["key"]))
            for c in self.cells
        }
        states |= {c["key"]: "running" for c in self.running() if states[c["key"]] != "done"}
        return states

    def status(self) -> str:
        """Return what MLflow should say of the study, if no process is at work on it."""
        states = self.states().values()
        if "missing" in states:
            return "KILLED"
        return "FAILED" if "failed" in states else "FINISHED"

    def run_folder(self, key: str) -> Path:
        """Return where a run lies."""
        return run_folder(self.results, key)


def list_studies(results: Path) -> list[str]:
    """Return the names of the studies that were run into a results folder."""
    return sorted(path.parent.name for path in results.glob("studies/*/cells.json"))


def study_name(name_or_path: str) -> str:
    """Return the name of a study that is given by its name or its file."""
    path = Path(name_or_path)
    return path.stem if path.suffix in SUFFIXES else name_or_path


def read_study(results: Path, name_or_path: str) -> Written:
    """Return a study that was run, by its name or its YAML file.

    Raises:
        UserError: It was never run into these results, or its record cannot be read.
    """
    name = study_name(name_or_path)
    path = results / "studies" / name / "cells.json"
    try:
        content = json.loads(path.read_text())
        missing = {"metric", "cells"} - content.keys()
        if missing or not all(
            {"key", "variant", "seed", "trial"} <= c.keys() for c in content["cells"]
        ):
            raise ValueError(f"it lacks {', '.join(sorted(missing)) or 'parts of a cell'}")
    except FileNotFoundError:
        known = list_studies(results)
        raise UserError(
            f"no study '{name}' was run into {results}; there are: {', '.join(known) or 'none'}"
            f"{did_you_mean(name, known)}"
        ) from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {' '.join(str(error).split())}; run the study again, which "
            "writes it anew (finished runs are kept)"
        ) from None
    return Written(results, name, content)
