"""Which cells need a run, in what order they get it, and who is told what came of it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dart.studies.asha import Rungs
from dart.studies.executor import Cluster, Ending, Executor
from dart.studies.failures import ATTEMPTS, Failure, describe_error, may_heal
from dart.studies.folders import clean_stale, discard_failed
from dart.studies.plan import Cell
from dart.studies.progress import Reporter
from dart.studies.records import KEY_LENGTH, read_result, run_folder
from dart.studies.summary import in_study_metric
from dart.studies.worker import RunFunction, Task, commit_failure


@runtime_checkable
class Tracker(Protocol):
    """A copy of the record for people to look at: ``dart.tracking.StudyTracker``."""

    def start(self, cell: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        """Note that a cell is being trained."""
        ...

    def abandon(self, cell: Mapping[str, Any], *, failure: str | None = None) -> None:
        """Note that a cell was interrupted, or cut off by a failure of the machine."""
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

    def progress(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log how far the study itself is."""
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
    retry: frozenset[Failure] = frozenset()
    """Kinds of failures whose cells are run again."""
    device: str = "cpu"
    """A torch device."""
    time_limit: float | None = None
    """Seconds that one run may take."""
    cluster: Cluster | None = None
    """Workers that run at once; None runs in this process."""
    fold: int = 1
    """Runs that take their steps of training together in one process."""
    storage: str | None = None
    """Address of Optuna's database; a file in the study's folder where None."""
    tracking_uri: str | None = None
    """Address of MLflow's database or server; a file in the results folder where None."""
    run: RunFunction | None = None
    """In the place of ``dart.protocol.run_recipe``."""
    track: bool = True
    """Write to MLflow."""


