"""MLflow's copy of a study, on real SQLite: complete, truthful and never written twice."""

import itertools
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dart.errors import UserError
from dart.studies.asha import read_rows
from dart.studies.records import run_folder
from dart.tracked_rows import final_metrics, read_history
from dart.tracking import StudyTracker, database_uri
from tests.helpers.study_engine import FakeRun, run_toy, write_study

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 will take away; its users do not see the warning.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

STUDY = "question: Why?\nvariants: {tuned: {rank: [4, 8]}, broken: {}}\nbaseline: tuned\n"


def _runs(results: Path, name: str = "toy") -> tuple[Run, dict[str, Run]]:
    """Return the parent and the children by variant and trial."""
    client = MlflowClient(database_uri(results))
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["dart.kind"] == "study"]
    children = [run for run in runs if run.data.tags["dart.kind"] == "run"]
    named = {f"{r.data.tags['dart.variant']} {r.data.tags['dart.trial']}": r for r in children}
    assert len(named) == len(children)
    return parent, named


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database without runs; making one takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("empty")
    MlflowClient(database_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def tracked(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of a study that was run once."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(empty_database, folder)
    run_toy(write_study(folder, STUDY), folder, track=True)
    return folder


@pytest.fixture
def results(empty_database: Path, tmp_path: Path) -> Path:
    """Return a results folder of its own for one test."""
    shutil.copy(empty_database, tmp_path)
    return tmp_path


def test_every_cell_is_a_child_of_the_study(tracked: Path) -> None:
    parent, children = _runs(tracked)
    assert sorted(children) == ["broken 0", "tuned 0", "tuned 1", "zero_shot 0"]
    for run in children.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["dart.study"] == "toy"
        assert run_folder(tracked, run.data.tags["dart.key"]).is_dir()
    status = {name: run.info.status for name, run in children.items()}
    assert status == {
        "broken 0": "FAILED",
        "tuned 0": "FINISHED",
        "tuned 1": "FINISHED",
        "zero_shot 0": "FINISHED",
    }
    assert children["broken 0"].data.tags["dart.reason"] == "RuntimeError: the loss is not finite"
    assert parent.info.status == "FAILED"
    assert parent.data.tags["dart.question"] == "Why?"
    assert parent.data.metrics["runs_finished"] == 3
    assert parent.data.metrics["adaptation/tuned"] == pytest.approx(0.1)
    assert parent.data.metrics["forgetting/zero_shot"] == 0


def test_a_run_has_its_parameters_metrics_history_and_files(tracked: Path) -> None:
    client = MlflowClient(database_uri(tracked))
    run = _runs(tracked)[1]["tuned 1"]
    assert run.data.params["hyperparameters.rank"] == "8"
    assert run.data.params["training.trainable"] == "adapters, decoder, scale_head"
    assert run.data.params["protocol.target"] == "rooms_fisheye"
    record = json.loads(
        (run_folder(tracked, run.data.tags["dart.key"]) / "result.json").read_text()
    )
    for name in ("adaptation", "forgetting", "wall_seconds", "trainable_parameters"):
        assert run.data.metrics[name] == record[name]
    assert run.data.metrics["target/abs_rel_after"] == record["target_after"]
    assert run.data.metrics["source/rooms_pinhole/abs_rel_before"] == record["source_before"]
    assert "seed" not in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(s, 1.0 / (s + 1)) for s in range(5)]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"predictions.png", "per_image.parquet", "adapter.safetensors", "result.json"}
    assert (tracked / "mlartifacts").is_dir()
    failed = _runs(tracked)[1]["broken 0"].info.run_id
    assert {f.path for f in client.list_artifacts(failed)} == {"result.json", "traceback.txt"}


def _count_rows(results: Path) -> dict[str, int]:
    with sqlite3.connect(results / "mlflow.db") as database:
        counts = {
            table: database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("runs", "metrics", "params", "experiments")
        }
    database.close()
    return counts


