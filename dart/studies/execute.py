"""Runs what a study misses, one run after the other, and records each as it ends.

A run that fails is recorded with its reason and the study goes on. Whatever stops the process,
only the run in flight is lost: every other one was committed by a rename.
"""

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

from dart.errors import UserError
from dart.metrics import compare
from dart.recipe import ZERO_SHOT, Recipe
from dart.studies.folders import (
    cannot_write,
    clean_stale,
    commit_run,
    open_run,
    prepare_results,
    write_atomic,
)
from dart.studies.lock import lock_study
from dart.studies.plan import (
    Cell,
    Planner,
    is_exhaustive,
    read_cells,
    read_result,
    run_folder,
    search_identity,
)
from dart.studies.progress import Reporter
from dart.studies.spec import Study

REASON_LENGTH = 500
SUMMARY = ("target_after", "adaptation", "forgetting", "forgetting_relative", "held_out_after")


@runtime_checkable
class RunFunction(Protocol):
    """Trains and measures one recipe and writes its record: ``dart.protocol.run_recipe``."""

    def __call__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        results: Path,
        device: str,
        on_step: Callable[[int, int, float], None],
    ) -> Mapping[str, Any]:
        """Return the record that was written to ``folder/result.json``."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """A copy of the record for people to look at: ``dart.tracking.StudyTracker``."""

    def start(self, cell: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        """Note that a cell is being trained."""
        ...

    def abandon(self, cell: Mapping[str, Any]) -> None:
        """Note that a cell was interrupted."""
        ...

    def sync(
        self,
        cell: Mapping[str, Any],
        recipe: Mapping[str, Any],
        *,
        result: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Log a committed cell, unless it is logged already."""
        ...

    def close(
        self, status: str, *, summary: Mapping[str, float], artifacts: Sequence[Path] = ()
    ) -> None:
        """Close the study's record."""
        ...


@dataclass(frozen=True)
class Options:
    """How a study is run; none of it changes a number."""

    only: tuple[str, ...] = ()
    """Variants to run; all where empty."""
    retry_failed: bool = False
    """Run failed cells again."""
    device: str = "cpu"
    """A torch device."""
    run: RunFunction | None = None
    """In the place of ``dart.protocol.run_recipe``."""
    track: bool = True
    """Write to MLflow."""


@dataclass(frozen=True)
class Outcome:
    """What a study has after it was run."""

    cells: list[Cell]
    results: list[dict[str, Any]]

    @property
    def failed(self) -> list[tuple[Cell, dict[str, Any]]]:
        """Cells whose run failed, now or earlier."""
        pairs = zip(self.cells, self.results, strict=True)
        return [(cell, result) for cell, result in pairs if result["status"] != "finished"]


def execute_study(
    study: Study, results: Path, *, reporter: Reporter, options: Options = Options()
) -> Outcome:
    """Run every cell of a study that has no record yet.

    Raises:
        UserError: The folder cannot be written, the study is running already, the device or
            MLflow's database cannot be used.
        KeyboardInterrupt: The user stopped the study; all finished runs are kept.
    """
    folder = prepare_results(results, study.name)
    try:
        with lock_study(folder):
            clean_stale(results)
            return _StudyRun(study, results, folder, reporter, options).run()
    except BrokenPipeError:  # the terminal went away, not the disk
        raise
    except OSError as error:
        raise cannot_write(results, error) from None


class Ledger:
    """Which cells a study has: ``cells.json``, written anew whenever one is added."""

    def __init__(self, study: Study, planner: Planner, folder: Path, *, results: Path) -> None:
        self.study = study
        self.path = folder / "cells.json"
        memory = read_cells(results, study.name)
        self.cells = {cell.key: cell for cell in planner.enumerate()}
        self.proposed: dict[str, int] = {}
        if study.spec.design == "search":
            for cell in planner.recall(memory["cells"]):
                self.cells.setdefault(cell.key, cell)
            self.proposed = memory["proposed"]

    def add(self, cells: Sequence[Cell]) -> None:
        """Add cells that a search proposed, and write the file."""
        for cell in cells:
            self.cells.setdefault(cell.key, cell)
        self.write()

    def write(self) -> None:
        """Write the file."""
        spec = self.study.spec
        content = {
            "study": self.study.name,
            "question": spec.question,
            "baseline": spec.baseline,
            "metric": spec.protocol.metric,
            "design": spec.design,
            "code": {name: info.code for name, info in self.study.variants.items()},
            "proposed": self.proposed,
            "cells": [cell.to_dict() for cell in self.cells.values()],
        }
        write_atomic(self.path, json.dumps(content, indent=1) + "\n")


