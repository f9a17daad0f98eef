"""Status, doctor, retry, sync and export on studies that a stand-in for training has run."""

import json
import shutil
import sqlite3
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dart.commands.study_tools import describe_study, find_study_file
from dart.errors import UserError
from dart.studies.champion import export_champion, find_champion
from dart.studies.doctor import examine
from dart.studies.folders import owner_tag
from dart.studies.front import find_front
from dart.studies.records import run_folder
from dart.studies.summary import read_study
from dart.studies.sync import sync_study
from dart.tracking import StudyTracker, database_uri, register_champion
from tests.helpers.study_engine import FakeRun, run_toy, write_study

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

STUDY = (
    "question: Why?\nvariants: {tuned: {rank: [4, 8], gate: [0.0, 1.0]}, broken: {}}\n"
    "baseline: tuned\nbudget: {seeds: [0, 1, 2]}\n"
)
HEAVY = ("torch", "mlflow", "timm", "optuna")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of a study that was run once, with MLflow."""
    folder = tmp_path_factory.mktemp("tracked")
    run_toy(write_study(folder, STUDY), folder, track=True)
    return folder


@pytest.fixture
def copied(tracked: Path, tmp_path: Path) -> Path:
    """Return those results in a folder of one's own, without MLflow's database."""
    for name in ("runs", "studies"):
        shutil.copytree(tracked / name, tmp_path / name)
    return tmp_path


def test_the_status_counts_what_the_folders_hold(tracked: Path) -> None:
    status = describe_study(read_study(tracked, "toy"))
    assert (status["num_runs"], status["num_done"], status["num_failed"]) == (16, 13, 3)
    assert status["num_missing"] == status["num_running"] == 0
    assert status["process"] is None
    assert status["variants"]["broken"] == {"done": 0, "running": 0, "failed": 3, "missing": 0}
    assert {run["failure"] for run in status["failed"]} == {"bug"}
    # A gate of 1 is the better on the target, a rank of 4 forgets less: the rest is dominated.
    (best,) = status["front"]
    assert best["name"] == "tuned trial 1"
    assert best["target"] == pytest.approx(0.4 - 0.1 - 0.01 + 0.001)
    assert best["runs"] == 3


def test_a_front_holds_what_no_other_beats() -> None:
    def record(target: float, forgetting: float) -> dict[str, Any]:
        domains = {
            "t": {"role": "target", "before": {"abs_rel": 0.5}, "after": {"abs_rel": target}},
            "s": {
                "role": "source",
                "before": {"abs_rel": 0.1},
                "after": {"abs_rel": 0.1 + forgetting},
            },
        }
        return {"status": "finished", "variant": "v", "validation_domains": domains}

    runs = [("a", record(0.2, 0.05)), ("b", record(0.3, 0.01)), ("c", record(0.3, 0.06))]
    assert [member["name"] for member in find_front(runs, "abs_rel")] == ["a", "b"]
    assert find_front([("x", {"status": "failed"})], "abs_rel") == []


def test_the_status_of_a_study_needs_no_torch(tracked: Path) -> None:
    code = (
        "import sys; from dart.cli import main\n"
        f"status = main(['status', 'toy', '--json', '--results', {str(tracked)!r}])\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_done"] == 13


def test_a_study_that_is_not_there_is_refused_with_those_that_are(tracked: Path) -> None:
    with pytest.raises(UserError, match=r"no study 'toi' was run into .*: toy; did you mean 'toy'"):
        read_study(tracked, "toi")
    with pytest.raises(UserError, match="give the study's YAML file"):
        find_study_file("nothing-like-it")


def _kinds(results: Path) -> list[str]:
    return sorted(finding.kind for finding in examine(results))


def _mend(results: Path) -> None:
    for finding in examine(results):
        if finding.mend is not None:
            finding.mend()


def test_a_sound_folder_has_no_finding(tracked: Path) -> None:
    assert _kinds(tracked) == []


def test_planted_faults_are_found_and_mended_and_nothing_is_lost(copied: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    study = read_study(copied, "toy")
    keys = [c["key"] for c, record in study.committed() if record["status"] == "finished"]
    machine = owner_tag().rpartition("-")[0]
    (copied / "runs" / f".tmp-{keys[0][:16]}-{machine}-{dead.pid}").mkdir()
    (study.folder / f".cells.json.{dead.pid}").write_text("{")
    (study.folder / "lock").write_text(str(dead.pid))
    (study.folder / "states").mkdir(exist_ok=True)
    (study.folder / "states" / f"{keys[1][:16]}.pt").write_text("old")
    (run_folder(copied, keys[2]) / "result.json").write_text("{}")
    (run_folder(copied, keys[3]) / "adapter.safetensors").write_text("longer than it was")
    late = run_folder(copied, keys[4]) / "result.json"
    future = (datetime.now(UTC) + timedelta(days=9)).isoformat()
    late.write_text(json.dumps({**json.loads(late.read_text()), "ended": future}))
    other = run_folder(copied, keys[5]) / "result.json"
    environment = {"environment": {"versions": {"torch": "1.0.0"}}}
    other.write_text(json.dumps({**json.loads(other.read_text()), **environment}))
    before = sorted(p.name for p in (copied / "runs").glob("[!.]*"))
    assert _kinds(copied) == [
        "clock_skew",
        "damaged_run",
        "damaged_run",
        "dead_owner",
        "leftover",
        "leftover",
        "no_mlflow",
        "orphaned_folder",
        "versions",
    ]
    assert _kinds(copied).count("damaged_run") == 2  # looking changes nothing
    _mend(copied)
    assert _kinds(copied) == ["clock_skew", "versions"]
    moved = [p.name.removesuffix(".0") for p in (copied / "damaged").iterdir()]
    kept = [p.name for p in (copied / "runs").iterdir()]
    assert sorted(moved + kept) == before
    run = FakeRun()
    run_toy(write_study(copied, STUDY), copied, run)
    assert len(run.calls) == 2


def test_zombies_in_mlflow_are_found_and_mended(copied: Path) -> None:
    study = read_study(copied, "toy")
    sync_study(study)
    tracker = StudyTracker(copied, "toy", about=study.about)  # and its process dies
    key = study.cells[1]["key"]
    tracker.client.update_run(tracker.runs[key].identity, status="RUNNING")
    findings = [finding for finding in examine(copied) if finding.mend is not None]
    assert [finding.kind for finding in findings] == ["zombie_runs"]
    assert "2 of its runs are RUNNING" in findings[0].text
    _mend(copied)
    assert _kinds(copied) == []


def test_a_database_of_another_version_is_found_and_written_anew(copied: Path) -> None:
    study = read_study(copied, "toy")
    sync_study(study)
    with sqlite3.connect(copied / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'f4a9d0000000'")
    database.close()
    # MLflow keeps a database open for a process, so another one is asked.
    command = [sys.executable, "-m", "dart.cli", "doctor", "--results", str(copied)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    options["cwd"] = Path(__file__).parents[2]
    found = subprocess.run(command, **options)
    assert found.returncode == 1, found.stderr
    assert "mlflow_unusable" in found.stdout
    assert "Traceback" not in found.stderr
    mended = subprocess.run([*command, "--mend"], **options)
    assert mended.returncode == 0, mended.stderr
    assert "mended: mlflow_unusable" in mended.stdout
    assert (copied / "damaged" / "mlflow.db.0").exists()
    assert subprocess.run(command, **options).stdout.endswith("nothing is wrong\n")


def _logged(results: Path) -> dict[str, Any]:
    """Return all that MLflow tells of a study, under names that do not depend on its ids."""
    client = MlflowClient(database_uri(results))
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.data.tags.get("dart.key", "study") for run in runs}
    assert len(set(names.values())) == len(runs)
    content = {}
    for run in runs:
        tags = dict(run.data.tags)
        if parent := tags.get("mlflow.parentRunId"):
            tags["mlflow.parentRunId"] = names[parent]
        history = [
            (m.key, m.step, m.value)
            for name in run.data.metrics
            for m in client.get_metric_history(run.info.run_id, name)
        ]
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        content[names[run.info.run_id]] = {
            "status": run.info.status,
            "name": run.info.run_name,
            "end": run.info.end_time if "dart.key" in tags else None,
            "params": run.data.params,
            "tags": {k: v for k, v in tags.items() if k not in ("mlflow.user",)},
            "history": sorted(history),
            "files": files,
        }
    return content


def test_a_lost_database_is_rebuilt_whole(tracked: Path, copied: Path) -> None:
    assert sync_study(read_study(copied, "toy")) == 16
    rebuilt = _logged(copied)
    assert rebuilt == _logged(tracked)
    sync_study(read_study(copied, "toy"))  # a second time adds nothing but the summary's time
    again = _logged(copied)
    for content in (rebuilt, again):
        content["study"].pop("history")
    assert again == rebuilt


def test_a_study_that_runs_is_not_synced(copied: Path) -> None:
    from dart.studies.lock import lock_study

    study = read_study(copied, "toy")
    with lock_study(study.folder), pytest.raises(UserError, match="already running here"):
        sync_study(study)


def test_the_champion_follows_its_rule(tracked: Path, tmp_path: Path) -> None:
    study = read_study(tracked, "toy")
    champion = find_champion(study)
    assert champion.cell["trial"] == 1  # rank 4, gate 1: the best on the target
    # Of three seeds whose errors rise with the seed, the median one.
    assert champion.cell["seed"] == 1
    assert champion.candidates == 4
    # A rank of 4 changes 0.0004 of 0.1, a rank of 8 changes 0.0008.
    assert find_champion(study, max_forgetting=0.005).candidates == 2
    with pytest.raises(UserError, match=r"every choice forgets more than 0.001 .*; the least is"):
        find_champion(study, max_forgetting=0.001)

    folder = export_champion(champion, tmp_path / "champion")
    assert (folder / "adapter.safetensors").read_bytes() == b"adapter.safetensors"
    card = (folder / "README.md").read_text()
    assert "| rooms_fisheye | target | 0.4000 | 0.2910 |" in card
    assert '{"rank": 4' in card
    with pytest.raises(UserError, match="is there already"):
        export_champion(champion, tmp_path / "champion")

    version = register_champion(tracked, "toy", champion.cell["key"])
    assert register_champion(tracked, "toy", champion.cell["key"]) == version
    client = MlflowClient(database_uri(tracked), registry_uri=database_uri(tracked))
    alias = client.get_model_version_by_alias("dart-toy", "champion")
    assert alias.run_id
    assert client.get_run(alias.run_id).data.tags["dart.key"] == champion.cell["key"]


def test_a_study_without_a_finished_run_has_no_champion(tmp_path: Path) -> None:
    run_toy(write_study(tmp_path, "variants: {broken: {}}"), tmp_path)
    with pytest.raises(UserError, match="no run with an adapter has finished yet"):
        find_champion(read_study(tmp_path, "toy"))


def test_sync_takes_one_study_or_all(tracked: Path) -> None:
    from dart.commands.study_tools import sync

    for study, every in ((None, False), ("toy", True)):
        options = Namespace(study=study, all=every, results=tracked, tracking_uri=None)
        with pytest.raises(UserError, match="give one study, or --all"):
            sync(options)