def test_running_again_logs_nothing_twice_and_a_lost_database_comes_back(
    results: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_study(results, STUDY)
    run_toy(path, results, track=True)
    first = _count_rows(results)
    before = {name: run.data.metrics for name, run in _runs(results)[1].items()}
    run_toy(path, results, track=True)
    again = _count_rows(results)
    summary = len(_runs(results)[0].data.metrics)
    assert again == {**first, "metrics": again["metrics"]}
    assert again["metrics"] - first["metrics"] <= summary  # the parent's, with a new time

    # MLflow keeps a database open, so the loss is played in a copy without it.
    copy = tmp_path_factory.mktemp("copy")
    for name in ("runs", "studies"):
        shutil.copytree(results / name, copy / name)
    shutil.copy(empty_database, copy)
    calls = FakeRun()
    run_toy(path, copy, calls, track=True)
    assert calls.calls == []
    assert {name: run.data.metrics for name, run in _runs(copy)[1].items()} == before


def test_an_interrupted_run_is_killed_and_later_the_same_run_finishes(results: Path) -> None:
    class Stopped(FakeRun):
        def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(*arguments, **options)

    path = write_study(results, "variants: {tuned: {rank: [4, 8]}}")
    with pytest.raises(KeyboardInterrupt):
        run_toy(path, results, Stopped(), track=True)
    parent, children = _runs(results)
    assert parent.info.status == "KILLED"
    assert children["tuned 1"].info.status == "KILLED"
    identity = children["tuned 1"].info.run_id
    run_toy(path, results, track=True)
    parent, children = _runs(results)
    assert parent.info.status == children["tuned 1"].info.status == "FINISHED"
    assert children["tuned 1"].info.run_id == identity


def test_a_run_whose_process_died_is_closed_as_killed(results: Path) -> None:
    cell = {"key": "k", "variant": "plain", "seed": 0, "trial": 0}
    recipe = {"variant": "plain", "seed": 0, "hyperparameters": {}, "training": {}, "protocol": {}}
    StudyTracker(results, "toy", about={}).start(cell, recipe)
    assert _runs(results)[1]["plain 0"].info.status == "RUNNING"
    StudyTracker(results, "toy", about={})
    assert _runs(results)[1]["plain 0"].info.status == "KILLED"


def test_a_retried_run_loses_its_old_reason(results: Path) -> None:
    class Broken(FakeRun):
        def _say(self, label: str) -> None:
            raise RuntimeError(label)

    path = write_study(results, "variants: {plain: {}}")
    run_toy(path, results, Broken(), track=True)
    assert _runs(results)[1]["plain 0"].info.status == "FAILED"
    run_toy(path, results, track=True, retry_failed=True)
    parent, children = _runs(results)
    assert parent.info.status == children["plain 0"].info.status == "FINISHED"
    assert "dart.reason" not in children["plain 0"].data.tags
    assert children["plain 0"].data.metrics["adaptation"] > 0


def test_a_database_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, only text" * 99)
    run = FakeRun()
    with pytest.raises(UserError, match=r"mlflow\.db: MLflow cannot use it: .*move it away"):
        run_toy(write_study(tmp_path, STUDY), tmp_path, run, track=True)
    assert run.calls == []


def test_a_tracker_that_fails_does_not_stop_the_study(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("database is\nlocked")

    path = write_study(results, "variants: {plain: {}}")
    with monkeypatch.context() as patch:
        patch.setattr(StudyTracker, "sync", fail)
        assert run_toy(path, results, track=True).failed == []
    warning = "warning: not logged to MLflow: RuntimeError: database is locked; run the study again"
    assert warning in capsys.readouterr().err
    run_toy(path, results, track=True)
    assert _runs(results)[1]["plain 0"].info.status == "FINISHED"


def test_what_a_failing_call_left_half_logged_is_made_whole_in_the_same_study(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()
    log_batch = MlflowClient.log_batch

    def fail_once(self: MlflowClient, run: str, metrics: Any = (), **content: Any) -> None:
        if metrics and next(calls) == 0:
            raise RuntimeError("the server went away")
        log_batch(self, run, metrics, **content)

    path = write_study(results, "variants: {plain: {}}")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", fail_once)
        run_toy(path, results, track=True)
    assert capsys.readouterr().err.count("warning: not logged to MLflow") == 1
    disturbed = _runs(results)[1]
    assert {run.info.status for run in disturbed.values()} == {"FINISHED"}
    run_toy(path, results, track=True)  # and nothing is left to be logged
    undisturbed = write_study(results, "variants: {plain: {}}", name="other")
    (results / "studies" / "toy").rename(results / "studies" / "gone")
    run_toy(undisturbed, results, track=True)
    for name, run in _runs(results, "other")[1].items():
        assert disturbed[name].data.metrics == run.data.metrics
        assert disturbed[name].data.params == run.data.params


def test_the_area_of_a_search_is_logged_as_it_grows(results: Path) -> None:
    factors = "{rank: {low: 2, high: 64}, gate: {low: 0.0, high: 1.0}}"
    text = f"sampler: random\nvariants: {{tuned: {factors}}}\nbudget: {{trials: 6, seeds: [0]}}"
    path = write_study(results, text)
    run_toy(path, results, track=True)
    rows = read_rows(results / "studies" / "toy" / "hypervolume.jsonl")
    client = MlflowClient(database_uri(results))
    history = client.get_metric_history(_runs(results)[0].info.run_id, "hypervolume/tuned")
    assert [(m.step, m.value) for m in history] == [(r["trial"], r["hypervolume"]) for r in rows]
    assert len({m.value for m in history}) > 1


def test_numbers_that_are_not_finite_are_absent() -> None:
    result = {"seed": 1, "adaptation": float("inf"), "forgetting": 0.5, "status": "finished"}
    assert dict(final_metrics(result)) == {"forgetting": 0.5}


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    steps = range(1000)
    frame = pd.DataFrame({"step": steps, "loss": [float(s * s) for s in steps]})
    frame.to_parquet(tmp_path / "history.parquet")
    points = list(read_history(tmp_path))
    assert len(points) == 200
    assert points[0] == ("train/loss", 0.0, 0)
    assert points[-1] == ("train/loss", 999.0**2, 999)
    shown = [step for _, _, step in points]
    assert shown == sorted(set(shown))
    assert max(b - a for a, b in itertools.pairwise(shown)) <= 6
    assert all(value == step**2 for _, value, step in points)