class _StudyRun:
    def __init__(
        self, study: Study, results: Path, folder: Path, reporter: Reporter, options: Options
    ) -> None:
        self.study = study
        self.folder = folder
        self.reporter = reporter
        self.options = options
        self.planner = Planner(study)
        self.ledger = Ledger(study, self.planner, folder, results=results)
        self.runner = CellRunner(
            results, study.spec.protocol.metric, reporter=reporter, options=options
        )

    def run(self) -> Outcome:
        write_atomic(self.folder / "study.yaml", self.study.file.text)
        self.ledger.write()
        with ExitStack() as stack:
            if self.options.track:
                stack.enter_context(self._tracking())
            stack.callback(self.reporter.close)
            wanted = self._wanted()
            searches = self._open_searches(stack)
            self.runner.log_known(self.ledger.cells.values())
            missing = sum(search.runs_left() for search in searches)
            self.runner.announce(wanted, more=missing)
            for cell in wanted:
                self.runner.run(cell)
            for search in searches:
                search.run()
            return self._outcome()

    def _variants(self) -> list[str]:
        only = self.options.only
        return [name for name in self.study.spec.variants if not only or name in only]

    def _wanted(self) -> list[Cell]:
        names = {ZERO_SHOT, *self._variants()}
        cells = [cell for cell in self.ledger.cells.values() if cell.recipe.variant in names]
        if self.study.spec.design != "search":
            return cells
        # What a search proposed is run, or found finished, where its trial is taken up again.
        return [
            cell
            for cell in cells
            if cell.recipe.variant == ZERO_SHOT or is_exhaustive(self.study, cell.recipe.variant)
        ]

    def _open_searches(self, stack: ExitStack) -> list[Any]:
        names = [name for name in self._variants() if not is_exhaustive(self.study, name)]
        if self.study.spec.design != "search" or not names:
            return []
        # Optuna takes a fifth of a second to import, and only a search needs it.
        from dart.studies.search import VariantSearch, open_storage  # noqa: PLC0415

        storage = stack.enter_context(open_storage(self.folder / "optuna.db"))
        searches = [
            VariantSearch(
                self.planner,
                name,
                storage=storage,
                run_trial=self._run_trial,
                retry_failed=self.options.retry_failed,
            )
            for name in names
        ]
        for search in searches:
            self.ledger.proposed[search.identity] = search.proposed()
            self.ledger.add(search.known_cells())
        return searches

    def _run_trial(self, cells: Sequence[Cell], *, proposed: int) -> list[dict[str, Any]]:
        identity = search_identity(self.planner, cells[0].recipe.variant)
        self.ledger.proposed[identity] = proposed
        self.ledger.add(cells)
        for cell in cells:
            if not self.runner.needs_run(cell):
                self.reporter.skip()
        return [self.runner.run(self.ledger.cells[cell.key]) for cell in cells]

    def _outcome(self) -> Outcome:
        names = {ZERO_SHOT, *self._variants()}
        pairs = [
            (cell, result)
            for cell in self.ledger.cells.values()
            if cell.recipe.variant in names
            and (result := read_result(self.runner.results, cell.key)) is not None
        ]
        return Outcome([cell for cell, _ in pairs], [result for _, result in pairs])

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        # MLflow takes two seconds to import; tests of the engine and --plan do without.
        from dart.tracking import StudyTracker  # noqa: PLC0415

        spec = self.study.spec
        about = {
            "question": spec.question,
            "baseline": spec.baseline,
            "metric": spec.protocol.metric,
            "design": spec.design,
        }
        tracker = StudyTracker(self.runner.results, self.study.name, about=about)
        self.runner.tracker = SafeTracker(tracker, self.reporter)
        status = "FAILED"
        try:
            yield
            status = "FAILED" if self._outcome().failed else "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self.runner.tracker.close(
                status,
                summary=summarize_runs(self._outcome(), spec.protocol.metric),
                artifacts=[self.folder / "study.yaml", self.folder / "cells.json"],
            )


