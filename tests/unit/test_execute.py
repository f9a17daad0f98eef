"""Running a study: what is done is not repeated, what fails is recorded and the rest goes on."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dart.errors import UserError
from dart.recipe import ZERO_SHOT
from dart.studies.execute import execute_study
from dart.studies.failures import describe_error
from dart.studies.folders import clean_stale, commit_run, open_run, owner_tag
from dart.studies.lock import lock_study
from dart.studies.progress import PlainReporter
from dart.studies.records import run_folder
from dart.studies.runner import Options
from dart.studies.spec import load_spec
from tests.helpers.study_engine import VARIANTS, FakeRun, own_registry, run_toy, write_study
from tests.helpers.study_process import StudyProcess

TWO = "variants: {plain: {}, tuned: {rank: [4, 8]}}\nbudget: {seeds: [0, 1]}\n"
RUNS = 7
"""The untouched network, and two seeds of three choices."""


def test_every_run_is_committed_with_its_record(tmp_path: Path) -> None:
    outcome = run_toy(write_study(tmp_path, TWO), tmp_path)
    assert len(outcome.cells) == RUNS
    assert not outcome.failed
    for cell in outcome.cells:
        result = json.loads((run_folder(tmp_path, cell.key) / "result.json").read_text())
        assert result["key"] == cell.key
    listed = json.loads((tmp_path / "studies" / "toy" / "cells.json").read_text())
    assert [entry["key"] for entry in listed["cells"]] == [cell.key for cell in outcome.cells]
    assert listed["metric"] == "abs_rel"
    assert listed["baseline"] == "plain"
    assert (tmp_path / "studies" / "toy" / "study.yaml").read_text().startswith(TWO)
    assert len(list((tmp_path / "runs").iterdir())) == RUNS


def test_a_second_time_repeats_nothing_and_a_new_seed_adds_its_runs_only(tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO)
    run_toy(path, tmp_path)
    again = FakeRun()
    run_toy(path, tmp_path, again)
    assert again.calls == []
    more = FakeRun()
    run_toy(write_study(tmp_path, TWO.replace("[0, 1]", "[0, 1, 2]")), tmp_path, more)
    assert [label.split()[-1] for label in more.calls] == ["2", "2", "2"]


def test_another_study_shares_the_runs_that_it_has_in_common(tmp_path: Path) -> None:
    run_toy(write_study(tmp_path, TWO), tmp_path)
    other = FakeRun()
    run_toy(
        write_study(tmp_path, "variants: {tuned: {rank: [4, 16]}}", name="other"), tmp_path, other
    )
    assert len(other.calls) == 1
    assert "16" in other.calls[0]


def test_only_some_variants_are_run_and_all_are_listed(tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO)
    run = FakeRun()
    outcome = run_toy(path, tmp_path, run, only=("plain",))
    assert {cell.recipe.variant for cell in outcome.cells} == {ZERO_SHOT, "plain"}
    listed = json.loads((tmp_path / "studies" / "toy" / "cells.json").read_text())
    assert len(listed["cells"]) == RUNS


def test_a_failed_run_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {broken: {how: [bug, input]}, plain: {}}")
    run = FakeRun()
    outcome = run_toy(path, tmp_path, run)
    assert len(run.calls) == 4
    reasons = [result["reason"] for _, result in outcome.failed]
    # The kind of error is named unless the error was written for people.
    assert reasons == ["RuntimeError: the loss is not finite", "the loss is not finite"]
    folder = run_folder(tmp_path, outcome.failed[0][0].key)
    assert sorted(p.name for p in folder.iterdir()) == [
        "recipe.json",
        "result.json",
        "traceback.txt",
    ]
    assert "RuntimeError" in (folder / "traceback.txt").read_text()

    again = FakeRun()
    outcome = run_toy(path, tmp_path, again)
    assert again.calls == []
    assert len(outcome.failed) == 2


def test_failed_runs_are_tried_again_when_asked(tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}\nbudget: {seeds: [0, 1]}")

    class Flaky(FakeRun):
        def __call__(self, recipe, folder, **options):
            if recipe.seed == 1:
                raise MemoryError
            return super().__call__(recipe, folder, **options)

    assert len(run_toy(path, tmp_path, Flaky()).failed) == 1
    assert len(run_toy(path, tmp_path, Flaky(), retry_failed=True).failed) == 1
    run = FakeRun()
    assert run_toy(path, tmp_path, run, retry_failed=True).failed == []
    assert len(run.calls) == 1
    assert not list((tmp_path / "runs").glob(".*"))


def test_a_run_without_a_record_has_failed(tmp_path: Path) -> None:
    class Forgetful(FakeRun):
        def __call__(self, recipe, folder, **options):
            super().__call__(recipe, folder, **options)
            (folder / "result.json").unlink()
            return {}

    outcome = run_toy(write_study(tmp_path, "variants: {plain: {}}"), tmp_path, Forgetful())
    assert len(outcome.failed) == 2
    assert "result.json" in outcome.failed[0][1]["reason"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n b"), "a b"),
        (UserError("x"), "x"),
        (ValueError(), "ValueError"),
        (RuntimeError("out of\nmemory"), "RuntimeError: out of memory"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("x" * 900), "RuntimeError: " + "x" * 483 + "..."),
    ],
)
def test_an_error_is_described_in_one_line(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_an_interrupted_run_leaves_nothing_and_the_rest_stays(tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO)

    class Stopped(FakeRun):
        def __call__(self, recipe, folder, **options):
            if len(self.calls) == 3:
                (folder / "half.bin").write_bytes(b"half")
                raise KeyboardInterrupt
            return super().__call__(recipe, folder, **options)

    with pytest.raises(KeyboardInterrupt):
        run_toy(path, tmp_path, Stopped())
    assert len(list((tmp_path / "runs").iterdir())) == 3
    run = FakeRun()
    run_toy(path, tmp_path, run)
    assert len(run.calls) == RUNS - 3


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = FakeRun()
    for results in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UserError, match=r"^results folder '.*' cannot be written: .*--results"):
            run_toy(write_study(tmp_path, TWO), results, run)
    assert run.calls == []


def test_a_disk_that_fills_up_stops_the_study_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dart.studies.worker.commit_run", full)
    with pytest.raises(UserError, match="no space left on device"):
        run_toy(write_study(tmp_path, TWO), tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runs = tmp_path / "runs"
    machine = owner_tag().rpartition("-")[0]
    ours = f"{machine}-{os.getpid()}"
    for name in (
        f".tmp-a-{machine}-{dead.pid}",
        f".tmp-b-old-{machine}-{dead.pid}",
        f".tmp-c-{ours}",
    ):
        (runs / name).mkdir(parents=True)
    kept = [
        f".tmp-d-{machine}-{os.getppid()}",
        f".tmp-e-elsewhere-{dead.pid}",
        "0123456789abcdef",
    ]
    for name in kept:
        (runs / name).mkdir()
    clean_stale(tmp_path)
    assert sorted(p.name for p in runs.iterdir()) == kept


def test_the_first_to_commit_a_run_wins(tmp_path: Path) -> None:
    key = "a" * 64
    (tmp_path / "runs").mkdir()
    for text in ("first", "second"):
        folder = open_run(tmp_path, key)
        record = {"status": "finished", "domains": {"rooms": {}}, "by": text}
        (folder / "result.json").write_text(json.dumps(record))
        commit_run(folder, tmp_path, key)
    record = json.loads((run_folder(tmp_path, key) / "result.json").read_text())
    assert record["by"] == "first"
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_lock_is_held_once_and_given_back(tmp_path: Path) -> None:
    with (
        lock_study(tmp_path),
        pytest.raises(UserError, match=rf"already running here \(process {os.getpid()}"),
        lock_study(tmp_path),
    ):
        pass
    with lock_study(tmp_path):
        pass


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StudyProcess]:
    engine = StudyProcess(tmp_path, TWO)
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_process_loses_only_the_run_in_flight(
    number: signal.Signals, status: int, engine: StudyProcess
) -> None:
    first = engine.start(seconds=0.6)
    engine.wait_for_calls(4)
    first.send_signal(number)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == status
    assert "Traceback" not in errors
    assert len(engine.committed()) == 3

    second = engine.start(seconds=0.0)
    second.communicate(timeout=300)
    assert second.returncode == 0
    calls = engine.calls()
    assert len(calls) == RUNS + 1
    assert calls[3] == calls[4]  # the lost run, and no other, was repeated
    assert len(set(calls)) == len(engine.committed()) == RUNS
    assert not list((engine.results / "runs").glob(".*"))


def test_a_second_process_is_refused_while_the_first_runs(engine: StudyProcess) -> None:
    first = engine.start(seconds=600)
    engine.wait_for_calls(1)
    second = engine.start(seconds=0.0)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 2
    text = rf"error: study 'toy' is already running here \(process {first.pid}, .*\); .*\n"
    assert re.fullmatch(text, errors)
    assert first.poll() is None
    assert len(engine.calls()) == 1


def test_of_six_processes_that_start_a_study_at_once_one_owns_it(engine: StudyProcess) -> None:
    processes = [engine.start(seconds=600) for _ in range(6)]
    deadline = time.monotonic() + 300
    while sum(process.poll() is not None for process in processes) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (owner,) = [process for process in processes if process.poll() is None]
    for process in processes:
        if process is not owner:
            _, errors = process.communicate()
            assert process.returncode == 2
            assert re.fullmatch(
                rf"error: study 'toy' is already running here \(process {owner.pid}, .*\n", errors
            )
    engine.wait_for_calls(1)
    assert len(engine.calls()) == 1
    listed = json.loads((engine.results / "studies" / "toy" / "cells.json").read_text())
    assert len(listed["cells"]) == RUNS


def test_a_name_that_another_study_has_is_refused_and_nothing_is_overwritten(
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, TWO)
    run_toy(path, tmp_path)
    cells = (tmp_path / "studies" / "toy" / "cells.json").read_bytes()
    for other in ("variants: {tuned: {rank: 99}}", TWO + "training: {steps: 7}\n"):
        run = FakeRun()
        with pytest.raises(UserError, match=r"none of the \d+ runs .* under the name 'toy'") as one:
            run_toy(write_study(tmp_path, other), tmp_path, run)
        assert "\n" not in str(one.value)
        assert run.calls == []
        assert (tmp_path / "studies" / "toy" / "cells.json").read_bytes() == cells
    # An edit that keeps some of it, a changed variant and another name are all fine.
    run_toy(write_study(tmp_path, TWO.replace("[0, 1]", "[1, 2]")), tmp_path)
    edited = {name: dataclasses.replace(info, code="2") for name, info in VARIANTS.items()}
    with own_registry(edited):
        execute_study(
            load_spec(write_study(tmp_path, TWO)),
            tmp_path,
            reporter=PlainReporter(sys.stderr),
            options=Options(run=FakeRun(), track=False),
        )
