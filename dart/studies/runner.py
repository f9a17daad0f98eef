"""One cell: trained by a function that is given, committed by a rename, logged by a tracker."""

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dart.errors import UserError
from dart.metrics import compare
from dart.recipe import Recipe
from dart.studies.folders import commit_run, open_run
from dart.studies.plan import Cell
from dart.studies.progress import Reporter
from dart.studies.records import read_result, run_folder

REASON_LENGTH = 500


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