class CellRunner:
    """Runs single cells and commits their records."""

    def __init__(self, results: Path, metric: str, *, reporter: Reporter, options: Options) -> None:
        self.results = results
        self.metric = metric
        self.reporter = reporter
        self.options = options
        self.tracker: SafeTracker | None = None
        self.function = options.run
        self.retried: set[str] = set()

    def log_known(self, cells: Iterable[Cell]) -> None:
        """Log every run that was there before, in case the tracker lost it."""
        for cell in cells:
            result = read_result(self.results, cell.key)
            if result is not None:
                self._log(cell, result)

    def announce(self, cells: Sequence[Cell], *, more: int) -> None:
        """Tell the reporter how many runs there are and how many are done."""
        done = sum(not self.needs_run(cell) for cell in cells)
        self.reporter.begin(total=len(cells) + more, done=done)

    def _log(self, cell: Cell, result: Mapping[str, Any]) -> None:
        if self.tracker is not None:
            in_metric = {**result, **in_study_metric(result, self.metric)}
            self.tracker.sync(cell, in_metric, run_folder(self.results, cell.key))

    def needs_run(self, cell: Cell) -> bool:
        """Say whether a cell has no record, or a failed one that is to be tried again."""
        result = read_result(self.results, cell.key)
        if result is None:
            return True
        retry = self.options.retry_failed and cell.key not in self.retried
        return retry and result["status"] == "failed"

    def run(self, cell: Cell) -> dict[str, Any]:
        """Return the record of a cell, running it if there is none.

        Raises:
            OSError: If the record cannot be written.
        """
        if self.needs_run(cell):
            self._train(cell)
        result = read_result(self.results, cell.key)
        assert result is not None
        self._log(cell, result)
        return result

    def _train(self, cell: Cell) -> None:
        function = self.function = self.function or load_run_function(self.options.device)
        self.retried.add(cell.key)
        self.reporter.start(cell)
        if self.tracker is not None:
            self.tracker.start(cell)
        folder = open_run(self.results, cell.key)
        try:
            result = self._attempt(function, cell, folder)
            commit_run(folder, self.results, cell.key)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if self.tracker is not None:
                self.tracker.abandon(cell)
            raise
        self.reporter.end(cell, result)

    def _attempt(self, function: RunFunction, cell: Cell, folder: Path) -> Mapping[str, Any]:
        started, clock = datetime.now(UTC), time.perf_counter()
        try:
            function(
                cell.recipe,
                folder,
                results=self.results,
                device=self.options.device,
                on_step=self.reporter.step,
            )
            return json.loads((folder / "result.json").read_text())
        except Exception as error:
            text = traceback.format_exc()
            result = {
                "key": cell.key,
                "status": "failed",
                "reason": describe_error(error),
                "variant": cell.recipe.variant,
                "hyperparameters": cell.recipe.hyperparameters,
                "seed": cell.recipe.seed,
                "metric": cell.recipe.protocol.metric,
                "started": started.isoformat(),
                "ended": datetime.now(UTC).isoformat(),
                "wall_seconds": round(time.perf_counter() - clock, 3),
            }
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "traceback.txt").write_text(text)
        (folder / "recipe.json").write_text(cell.recipe.model_dump_json(indent=1))
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        return result


class SafeTracker:
    """Passes calls to a tracker; a call that fails is reported and the study goes on.

    The run folders are the truth, and the next start of the study logs what is missing.
    """

    def __init__(self, tracker: Tracker, reporter: Reporter) -> None:
        self.tracker = tracker
        self.reporter = reporter

    def start(self, cell: Cell) -> None:
        """Note that a cell is being trained."""
        with self._tolerant():
            self.tracker.start(cell.to_dict(), cell.recipe.model_dump())

    def abandon(self, cell: Cell) -> None:
        """Note that a cell was interrupted."""
        with self._tolerant():
            self.tracker.abandon(cell.to_dict())

    def sync(self, cell: Cell, result: Mapping[str, Any], folder: Path) -> None:
        """Log a committed cell."""
        with self._tolerant():
            self.tracker.sync(
                cell.to_dict(), cell.recipe.model_dump(), result=result, folder=folder
            )

    def close(
        self, status: str, *, summary: Mapping[str, float], artifacts: Sequence[Path]
    ) -> None:
        """Close the study's record."""
        with self._tolerant():
            self.tracker.close(status, summary=summary, artifacts=artifacts)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.reporter.note(
                f"warning: not logged to MLflow: {describe_error(error)}; run the study again to "
                "log it"
            )


def describe_error(error: BaseException) -> str:
    """Return one line; the kind of error is named unless the text was written for people."""
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 3] + "..."


def in_study_metric(result: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return a run's outcome in a study's metric; the run may be another study's too."""
    if result["status"] != "finished" or result.get("metric") == metric:
        return {}
    return {"metric": metric, **compare(result["domains"], metric)}


def summarize_runs(outcome: Outcome, metric: str) -> dict[str, float]:
    """Return the numbers of a whole study: means over the runs of each variant, and counts."""
    finished: dict[str, list[dict[str, Any]]] = {}
    for cell, result in zip(outcome.cells, outcome.results, strict=True):
        if result["status"] == "finished":
            known = finished.setdefault(cell.recipe.variant, [])
            known.append(result | in_study_metric(result, metric))
    summary: dict[str, float] = {
        "runs_finished": sum(map(len, finished.values())),
        "runs_failed": len(outcome.failed),
    }
    for variant, runs in finished.items():
        for name in SUMMARY:
            values = [run[name] for run in runs if run.get(name) is not None]
            if values:
                summary[f"{name}/{variant}"] = fmean(values)
    return summary


def load_run_function(device: str) -> RunFunction:
    """Return ``dart.protocol.run_recipe`` once the device is known to work.

    Raises:
        UserError: If torch cannot use the device.
    """
    # torch takes seconds to import, and a study whose runs are all done needs none of it.
    import torch  # noqa: PLC0415

    from dart.protocol import run_recipe  # noqa: PLC0415

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device}: not usable here: {reason}") from None
    return run_recipe
