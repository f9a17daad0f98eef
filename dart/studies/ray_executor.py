"""Workers of Ray, on this machine or a cluster, decided on by one coordinator.

A worker gets a run at a time, or a few that take their steps of training together. Ray only carries
tasks and says which died. A worker commits its records before it returns, so a lost answer loses
nothing; what is tried again is the coordinator's decision, so Ray's own retries are off. All
machines see the results folder under the same path.
"""

import importlib.util
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

# Ray reads it when it is imported: nothing leaves the machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from dart.errors import Stopped, UserError
from dart.studies.executor import Cluster, Ending
from dart.studies.failures import Failure, classify, describe_error
from dart.studies.fold_executor import FoldExecutor
from dart.studies.records import read_result
from dart.studies.stopping import SIGNALS, StopRequest
from dart.studies.worker import RunFunction, Task, load_run_function, run_task

GRACE = 30.0
"""Seconds that workers get to end by themselves before they are killed."""

STARTS = 3
"""How often a cluster of our own is started: Ray gives up where the machine is too busy."""

PASSED = ("OMP_NUM_THREADS", "MPLBACKEND", "DO_NOT_TRACK")
"""What workers get of the environment, beside what begins with ``DART_``."""


def work(tasks: Sequence[Task], function: RunFunction | None, gpus: float) -> dict[str, Any]:
    """Execute tasks in a worker: return how they ended, once their records are on disk."""
    first, notes = tasks[0], []
    with StopRequest() as stop:
        try:
            if first.device.startswith("cuda") and 0 < gpus < 1 and not first.alone:
                limit_memory(gpus)
            if len(tasks) > 1:
                _fold(tasks, stop, notes.append)
            else:
                run = function or load_run_function(first.device)
                run_task(first, run, on_step=lambda done, steps, _loss: stop.step(done, steps))
            answer = {}
        except Stopped as error:
            answer = {"lost": "preempted", "reason": f"signal {error.signum}"}
        except OSError as error:
            answer = {"error": [error.errno, error.strerror, str(error.filename or first.results)]}
        except UserError as error:
            answer = {"refused": str(error)}
    return answer | {"notes": notes}


def _fold(tasks: Sequence[Task], stop: StopRequest, note: Callable[[str], None]) -> None:
    executor = FoldExecutor(
        len(tasks), stop=stop, on_step=lambda _done, _steps, _loss: None, note=note
    )
    for task in tasks:
        executor.submit(task)
    executor.wait_any()


def limit_memory(gpus: float) -> None:
    """Keep a process to its share of the accelerator's memory, which Ray only counts."""
    import torch  # noqa: PLC0415

    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))


class RayExecutor:
    """Runs tasks in up to ``workers`` processes of Ray at once.

    Args:
        cluster: Where, how many and what each may use.
        function: In the place of ``dart.protocol.run_recipe``; cannot be folded.
        fold: Most tasks that one worker takes together.
        note: Is told what people should know.
    """

    def __init__(
        self,
        cluster: Cluster,
        function: RunFunction | None = None,
        *,
        fold: int = 1,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.cluster = cluster
        self.function = function
        self.fold = fold
        self.note = note
        self.told: set[str] = set()
        self.slots = cluster.workers * fold
        self.submitted: list[Task] = []
        self.running: dict[Any, tuple[list[Task], float]] = {}

    @cached_property
    def ray(self) -> Any:
        """Ray, started when the first run needs it."""
        return start_ray(self.cluster)

    @cached_property
    def remote(self) -> Any:
        """The function that Ray runs in workers, which stay warm between runs."""
        return self.ray.remote(max_retries=0, num_cpus=1, scheduling_strategy="SPREAD")(work)

    def submit(self, task: Task) -> None:
        """Keep the task for ``wait_any``."""
        self.submitted.append(task)

    def _hand_out(self) -> None:
        """Hand what was submitted to idle workers, to each as many as to the next.

        What is tried again is not folded: its process died, and nobody knows whose fault it was.
        """
        lone = [task for task in self.submitted if _goes_alone(task)]
        fresh = [task for task in self.submitted if not _goes_alone(task)]
        for left in range(self.cluster.workers - len(self.running), 0, -1):
            if fresh:
                count = min(self.fold, math.ceil(len(fresh) / left))
                group, fresh = fresh[:count], fresh[count:]
            else:
                group, lone = lone[:1], lone[1:]
            if group:
                self._send(group)
        self.submitted = fresh + lone

    def _send(self, tasks: list[Task]) -> None:
        first, gpus = tasks[0], self.cluster.gpus_per_run
        share = self.remote.options(
            num_gpus=float(1 if first.alone and gpus else gpus),
            name=f"dart-{first.recipe.variant}-{first.key[:16]}",
        )
        self.running[share.remote(tasks, self.function, gpus)] = (tasks, time.monotonic())

    def wait_any(self) -> list[Ending]:
        """Wait until tasks ended, were lost, or hang beyond their time limit.

        Raises:
            UserError: Ray is not installed, or there is no cluster at the address.
        """
        while True:
            self._hand_out()
            done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1.0)
            done += [reference for reference in self._hanging() if reference not in done]
            if done:
                return [ending for reference in done for ending in self._take(reference)]

    def _hanging(self) -> list[Any]:
        """Kill what did not heed its own time limit, as a kernel that hangs does not."""
        hanging = [reference for reference, entry in self.running.items() if _is_late(*entry)]
        for reference in hanging:
            self.ray.cancel(reference, force=True)
        return hanging

    def _take(self, reference: Any) -> list[Ending]:
        tasks, begun = self.running.pop(reference)
        over = _is_late(tasks, begun)
        try:
            answer: dict[str, Any] = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            answer = {
                "lost": "time_limit" if over else _name_loss(error),
                "reason": describe_error(error).splitlines()[0],
            }
        for text in answer.get("notes", ()):
            if text not in self.told:
                self.told.add(text)
                self.note(text)
        if "refused" in answer:
            raise UserError(answer["refused"])
        if "error" in answer:
            raise OSError(*answer["error"])
        lost, reason = answer.get("lost"), answer.get("reason", "")
        # Of a fold some may have committed their records before the others were lost.
        return [
            Ending(task) if lost is None or _is_recorded(task) else Ending(task, lost, reason)
            for task in tasks
        ]

    def cancel(self) -> None:
        """Ask workers to stop after their step, and kill those that do not."""
        self.submitted = []
        if not self.running:
            return
        for reference in self.running:
            with suppress(self.ray.exceptions.RayError, TypeError):
                self.ray.cancel(reference)  # raises Ctrl-C in the worker
        waiting = list(self.running)
        with suppress(self.ray.exceptions.RayError):
            _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=GRACE)
        for reference in waiting:
            with suppress(self.ray.exceptions.RayError, TypeError):
                self.ray.cancel(reference, force=True)
        self.running = {}

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if "ray" in vars(self):
            self.ray.shutdown()


