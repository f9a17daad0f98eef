"""What a failed run is called, and what is done about it."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dart.errors import Stopped, TimeLimit, UserError
from dart.studies.failures import classify, may_heal, read_kinds
from dart.studies.records import run_folder
from dart.studies.stopping import StopRequest, limit_time
from dart.training.loop import Diverged
from tests.helpers.study_engine import STEPS, FakeRun, run_toy, write_study

ONE = "variants: {plain: {}}\nbudget: {seeds: [0, 1]}\n"


def _raised(action: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        action()
    return caught.value


def _wrap() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("the writer failed")  # noqa: B904


def _fill_file(folder: Path) -> None:
    with (folder / "x").open("w") as full, Path("/dev/full").open("w") as device:
        full.write("x")
        device.write("x")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        # What torch itself says when a computer's memory is asked for too much.
        (_raised(lambda: torch.empty(2**62, dtype=torch.uint8)), "out_of_memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (Diverged("step 3: the loss is nan"), "diverged"),
        (_raised(_wrap), "out_of_disk"),
        (OSError(errno.EFBIG, "File too large"), "out_of_disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "out_of_disk"),
        (TimeLimit("it took longer"), "time_limit"),
        (UserError("the data set is not there"), "input"),
        (ValueError("out of memory of past times"), "bug"),
        (AssertionError(), "bug"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_named_by_its_kind(error: BaseException, kind: str) -> None:
    assert classify(error) == kind


def test_a_full_device_is_named_by_its_kind(tmp_path: Path) -> None:
    assert classify(_raised(lambda: _fill_file(tmp_path))) == "out_of_disk"


def test_kinds_are_read_from_words() -> None:
    assert read_kinds(["oom", "time-limit"]) == {"out_of_memory", "time_limit"}
    assert "bug" in read_kinds(["all"])
    with pytest.raises(UserError, match=r"--failed divergd: no kind of failure; .*'diverged'\?"):
        read_kinds(["divergd"])


@pytest.mark.parametrize(
    ("record", "heals"),
    [
        ({"status": "finished"}, False),
        ({"status": "failed"}, False),
        ({"status": "failed", "failure": "out_of_memory", "attempts": 1}, True),
        ({"status": "failed", "failure": "out_of_memory", "attempts": 2}, False),
        ({"status": "failed", "failure": "preempted", "attempts": 99}, True),
        ({"status": "failed", "failure": "bug"}, False),
    ],
)
def test_only_what_may_heal_is_tried_again(record: dict[str, Any], heals: bool) -> None:
    assert may_heal(record) is heals


class Failing(FakeRun):
    """Raises ``error`` the first ``times`` times that seed 0 is run."""

    def __init__(self, error: BaseException, times: int) -> None:
        super().__init__()
        self.error = error
        self.times = times

    def __call__(self, recipe: Any, folder: Path, **options: Any) -> dict[str, Any]:
        if recipe.seed == 0 and recipe.variant == "plain" and self.times > 0:
            self.times -= 1
            self._say(f"failed {recipe.seed}")
            raise self.error
        return super().__call__(recipe, folder, **options)


def _record(results: Path, key: str) -> dict[str, Any]:
    return json.loads((run_folder(results, key) / "result.json").read_text())


def test_out_of_memory_is_tried_once_more_after_all_others(tmp_path: Path) -> None:
    run = Failing(MemoryError(), 1)
    outcome = run_toy(write_study(tmp_path, ONE), tmp_path, run)
    assert [call.split()[-1] for call in run.calls] == ["0", "0", "1", "0"]
    assert run.calls[1] == "failed 0"
    assert not outcome.failed
    assert sorted(r.get("attempts", 1) for r in outcome.results) == [1, 1, 2]


def test_out_of_memory_twice_has_failed(tmp_path: Path) -> None:
    run = Failing(MemoryError(), 9)
    path = write_study(tmp_path, ONE)
    ((cell, _),) = run_toy(path, tmp_path, run).failed
    assert run.times == 7
    record = _record(tmp_path, cell.key)
    assert record["failure"] == "out_of_memory"
    assert record["attempts"] == 2
    assert record["environment"]["versions"]["python"]
    run_toy(path, tmp_path, run)
    assert run.times == 7


def test_only_the_kinds_that_are_named_are_tried_again(tmp_path: Path) -> None:
    path = write_study(tmp_path, ONE)
    run = Failing(Diverged("step 1: the loss is nan"), 9)
    run_toy(path, tmp_path, run)
    assert run.times == 8
    run_toy(path, tmp_path, run, retry=read_kinds(["oom", "bug"]))
    assert run.times == 8
    assert run_toy(path, tmp_path, retry=read_kinds(["nan"])).failed == []


def test_a_run_over_its_time_limit_has_failed_and_the_study_goes_on(tmp_path: Path) -> None:
    class Hanging(FakeRun):
        def __call__(self, recipe: Any, folder: Path, **options: Any) -> dict[str, Any]:
            if recipe.seed == 0 and recipe.variant == "plain":
                try:
                    time.sleep(600)
                except Exception:  # a run that swallows every error
                    time.sleep(600)
            return super().__call__(recipe, folder, **options)

    outcome = run_toy(write_study(tmp_path, ONE), tmp_path, Hanging(), time_limit=2.0)
    ((_, result),) = outcome.failed
    assert result["failure"] == "time_limit"
    assert result["reason"] == "it took longer than its time limit of 2 s"
    assert len(outcome.cells) == 3
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_full_disk_stops_the_study_and_records_nothing(tmp_path: Path) -> None:
    error = RuntimeError("I/O error: No space left on device (os error 28)")
    path = write_study(tmp_path, ONE)
    with pytest.raises(UserError, match="no space left on device"):
        run_toy(path, tmp_path, Failing(error, 1))
    assert len(list((tmp_path / "runs").iterdir())) == 1  # the untouched network
    assert run_toy(path, tmp_path).failed == []


def test_a_signal_while_training_waits_for_the_step_and_a_second_does_not() -> None:
    with StopRequest() as stop:
        stop.step(1, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(Stopped) as caught:
            stop.step(2, 3)
        assert caught.value.signum == signal.SIGTERM

    with StopRequest() as stop:
        stop.step(1, 3)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)

    with StopRequest() as stop:
        stop.step(3, 3)  # training is over
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_threads_other_than_the_main_one_hear_no_signals() -> None:
    seen = []

    def work() -> None:
        with StopRequest() as stop, limit_time(0.001):
            time.sleep(0.05)
            stop.step(1, 2)
            seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]


def test_a_run_that_is_stopped_keeps_its_state_and_goes_on(tmp_path: Path) -> None:
    steps: list[int] = []

    class Stateful(FakeRun):
        def __call__(self, recipe: Any, folder: Path, **options: Any) -> dict[str, Any]:
            state = options["state"]
            if recipe.variant == "plain":
                begin = int(state.read_text()) if state.exists() else 0
                for step in range(begin, STEPS):
                    steps.append(step)
                    state.write_text(str(step + 1))
                    if step == 2 and begin == 0:
                        os.kill(os.getpid(), signal.SIGTERM)
                    options["on_step"](step + 1, STEPS, 0.5)
            return super().__call__(recipe, folder, **options)

    path = write_study(tmp_path, "variants: {plain: {}}")
    with pytest.raises(Stopped):
        run_toy(path, tmp_path, Stateful())
    run_toy(path, tmp_path, Stateful())
    assert steps == [*range(STEPS)]
    assert list((tmp_path / "studies" / "toy" / "states").iterdir()) == []
    assert not list((tmp_path / "runs").glob(".*"))


def test_a_damaged_state_costs_its_steps_and_not_the_run(tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}")
    states = tmp_path / "studies" / "toy" / "states"

    class Reading(FakeRun):
        def __call__(self, recipe: Any, folder: Path, **options: Any) -> dict[str, Any]:
            if options["state"].exists():
                raise UserError(f"{options['state']} is not a whole training state: no")
            return super().__call__(recipe, folder, **options)

    first = run_toy(path, tmp_path)
    key = first.cells[-1].key
    (run_folder(tmp_path, key) / "result.json").unlink()
    (states / f"{key[:16]}.pt").write_text("damaged")
    assert run_toy(path, tmp_path, Reading(), retry_failed=True).failed == []
    assert list(states.iterdir()) == []
