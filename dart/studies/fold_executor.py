"""Several runs in one process that take their steps of training together.

What they share is the frozen encoder: it runs once for the images of all of them
(``dart.training.together``). Everything else of a run, its record and its failure included, is
what it is alone.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from dart.errors import Stopped, TimeLimit, UserError
from dart.studies.executor import Ending
from dart.studies.stopping import StopRequest
from dart.studies.worker import Task, load_run_function, task_steps

Run = Generator[Any, Any, dict[str, Any]]


@dataclass
class _Member:
    """A run that is being trained."""

    task: Task
    run: Run
    trainer: Any
    """What it waits for: a step of this ``dart.training.loop.Trainer``."""


class FoldExecutor:
    """Runs up to ``slots`` tasks in this process, all of which take their steps together.

    Runs that change the encoder itself cannot share it and take their steps alone, in turn.

    Args:
        slots: Most runs at once.
        stop: Hears signals.
        on_step: Is told of every step of training.
        note: Is told what people should know.
    """

    def __init__(
        self,
        slots: int,
        *,
        stop: StopRequest,
        on_step: Callable[[int, int, float], None],
        note: Callable[[str], None],
    ) -> None:
        self.slots = slots
        self.stop = stop
        self.on_step = on_step
        self.note = note
        self.submitted: list[Task] = []
        self.groups: list[list[_Member]] = []
        self.told: set[str] = set()
        """What slows steps, as far as it was said."""
        self.seconds: dict[str, float] = {}
        """Task -> its share of the time so far."""

    def submit(self, task: Task) -> None:
        """Keep the task for ``wait_any``."""
        load_run_function(task.device)
        self.submitted.append(task)

    def wait_any(self) -> list[Ending]:
        """Run all that was submitted to its end."""
        tasks, self.submitted = self.submitted, []
        self.seconds = dict.fromkeys((task.key for task in tasks), 0.0)
        try:
            begun = [self._begin(task, fold=len(tasks)) for task in tasks]
            self.groups = self._group([member for member in begun if member is not None])
            while any(self.groups):
                for members in list(self.groups):
                    self._step(members)
        except BaseException as error:
            self._stop_all(error)
            raise
        finally:
            self.stop.end()
        return [Ending(task) for task in tasks]

    def _begin(self, task: Task, *, fold: int) -> _Member | None:
        """Return a run that waits for its first step, or None if it ended without one."""
        from dart.protocol import recipe_steps  # noqa: PLC0415  # imports torch

        # Its limit is watched here: an alarm would hit whichever run is working.
        unlimited = replace(task, time_limit=None, fold=fold)
        run = task_steps(unlimited, recipe_steps, on_step=self._on_step)
        return self._advance(_Member(task, run, None), lambda: next(run))

    def _advance(self, member: _Member, go_on: Callable[[], Any]) -> _Member | None:
        """Let a run go on to its next step; None when it has ended."""
        begun = time.monotonic()
        try:
            member.trainer = go_on()
        except StopIteration:
            return None
        finally:
            self.seconds[member.task.key] += time.monotonic() - begun
        return member

    def _group(self, members: list[_Member]) -> list[list[_Member]]:
        from dart.training.together import share_encoder  # noqa: PLC0415  # imports torch

        of = {id(member.trainer): member for member in members}
        groups = share_encoder([member.trainer for member in members])
        alone = [of[id(group[0])].task.recipe for group in groups if len(group) == 1]
        if alone and len(members) > 1:
            names = ", ".join(sorted({recipe.variant for recipe in alone}))
            self.note(f"not folded, each takes its steps alone: {names}")
        return [[of[id(trainer)] for trainer in group] for group in groups]

    def _step(self, members: list[_Member]) -> None:
        """Take one step of a group, and let each of its runs go on from it."""
        from dart.training.together import take_steps  # noqa: PLC0415  # imports torch

        if not members:
            self.groups.remove(members)
            return
        begun = time.monotonic()
        self.stop.begin()
        try:
            steps = take_steps([member.trainer for member in members])
        except Exception as error:
            if len(members) == 1:
                self._end(members, members[0], error)
                return
            # Nobody knows whose it is.
            half = len(members) // 2
            self.note(f"{len(members)} runs folded: {error}; going on with {half} at a time")
            self.groups.append(members[half:])
            del members[half:]
            return
        except BaseException:
            self.groups = []  # in the midst of a step no state is worth keeping
            raise
        self._tell(members[0].trainer)
        share = (time.monotonic() - begun) / len(members)
        for member, step in zip(list(members), steps, strict=True):
            self.seconds[member.task.key] += share
            failure = step if isinstance(step, Exception) else self._over_time(member.task)
            if failure is not None:
                self._end(members, member, failure)
            elif self._advance(member, lambda run=member.run, step=step: run.send(step)) is None:
                members.remove(member)

    def _tell(self, trainer: Any) -> None:
        """Say once why a GPU does not do a step of a group at once."""
        from dart.models.batched import refusals  # noqa: PLC0415  # imports torch

        reason = "" if trainer.static is None else trainer.static.reason
        notes = [f"not batched, one after the other: {refusal}" for refusal in refusals()]
        notes += [f"runs uncaptured: {reason}"] if reason else []
        for note in notes:
            if note not in self.told:
                self.told.add(note)
                self.note(note)

    def _over_time(self, task: Task) -> TimeLimit | None:
        limit = task.time_limit
        if limit is None or self.seconds[task.key] <= limit:
            return None
        return TimeLimit(f"it took longer than its time limit of {limit:g} s")

    def _end(self, members: list[_Member], member: _Member, error: BaseException) -> None:
        """Let a run record its failure."""
        self._advance(member, lambda: member.run.throw(error))
        members.remove(member)

    def _on_step(self, done: int, steps: int, loss: float) -> None:
        self.on_step(done, steps, loss)
        self.stop.step(done, steps)

    def _stop_all(self, error: BaseException) -> None:
        """Let every run that is left keep its state."""
        signum = error.signum if isinstance(error, Stopped) else 0
        for member in [member for members in self.groups for member in members]:
            try:
                member.run.throw(Stopped(signum))
            except (Stopped, StopIteration, UserError, OSError, RuntimeError):
                continue
        self.groups = []

    def cancel(self) -> None:
        """Do nothing: whoever calls this is not in ``wait_any``."""

    def close(self) -> None:
        """Do nothing."""
