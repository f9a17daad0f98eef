"""Disks that are full, read-only or damaged: one line, nothing lost, nothing overwritten."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dart.errors import UserError
from dart.studies.plan import make_plan
from dart.studies.records import run_folder
from dart.studies.spec import load_spec
from tests.helpers.study_engine import FakeRun, own_registry, run_toy, write_study

FOUR = "variants: {plain: {}}\nbudget: {seeds: [0, 1, 2, 3]}\n"
LARGE = 150_000


class Large(FakeRun):
    """Its records take room."""

    def __call__(self, recipe: Any, folder: Path, **options: Any) -> dict[str, Any]:
        result = super().__call__(recipe, folder, **options)
        (folder / "predictions.png").write_bytes(os.urandom(LARGE))
        return result


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a disk of its own, or mounts it again with other options."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if path.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return path

    yield mount
    if path.is_mount():
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_stops_the_study_and_more_room_lets_it_go_on(
    disk: Callable[[str], Path], tmp_path: Path
) -> None:
    path, results = write_study(tmp_path, FOUR), disk("size=600k")
    with pytest.raises(UserError, match=r"^results folder '.*' cannot be written: no space left"):
        run_toy(path, results, Large())
    kept = {p.name: (p / "predictions.png").read_bytes() for p in (results / "runs").iterdir()}
    assert 1 < len(kept) < 5
    disk("size=8m")
    run = Large()
    outcome = run_toy(path, results, run)
    assert not outcome.failed
    assert len(run.calls) == 5 - len(kept)
    for name, content in kept.items():
        assert (results / "runs" / name / "predictions.png").read_bytes() == content


def test_a_disk_that_is_only_read_is_refused_before_anything_runs(
    disk: Callable[[str], Path], tmp_path: Path
) -> None:
    path, results = write_study(tmp_path, FOUR), disk("size=8m")
    run_toy(path, results)
    disk("ro")
    run = FakeRun()
    with pytest.raises(UserError, match="cannot be written: read-only file system"):
        run_toy(write_study(tmp_path, FOUR.replace("3]", "4]")), results, run)
    assert run.calls == []
    with own_registry():
        assert make_plan(load_spec(path), results).states().count("done") == 4


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """The kernel's limit on a file's size is what a quota looks like to a program."""
    code = (
        "from tests.unit.test_bad_disk import *\n"
        "from dart.errors import UserError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGE // 2}, {LARGE // 2}))\n"
        "try: run_toy(Path(sys.argv[1]), Path(sys.argv[2]), Large())\n"
        "except UserError as error: print(error)\n"
    )
    path = write_study(tmp_path, FOUR)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "results")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be written: no space left on device" in done.stdout, done.stderr
    assert list((tmp_path / "results" / "runs").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != LARGE // 2


@pytest.mark.parametrize("place", ["results", "results/deeper"])
def test_a_plan_into_a_file_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    path = write_study(tmp_path, FOUR)
    with own_registry(), pytest.raises(UserError, match="is a file, not a folder; choose another"):
        make_plan(load_spec(path), tmp_path / place)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: content[:-1], "is damaged: it has"),
        (lambda _: b"", "is damaged: it has 0 bytes"),
        (lambda content: content[:-1] + b"?", "does not end as a parquet file"),
        (None, "is gone: no such file or directory"),
    ],
)
def test_a_damaged_file_of_a_run_is_noticed_by_the_plan_and_the_run_can_be_repeated(
    damage: Callable[[bytes], bytes] | None, text: str, tmp_path: Path
) -> None:
    path = write_study(tmp_path, FOUR)
    cell = run_toy(path, tmp_path).cells[-1]
    victim = run_folder(tmp_path, cell.key) / "per_image.parquet"
    if damage is None:
        victim.unlink()
    else:
        victim.write_bytes(damage(victim.read_bytes()))
    with own_registry():
        plan = make_plan(load_spec(path), tmp_path)
    assert plan.states().count("failed") == 1
    (reason,) = [r["reason"] for r in plan.results if r and r["status"] == "failed"]
    assert str(victim) in reason
    assert text in reason
    run = FakeRun()
    assert run_toy(path, tmp_path, run, retry_failed=True).failed == []
    assert len(run.calls) == 1
