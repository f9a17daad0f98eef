"""One run: prepared aside, committed by a rename before anyone is told that it ended.

The same function runs in the study's own process and in the workers of an executor. Whoever asked
for the run reads its record from disk, so that a lost answer loses no result.
"""

import gc
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dart.errors import Pruned, TimeLimit, UserError
from dart.provenance import describe_environment, save_changes
from dart.recipe import Recipe
from dart.studies.asha import Rungs
from dart.studies.failures import Failure, classify, describe_error
from dart.studies.folders import commit_run, describe_files, full_disk, open_run
from dart.studies.stopping import limit_time


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
        state: Path | None,
        on_step: Callable[[int, int, float], None],
    ) -> Mapping[str, Any]:
        """Return the record that was written to ``folder/result.json``."""
        ...


@dataclass(frozen=True)
class Task:
    """One attempt at one run; everything a worker needs to know."""

    recipe: Recipe
    results: Path
    state: Path
    """Keeps the state of training, for the next attempt if this one is cut off."""
    device: str = "cpu"
    time_limit: float | None = None
    """Seconds."""
    attempt: int = 1
    alone: bool = False
    """Nothing else may share the accelerator: an earlier attempt ran out of memory."""
    rungs: Rungs | None = None
    """Where the run may be ended early."""
    fold: int = 1
    """Runs that took their steps together, this one included."""

    @property
    def key(self) -> str:
        """The run's key."""
        return self.recipe.key


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


def run_task(
    task: Task, function: RunFunction, *, on_step: Callable[[int, int, float], None]
) -> dict[str, Any]:
    """Run one recipe, commit its record, that of a failure too, and return it.

    Raises:
        OSError: If the record cannot be written.
        Stopped: If the process was told to end; the state of training is kept.
    """
    run = task_steps(task, function, on_step=on_step)
    try:
        next(run)
    except StopIteration as end:
        return end.value
    raise RuntimeError(f"{function} leaves its steps to the caller; run_task takes none")


def task_steps(
    task: Task, function: Callable[..., Any], *, on_step: Callable[[int, int, float], None]
) -> Generator[Any, Any, dict[str, Any]]:
    """Do what ``run_task`` does, but leave each step of training to the caller.

    Args:
        task: The run.
        function: A ``RunFunction``, or ``dart.protocol.recipe_steps``: what that yields is yielded.
        on_step: Called after every step.

    Raises:
        OSError: If the record cannot be written.
        Stopped: If the process was told to end; the state of training is kept.
    """
    folder = open_run(task.results, task.key)
    try:
        save_changes(task.results)
        result = yield from _attempt(task, function, folder, on_step)
        _write_json(folder / "result.json", result | {"files": describe_files(folder)})
        commit_run(folder, task.results, task.key)
    except Pruned as pruned:
        # The decision is written down; the record of half a run would be taken for a whole one.
        shutil.rmtree(folder, ignore_errors=True)
        result = {"key": task.key, "status": "pruned", "step": pruned.step}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    task.state.unlink(missing_ok=True)
    return result


def _attempt(
    task: Task,
    function: Callable[..., Any],
    folder: Path,
    on_step: Callable[[int, int, float], None],
) -> Generator[Any, Any, dict[str, Any]]:
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        with limit_time(task.time_limit):
            yield from _call(task, function, folder, on_step)
        result = json.loads((folder / "result.json").read_text())
        told = {"attempts": task.attempt, "fold": task.fold}
        return result | {name: count for name, count in told.items() if count > 1}
    except (Exception, TimeLimit) as error:
        failure, reason, text = classify(error), describe_error(error), traceback.format_exc()
    if failure == "out_of_disk":
        # The machine's fault, not the run's: nothing is recorded, and the study stops.
        raise full_disk(folder)
    _free_memory()
    times = {
        "started": started.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "wall_seconds": round(time.perf_counter() - clock, 3),
    }
    result = describe_failure(task, failure, reason=reason, times=times)
    _empty(folder)
    (folder / "traceback.txt").write_text(text)
    (folder / "recipe.json").write_text(task.recipe.model_dump_json(indent=1))
    return result


def _call(
    task: Task,
    function: Callable[..., Any],
    folder: Path,
    on_step: Callable[[int, int, float], None],
) -> Generator[Any, Any, None]:
    had_state = task.state.exists()
    options: dict[str, Any] = {"results": task.results, "device": task.device, "on_step": on_step}
    if task.rungs is not None:
        options["rungs"] = task.rungs

    def run() -> Generator[Any, Any, None]:
        running = function(task.recipe, folder, state=task.state, **options)
        if isinstance(running, Generator):
            yield from running

    try:
        yield from run()
    except UserError as error:
        if not had_state or str(task.state) not in str(error):
            raise
        # A damaged state costs its steps, not the run.
        task.state.unlink(missing_ok=True)
        yield from run()


def describe_failure(
    task: Task, failure: Failure, *, reason: str, times: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that failed."""
    recipe = task.recipe
    return {
        "key": task.key,
        "status": "failed",
        "failure": failure,
        "reason": reason,
        "attempts": task.attempt,
        "variant": recipe.variant,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "metric": recipe.protocol.metric,
        "environment": describe_environment(device=task.device, threads=_count_threads()),
        **times,
    }


def commit_failure(task: Task, failure: Failure, *, reason: str) -> dict[str, Any]:
    """Record a run whose process died before it could, and return the record."""
    now = datetime.now(UTC).isoformat()
    times = {"started": now, "ended": now, "wall_seconds": 0.0}
    result = describe_failure(task, failure, reason=reason, times=times)
    folder = open_run(task.results, task.key)
    (folder / "recipe.json").write_text(task.recipe.model_dump_json(indent=1))
    _write_json(folder / "result.json", result | {"files": describe_files(folder)})
    commit_run(folder, task.results, task.key)
    return result


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _count_threads() -> int:
    torch = sys.modules.get("torch")
    return 0 if torch is None else torch.get_num_threads()
