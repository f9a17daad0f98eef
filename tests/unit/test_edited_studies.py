"""A study file renamed, edited, or of another's name: what was run stays and is found again."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dart.errors import UserError
from dart.studies.lock import lock_study
from dart.studies.plan import make_plan
from dart.studies.spec import load_spec
from tests.helpers.study_engine import FakeRun, own_registry, run_toy, write_study
from tests.helpers.study_process import StudyProcess

TWO = "variants: {plain: {}, tuned: {rank: [4, 8]}}\nbudget: {seeds: [0, 1]}\n"
YEARS = 10 * 365 * 86400.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StudyProcess]:
    engine = StudyProcess(tmp_path, "variants: {plain: {}}\nbudget: {seeds: [0, 1]}\n")
    yield engine
    engine.stop()


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _states(path: Path, results: Path) -> Counter[str]:
    with own_registry():
        return Counter(make_plan(load_spec(path), results).states())


def test_after_a_kill_and_an_edit_only_what_is_new_runs(engine: StudyProcess) -> None:
    first = engine.start(seconds=600)
    engine.wait_for_calls(1)
    first.kill()
    first.communicate()
    second = engine.start(seconds=0.5)
    engine.wait_for_calls(4)  # untouched twice, seed 0, and seed 1 is in flight
    second.kill()
    second.communicate()
    done = set(engine.committed())
    write_study(engine.folder, TWO.replace("[0, 1]", "[0, 1, 2]").replace("[4, 8]", "4"))
    engine.finish()
    # Untouched, three seeds of each variant; what was in flight at a kill was begun once more.
    assert len(engine.committed()) == 7
    assert done <= set(engine.committed())
    assert sorted(Counter(engine.calls()).values()) == [1, 1, 1, 1, 1, 2, 2]
    engine.check_whole()


def test_a_renamed_study_has_its_runs_and_the_old_name_keeps_its_record(tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO)
    run_toy(path, tmp_path)
    before = _contents(tmp_path / "studies" / "toy")
    renamed = path.rename(tmp_path / "other.yaml")
    assert _states(renamed, tmp_path) == {"done": 7}
    run = FakeRun()
    outcome = run_toy(renamed, tmp_path, run)
    assert (run.calls, len(outcome.cells)) == ([], 7)
    assert _contents(tmp_path / "studies" / "toy") == before


NOTE = (
    "note: {} finished runs of this study's name are no longer part of it; they are kept, and "
    "count again if the file asks for them\n"
)


@pytest.mark.parametrize(
    ("old", "new", "orphans", "fresh"),
    [
        (TWO, TWO.replace("[4, 8]", "[4, 16]"), 2, 2),
        (TWO, TWO.replace("[0, 1]", "[1]"), 3, 0),
        (TWO, TWO.replace("plain: {}, ", ""), 2, 0),
        (
            "variants: {plain: {}, tuned: {rank: {low: 2, high: 64}}}\nbudget: {trials: 4}\n",
            "variants: {plain: {}, tuned: {rank: {low: 65, high: 99}}}\nbudget: {trials: 4}\n",
            4,
            4,
        ),
    ],
)
def test_runs_that_an_edit_leaves_out_are_said_once_and_kept(
    old: str,
    new: str,
    orphans: int,
    fresh: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_toy(write_study(tmp_path, old), tmp_path)
    assert "note:" not in capsys.readouterr().err
    before = _contents(tmp_path / "runs")
    run = FakeRun()
    outcome = run_toy(write_study(tmp_path, new), tmp_path, run)
    assert capsys.readouterr().err.count(NOTE.format(orphans)) == 1
    assert len(run.calls) == fresh
    after = _contents(tmp_path / "runs")
    assert before.items() <= after.items()
    assert len({name.split("/")[0] for name in after}) == len(outcome.cells) + orphans
    run_toy(write_study(tmp_path, new), tmp_path)
    assert "note:" not in capsys.readouterr().err
    again = FakeRun()
    run_toy(write_study(tmp_path, old), tmp_path, again)
    assert again.calls == []


def test_two_files_of_one_name_share_what_is_equal_or_the_second_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first = write_study(folders[0], TWO)
    text = first.read_text()
    run_toy(first, tmp_path)
    stranger = folders[1] / "toy.yaml"
    stranger.write_text(text.replace("[4, 8]", "99").replace("plain: {}, ", ""))
    kept = _contents(tmp_path / "studies")
    with pytest.raises(UserError, match=r"b/toy\.yaml: none of the 6 runs .* give it another name"):
        run_toy(stranger, tmp_path)
    assert _contents(tmp_path / "studies") == kept
    relative = folders[2] / "toy.yaml"
    relative.write_text(text.replace("[4, 8]", "[8, 16]"))
    run = FakeRun()
    run_toy(relative, tmp_path, run)
    assert NOTE.format(2) in capsys.readouterr().err
    assert len(run.calls) == 2
    assert _states(first, tmp_path) == {"done": 7}


@pytest.mark.parametrize("shift", [-YEARS, YEARS])
def test_a_clock_that_is_off_neither_frees_a_lock_nor_holds_one(
    shift: float, tmp_path: Path
) -> None:
    moment = time.time() + shift
    with lock_study(tmp_path):
        os.utime(tmp_path / "lock", (moment, moment))
        with (
            pytest.raises(UserError, match=rf"already running here \(process {os.getpid()}"),
            lock_study(tmp_path),
        ):
            pass
    os.utime(tmp_path / "lock", (moment, moment))
    with lock_study(tmp_path):
        pass


@pytest.mark.parametrize("shift", [-YEARS, YEARS])
def test_runs_of_another_clock_are_no_less_done(shift: float, tmp_path: Path) -> None:
    path = write_study(tmp_path, TWO)
    run_toy(path, tmp_path)
    year = time.gmtime(time.time() + shift).tm_year
    for record in tmp_path.glob("runs/*/result.json"):
        text = record.read_text()
        record.write_text(re.sub(r'"(started|ended)": "\d{4}', rf'"\1": "{year}', text))
        assert f'"ended": "{year}' in record.read_text()
    moment = time.time() + shift
    for found in (*tmp_path.rglob("*"), tmp_path / "studies" / "toy" / "lock"):
        os.utime(found, (moment, moment))
    assert _states(path, tmp_path) == {"done": 7}
    run = FakeRun()
    run_toy(path, tmp_path, run)
    assert run.calls == []
