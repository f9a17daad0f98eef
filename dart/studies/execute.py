"""Runs what a study misses, one run after the other, and records each as it ends.

A run that fails is recorded with its reason and the study goes on. Whatever stops the process,
only the run in flight is lost: every other one was committed by a rename.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dart.recipe import ZERO_SHOT
from dart.stores import check_store
from dart.studies.asha import Rungs, read_rows
from dart.studies.choices import is_exhaustive, list_searches
from dart.studies.earlier import check_earlier
from dart.studies.executor import Executor, InlineExecutor
from dart.studies.failures import classify
from dart.studies.fold_executor import FoldExecutor
from dart.studies.folders import (
    cannot_write,
    clean_stale,
    full_disk,
    prepare_results,
    write_atomic,
)
from dart.studies.lock import lock_study
from dart.studies.plan import Cell, Planner, search_identity
from dart.studies.progress import Reporter
from dart.studies.records import read_cells, read_result
from dart.studies.runner import CellRunner, Options, SafeTracker
from dart.studies.spec import Study
from dart.studies.stopping import StopRequest
from dart.studies.summary import summarize_runs


@dataclass(frozen=True)
class Outcome:
    """What a study has after it was run."""

    cells: list[Cell]
    results: list[dict[str, Any]]

    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        """Return variant and record of every run."""
        variants = [cell.recipe.variant for cell in self.cells]
        return list(zip(variants, self.results, strict=True))

    @property
    def failed(self) -> list[tuple[Cell, dict[str, Any]]]:
        """Cells whose run failed, now or earlier."""
        pairs = zip(self.cells, self.results, strict=True)
        return [(cell, result) for cell, result in pairs if result["status"] != "finished"]


def execute_study(study: Study, results: Path, *, reporter: Reporter, options: Options) -> Outcome:
    """Run every cell of a study that has no record yet.

    Raises:
        UserError: The folder cannot be written, the study is running already, the device or
            MLflow's database cannot be used.
        KeyboardInterrupt: The user stopped the study; all finished runs are kept.
    """
    options = _check_stores(options)
    folder = prepare_results(results, study.name)
    try:
        with lock_study(folder), StopRequest() as stop:
            clean_stale(results)
            with closing(_make_executor(options, stop, reporter)) as executor:
                return _StudyRun(study, folder, executor, reporter=reporter, options=options).run()
    except BrokenPipeError:  # the terminal went away, not the disk
        raise
    except OSError as error:
        raise cannot_write(results, error) from None
    except Exception as error:
        if classify(error) != "out_of_disk":  # as a database says it
            raise
        raise cannot_write(results, full_disk(results)) from None


def _make_executor(options: Options, stop: StopRequest, reporter: Reporter) -> Executor:
    if options.cluster is None and options.fold > 1:
        return FoldExecutor(options.fold, stop=stop, on_step=reporter.step, note=reporter.note)
    if options.cluster is None:
        return InlineExecutor(options.run, stop=stop, on_step=reporter.step)
    # Ray is an extra, and takes a second to import.
    from dart.studies.ray_executor import RayExecutor  # noqa: PLC0415

    return RayExecutor(options.cluster, options.run, fold=options.fold, note=reporter.note)


def _check_stores(options: Options) -> Options:
    """Return the options with addresses that answered, before anything is made or run."""
    if options.storage is not None:
        options = replace(options, storage=check_store("--storage", options.storage))
    if options.tracking_uri is not None and options.track:
        uri = check_store("--tracking-uri", options.tracking_uri, servers=True)
        options = replace(options, tracking_uri=uri)
    if options.cluster is not None and options.cluster.address is not None:
        from dart.studies.ray_executor import check_address  # noqa: PLC0415  # Ray is an extra

        check_address(options.cluster.address)
    return options


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
        self.orphans = check_earlier(study, self.cells, folder)
        """Finished runs that the study no longer asks for."""

    def add(self, cells: Sequence[Cell]) -> None:
        """Add cells that a search proposed, and write the file."""
        for cell in cells:
            self.cells.setdefault(cell.key, cell)
        self.write()

    def end_early(self, key: str, step: int) -> None:
        """Note that a search ended a run early, and write the file."""
        self.cells[key] = replace(self.cells[key], pruned=step)
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
            "comparison": spec.comparison.model_dump(exclude_none=True),
            "code": {name: info.code for name, info in self.study.variants.items()},
            "proposed": self.proposed,
            "cells": [cell.to_dict() for cell in self.cells.values()],
        }
        write_atomic(self.path, json.dumps(content, indent=1) + "\n")


def _read_areas(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return search -> how its area grew; nothing if there is no such record."""
    areas: dict[str, list[dict[str, Any]]] = {}
    if path.exists():
        for row in read_rows(path):
            areas.setdefault(row["search"], []).append(row)
    return areas


