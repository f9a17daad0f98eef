"""What the terminal shows while a study runs: one live line, or plain lines into a file."""

import sys
import time
from collections.abc import Mapping, Sequence
from io import TextIOBase
from typing import IO, Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from dart.studies.front import describe_front, find_front
from dart.studies.plan import Cell


@runtime_checkable
class Reporter(Protocol):
    """Is told what happens to each run of a study."""

    def begin(self, *, total: int, known: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
        """Note how many runs there are, and those that need not run."""
        ...

    def start(self, cell: Cell) -> None:
        """Note that a run starts."""
        ...

    def lose(self, cell: Cell, reason: str) -> None:
        """Note that an attempt at a run ended without a record that stays."""
        ...

    def step(self, step: int, steps: int, loss: float) -> None:
        """Note the loss after ``step`` of ``steps`` steps."""
        ...

    def end(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Note that a run was committed."""
        ...

    def skip(self) -> None:
        """Note that a run was there already."""
        ...

    def note(self, text: str) -> None:
        """Show one line."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Clock:
    """Counts runs and estimates how long those left will take, judged by those of this session."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.failed = 0
        self.ran = 0
        self.running: set[str] = set()
        self.part = 0.0
        self.started = time.monotonic()

    def seconds_left(self) -> float | None:
        """Return the estimate, or None before there is anything to judge by."""
        worked = self.ran + self.part
        if worked <= 0:
            return None
        pace = (time.monotonic() - self.started) / worked
        return max(0.0, self.total - self.done - self.part) * pace

    def counts(self) -> str:
        """Return the counts for people: ``12/40 runs, 2 running, 1 failed``."""
        text = f"{self.done}/{self.total} runs"
        if len(self.running) > 1:
            text += f", {len(self.running)} running"
        return f"{text}, {self.failed} failed" if self.failed else text


def describe_seconds(seconds: float | None) -> str:
    """Return a duration for people: ``1 h 05 min``, ``3 min 20 s``, ``12 s``."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def describe_result(result: Mapping[str, Any]) -> str:
    """Return the outcome of a run in one short line."""
    if result["status"] == "pruned":
        return f"ended early after {result['step']} steps"
    if result["status"] != "finished":
        return f"FAILED: {result.get('reason', 'no reason recorded')}"
    return (
        f"{result['metric']} on target {result['target_before']:.4f} -> "
        f"{result['target_after']:.4f}, forgetting {result['forgetting']:+.4f}, "
        f"{result['wall_seconds']:.1f} s"
    )


class PlainReporter:
    """One line a finished run, and one whenever the best front changes: for logs and pipes."""

    def __init__(self, stream: IO[str] | TextIOBase) -> None:
        self.stream = stream
        self.clock = Clock()
        self.finished: list[tuple[str, Mapping[str, Any]]] = []
        self.front: list[dict[str, Any]] = []

    def begin(self, *, total: int, known: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
        """Set the counts."""
        clock = self.clock
        clock.total, clock.done = total, len(known)
        clock.failed = sum(result["status"] == "failed" for _, result in known)
        clock.started = time.monotonic()
        for cell, result in known:
            self._keep(cell, result)

    def _keep(self, cell: Cell, result: Mapping[str, Any]) -> None:
        if result["status"] == "finished":
            self.finished.append((f"{cell.recipe.variant} trial {cell.trial}", result))

    def start(self, cell: Cell) -> None:
        """Start the run's share of the estimate."""
        self.clock.part = 0.0
        self.clock.running.add(cell.key)

    def lose(self, cell: Cell, reason: str) -> None:
        """Say why the run is tried again."""
        self.clock.running.discard(cell.key)
        self.note(f"{cell.label}: {reason}; it is run again")

    def step(self, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
        """Advance the estimate."""
        self.clock.part = step / steps

    def end(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Show the run's outcome."""
        clock = self.clock
        clock.part = 0.0
        clock.done += 1
        clock.ran += 1
        clock.failed += result["status"] == "failed"
        clock.running.discard(cell.key)
        left = describe_seconds(clock.seconds_left())
        self.note(f"[{clock.counts()}] {cell.label}: {describe_result(result)} ({left} left)")
        self._keep(cell, result)
        self._show_front(cell.recipe.protocol.metric)

    def _show_front(self, metric: str) -> None:
        front = find_front(self.finished, metric)
        if front != self.front and len(self.finished) > 1:
            self.note(f"best in validation (target, forgetting): {describe_front(front)}")
        self.front = front

    def skip(self) -> None:
        """Count it."""
        self.clock.done += 1

    def note(self, text: str) -> None:
        """Write one line."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Do nothing: every line is out."""


class _Counts(ProgressColumn):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, task: Task) -> Text:  # noqa: ARG002  # the base class's signature
        """Return the counts as text."""
        return Text(self.clock.counts())


class _TimeLeft(ProgressColumn):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, task: Task) -> Text:  # noqa: ARG002  # the base class's signature
        """Return the estimate as text."""
        return Text(f"{describe_seconds(self.clock.seconds_left())} left")


class LiveReporter(PlainReporter):
    """A bar over all runs with the current run's step and loss, above it the finished runs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.file)
        self.bar = Progress(
            _Counts(self.clock),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            _TimeLeft(self.clock),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("", total=1)
        self.label = ""

    def begin(self, *, total: int, known: Sequence[tuple[Cell, Mapping[str, Any]]]) -> None:
        """Set the counts and show the bar."""
        super().begin(total=total, known=known)
        self.bar.update(self.task, total=total, completed=self.clock.done)
        self.bar.start()

    def start(self, cell: Cell) -> None:
        """Name the run."""
        super().start(cell)
        self.label = cell.label
        self.bar.update(self.task, description=self.label)

    def step(self, step: int, steps: int, loss: float) -> None:
        """Show step and loss."""
        super().step(step, steps, loss)
        text = f"{self.label}: step {step}/{steps}, loss {loss:.4f}"
        self.bar.update(self.task, description=text)

    def end(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Advance the bar and show the run's outcome."""
        super().end(cell, result)
        self.bar.update(self.task, total=self.clock.total, completed=self.clock.done)

    def skip(self) -> None:
        """Advance the bar."""
        super().skip()
        self.bar.update(self.task, completed=self.clock.done)

    def note(self, text: str) -> None:
        """Write one line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def make_reporter() -> Reporter:
    """Return the reporter that suits standard error; standard output stays free for tables."""
    console = Console(stderr=True)
    return LiveReporter(console) if console.is_terminal else PlainReporter(sys.stderr)
