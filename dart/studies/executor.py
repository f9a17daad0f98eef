"""Where runs are executed: in this process, or by workers elsewhere.

An executor is told to submit, is waited for and can be cancelled; nothing else. It decides
nothing: which runs there are, and which are tried again, is the coordinator's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dart.studies.failures import Failure
from dart.studies.stopping import StopRequest
from dart.studies.worker import RunFunction, Task, load_run_function, run_task


@dataclass(frozen=True)
class Cluster:
    """Where workers run and what each may use."""

    workers: int = 1
    """Processes at once."""
    gpus_per_run: float = 0.0
    """Share of an accelerator that a process gets; several share one where it is below 1."""
    address: str | None = None
    """A running cluster, as ``HOST:PORT`` or ``auto``; None starts one on this machine."""


@dataclass(frozen=True)
class Ending:
    """How a submitted task ended."""

    task: Task
    lost: Failure | None = None
    """None: its record is on disk. Otherwise its process ended before it could write one."""
    reason: str = ""


@runtime_checkable
class Executor(Protocol):
    """Executes tasks, up to ``slots`` of them at once."""

    slots: int

    def submit(self, task: Task) -> None:
        """Begin a task as soon as there is room."""
        ...

    def wait_any(self) -> list[Ending]:
        """Wait until something ended, and return what has.

        Raises:
            OSError: If a record cannot be written.
        """
        ...

    def cancel(self) -> None:
        """Stop what is running; training keeps its state. Returns when nothing runs any more."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class InlineExecutor:
    """Runs one task after the other in this process, which stays warm.

    Args:
        function: In the place of ``dart.protocol.run_recipe``.
        stop: Hears signals.
        on_step: Is told of every step of training.
    """

    slots = 1

    def __init__(
        self,
        function: RunFunction | None,
        *,
        stop: StopRequest,
        on_step: Callable[[int, int, float], None],
    ) -> None:
        self.function = function
        self.stop = stop
        self.on_step = on_step
        self.submitted: list[Task] = []

    def submit(self, task: Task) -> None:
        """Keep the task for ``wait_any``."""
        self.function = self.function or load_run_function(task.device)
        self.submitted.append(task)

    def wait_any(self) -> list[Ending]:
        """Run the oldest task."""
        task = self.submitted.pop(0)
        assert self.function is not None
        try:
            run_task(task, self.function, on_step=self._step)
        finally:
            self.stop.end()
        return [Ending(task)]

    def _step(self, done: int, steps: int, loss: float) -> None:
        self.on_step(done, steps, loss)
        self.stop.step(done, steps)

    def cancel(self) -> None:
        """Do nothing: whoever calls this is not in ``wait_any``."""

    def close(self) -> None:
        """Do nothing."""