class _StudyRun:
    def __init__(
        self,
        study: Study,
        folder: Path,
        executor: Executor,
        *,
        reporter: Reporter,
        options: Options,
    ) -> None:
        results = folder.parent.parent
        self.study = study
        self.folder = folder
        self.reporter = reporter
        self.options = options
        self.planner = Planner(study)
        self.identities: dict[str, str] = {}
        self.areas = _read_areas(folder / "hypervolume.jsonl")
        self.ledger = Ledger(study, self.planner, folder, results=results)
        self.runner = CellRunner(
            results,
            folder,
            study.spec.protocol.metric,
            executor=executor,
            reporter=reporter,
            options=options,
        )

    def run(self) -> Outcome:
        if self.ledger.orphans:
            self.reporter.note(
                f"note: {self.ledger.orphans} finished runs of this study's name are no longer "
                "part of it; they are kept, and count again if the file asks for them"
            )
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
            # The untouched network first: it measures what every other run reads.
            self.runner.run(wanted[:1])
            self.runner.run(wanted[1:])
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
        names = list_searches(self.study, self._variants())
        if not names:
            return []
        # Optuna takes a fifth of a second to import, and only a search needs it.
        from dart.studies.search import Search, open_storage  # noqa: PLC0415

        file = f"sqlite:///{(self.folder / 'optuna.db').absolute()}"
        storage = stack.enter_context(open_storage(self.options.storage or file))
        if self.study.spec.pruning is not None:
            self.runner.rungs_of = self._rungs_of
        searches = [
            Search(
                self.planner,
                name,
                storage=storage,
                host=self,
                retry_failed=bool(self.options.retry),
                width=max(1, self.runner.executor.slots // len(self.study.spec.budget.seeds)),
            )
            for name in names
        ]
        for search in searches:
            self.ledger.proposed[search.identity] = search.proposed()
            self.ledger.add(search.known_cells())
        return searches

    def _rungs_of(self, cell: Cell) -> Rungs | None:
        """Return where a run of a search may be ended early: only a trial's first seed is judged.

        Those after it would be compared with what survived alone.
        """
        pruning, variant = self.study.spec.pruning, cell.recipe.variant
        if cell.recipe.seed != self.study.spec.budget.seeds[0]:
            return None
        known = [variant] if variant in self.study.variants else []
        search = next(iter(list_searches(self.study, known)), None)
        if pruning is None or search is None or not known:
            return None
        if search not in self.identities:
            self.identities[search] = search_identity(self.planner, search)
        return Rungs(
            self.folder / "asha.jsonl",
            self.identities[search][:12],
            pruning.rungs,
            pruning.eta,
            self.study.spec.protocol.metric,
            {
                "key": cell.key,
                "variant": variant,
                "trial": cell.trial,
                "seed": cell.recipe.seed,
            },
        )

    def run_trials(
        self, cells: Sequence[Cell], *, identity: str, proposed: int
    ) -> list[dict[str, Any]]:
        """Run the cells of trials that a search proposed, and return their records."""
        self.ledger.proposed[identity] = proposed
        self.ledger.add(cells)
        for cell in cells:
            if not self.runner.needs_run(cell):
                self.reporter.skip()
        results = self.runner.run([self.ledger.cells[cell.key] for cell in cells])
        for result in results:
            if result["status"] == "pruned":
                self.ledger.end_early(result["key"], result["step"])
        return results

    def report(self, search: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write how the area grew with a search's trials, for people and for the notebooks."""
        self.areas[search] = [dict(row) for row in rows]
        lines = [json.dumps(row) for name in self.areas for row in self.areas[name]]
        write_atomic(self.folder / "hypervolume.jsonl", "\n".join(lines) + "\n")
        if self.runner.tracker is not None and rows:
            last = rows[-1]
            self.runner.tracker.progress(
                {f"hypervolume/{search.replace(' ', '_')}": last["hypervolume"]},
                step=last["trial"],
            )

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
        tracker = StudyTracker(
            self.runner.results, self.study.name, about=about, uri=self.options.tracking_uri
        )
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
                summary=summarize_runs(self._outcome().pairs(), spec.protocol.metric),
                artifacts=[self.folder / "study.yaml", self.folder / "cells.json"],
            )