def _goes_alone(task: Task) -> bool:
    return task.alone or task.attempt > 1


def _is_late(tasks: Sequence[Task], begun: float) -> bool:
    """Say whether tasks take longer than their limits and what they get to end by themselves."""
    limits = [task.time_limit for task in tasks if task.time_limit is not None]
    return bool(limits) and time.monotonic() - begun > sum(limits) + GRACE


def _is_recorded(task: Task) -> bool:
    """Say whether this attempt at a task has its record."""
    result = read_result(task.results, task.key)
    return result is not None and int(result.get("attempts", 1)) == task.attempt


def _name_loss(error: Exception) -> Failure:
    name = type(error).__name__
    if name in ("NodeDiedError", "TaskCancelledError"):
        return "preempted"
    if name == "OutOfMemoryError":
        return "out_of_memory"
    if name in ("WorkerCrashedError", "LocalRayletDiedError", "ObjectLostError", "OwnerDiedError"):
        return "crashed"
    return classify(error)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Give signals back to whoever heard them before: Ray takes SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def start_ray(cluster: Cluster) -> Any:
    """Return Ray, connected.

    Raises:
        UserError: It is not installed, or there is no cluster at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--workers: more than one needs Ray; install it with: pip install 'dart-ablation[ray]'"
        )
    import ray  # noqa: PLC0415

    if cluster.address is not None:
        check_address(cluster.address)
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        # `local`: without it Ray attaches to whatever cluster was left on the machine.
        options = {"address": "local", "num_cpus": cluster.workers, "include_dashboard": False}
    for attempt in range(1, STARTS + 1):
        try:
            with keep_handlers():
                ray.init(
                    **options,
                    runtime_env={"env_vars": _environment()},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            break
        except Exception as error:  # a node that is not up in 30 s raises just that
            with suppress(Exception):
                ray.shutdown()
            if cluster.address is not None or attempt == STARTS:
                reason = " ".join(str(error).split())[:200]
                where = f"--address {cluster.address}" if cluster.address else "--workers"
                raise UserError(f"{where}: no cluster of Ray can be used: {reason}") from None
    found = ray.cluster_resources().get("GPU", 0.0)
    if cluster.gpus_per_run > found:  # runs would wait for ever
        ray.shutdown()
        where = "on this machine" if cluster.address is None else f"at {cluster.address}"
        raise UserError(
            f"--gpus-per-run {cluster.gpus_per_run:g}: Ray finds {found:g} accelerators {where}"
        )
    return ray


def check_address(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would wait for minutes.

    Raises:
        UserError: Nothing does, or it is no address.
    """
    if address == "auto" or "://" in address:
        return
    host, colon, port = address.rpartition(":")
    try:
        if not colon or not port.isdigit():
            raise ValueError("expected HOST:PORT or auto")
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"--address {address}: no cluster of Ray answers there: {error}") from None


def _environment() -> dict[str, str]:
    """Return what workers need of this process's environment."""
    root = Path(__file__).parents[2]
    paths = [str(root), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    wanted = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    passed = [name for name in os.environ if name.startswith("DART_") or name in PASSED]
    return wanted | {name: os.environ[name] for name in passed}