class CellRunner:
    """Brings cells to an executor and their records to the tracker and the terminal.

    Args:
        results: The results folder.
        study_folder: The study's own, where states of training are kept.
        metric: The study's metric.
    """

    def __init__(
        self,
        results: Path,
        study_folder: Path,
        metric: str,
        *,
        executor: Executor,
        reporter: Reporter,
        options: Options,
    ) -> None:
        self.results = results
        self.states = study_folder / "states"
        self.metric = metric
        self.executor = executor
        self.reporter = reporter
        self.options = options
        self.tracker: SafeTracker | None = None
        self.retried: set[str] = set()
        self.rungs_of: Callable[[Cell], Rungs | None] = lambda _cell: None

    def log_known(self, cells: Iterable[Cell]) -> None:
        """Log every run that was there before, in case the tracker lost it."""
        for cell in cells:
            result = read_result(self.results, cell.key)
            if result is not None:
                self._log(cell, result)

    def announce(self, cells: Sequence[Cell], *, more: int) -> None:
        """Tell the reporter how many runs there are and which are done."""
        done = [(c, read_result(self.results, c.key)) for c in cells if not self.needs_run(c)]
        known = [(cell, result) for cell, result in done if result is not None]
        self.reporter.begin(total=len(cells) + more, known=known)

    def _log(self, cell: Cell, result: Mapping[str, Any]) -> None:
        if self.tracker is not None:
            in_metric = {**result, **in_study_metric(result, self.metric)}
            self.tracker.sync(cell, in_metric, run_folder(self.results, cell.key))

    def needs_run(self, cell: Cell) -> bool:
        """Say whether a cell has no record, or a failed one that is to be tried again."""
        result = read_result(self.results, cell.key)
        if result is None:
            return self.ended_early(cell) is None
        if may_heal(result):
            return True
        if result["status"] != "failed" or cell.key in self.retried:
            return False
        return result.get("failure", "bug") in self.options.retry

    def ended_early(self, cell: Cell) -> dict[str, Any] | None:
        """Return what stands for the record of a run that its search ended early."""
        rungs = self.rungs_of(cell)
        step = None if rungs is None else rungs.stopped_at()
        return None if step is None else {"key": cell.key, "status": "pruned", "step": step}

    def run(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Return the records of cells, running those that need it.

        Raises:
            OSError: If a record cannot be written.
            UserError: If the executor cannot run anything.
            KeyboardInterrupt: The process was told to end; training keeps its state.
        """
        unique = {cell.key: cell for cell in cells}
        missing = [cell for cell in unique.values() if self.needs_run(cell)]
        if missing:
            self.states.mkdir(exist_ok=True)
            _Batch(self).run(missing)
        results = []
        for cell in cells:
            result = read_result(self.results, cell.key) or self.ended_early(cell)
            assert result is not None
            if result["status"] != "pruned":
                self._log(cell, result)
            results.append(result)
        return results

    def begin(self, cell: Cell, *, alone: bool) -> Task:
        """Submit one attempt at a cell."""
        known = read_result(self.results, cell.key)
        task = Task(
            cell.recipe,
            self.results,
            self.states / f"{cell.key[:KEY_LENGTH]}.pt",
            device=self.options.device,
            time_limit=self.options.time_limit,
            attempt=1 + int(known.get("attempts", 1) if known else 0),
            alone=alone,
            rungs=self.rungs_of(cell),
        )
        self.retried.add(cell.key)
        self.executor.submit(task)
        self.reporter.start(cell)
        if self.tracker is not None:
            self.tracker.start(cell)
        return task

    def end(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Report a run that will not be tried again."""
        self.reporter.end(cell, result)
        if result["status"] == "pruned":
            self.abandon([cell], None)
        else:
            self._log(cell, result)

    def abandon(self, cells: Iterable[Cell], failure: str | None) -> None:
        """Report runs that were cut off."""
        for cell in cells:
            if self.tracker is not None:
                self.tracker.abandon(cell, failure=failure)


@dataclass
class _Batch:
    """Runs cells, as many at once as the executor has slots; what may heal is tried again."""

    runner: CellRunner
    waiting: deque[tuple[Cell, bool]] = field(default_factory=deque)
    """Cells, and whether they must run alone: those come last."""
    running: dict[str, tuple[Cell, bool]] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell]) -> None:
        """Run until every cell has a record that stays."""
        self.waiting.extend((cell, self._ran_out_of_memory(cell)) for cell in cells)
        try:
            while self.waiting or self.running:
                self._fill()
                for ending in self.runner.executor.wait_any():
                    self._take(ending)
        except BaseException as error:
            self.runner.executor.cancel()
            failure = "out_of_disk" if isinstance(error, OSError) else None
            self.runner.abandon([cell for cell, _ in self.running.values()], failure)
            raise

    def _ran_out_of_memory(self, cell: Cell) -> bool:
        known = read_result(self.runner.results, cell.key)
        return known is not None and known.get("failure") == "out_of_memory"

    def _fill(self) -> None:
        self.waiting = deque(sorted(self.waiting, key=lambda entry: entry[1]))
        while self.waiting and len(self.running) < self.runner.executor.slots:
            cell, alone = self.waiting[0]
            if self.running and (alone or any(lone for _, lone in self.running.values())):
                return
            self.waiting.popleft()
            self.running[cell.key] = (cell, alone)
            self.runner.begin(cell, alone=alone)

    def _take(self, ending: Ending) -> None:
        cell, _ = self.running.pop(ending.task.key)
        failure = ending.lost
        if failure is not None:
            clean_stale(self.runner.results)
        early = self.runner.ended_early(cell)
        if early is not None:  # that was decided, whatever became of its process since
            discard_failed(self.runner.results, cell.key)
            self.runner.end(cell, early)
            return
        if failure is not None and failure != "preempted":
            commit_failure(ending.task, failure, reason=ending.reason)
        result = read_result(self.runner.results, cell.key)
        if failure == "preempted" or result is None or may_heal(result):
            self.waiting.append((cell, bool(result) and self._ran_out_of_memory(cell)))
            self.runner.reporter.lose(cell, _why_again(ending, result))
            return
        self.runner.end(cell, result)


def _why_again(ending: Ending, result: Mapping[str, Any] | None) -> str:
    if result is None or ending.lost == "preempted":
        return f"cut off ({ending.reason or 'no record'})"
    failure = result["failure"]
    return f"{failure.replace('_', ' ')}, attempt {result['attempts']} of {ATTEMPTS[failure]}"


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

    def abandon(self, cell: Cell, *, failure: str | None) -> None:
        """Note that a cell was cut off."""
        with self._tolerant():
            self.tracker.abandon(cell.to_dict(), failure=failure)

    def sync(self, cell: Cell, result: Mapping[str, Any], folder: Path) -> None:
        """Log a committed cell."""
        with self._tolerant():
            self.tracker.sync(
                cell.to_dict(), cell.recipe.model_dump(), result=result, folder=folder
            )

    def progress(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log how far the study itself is."""
        with self._tolerant():
            self.tracker.progress(metrics, step=step)

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
