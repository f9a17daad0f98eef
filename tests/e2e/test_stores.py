"""The same study with a real PostgreSQL and a real MLflow server; wrong addresses in a line."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from dart.errors import UserError
from dart.stores import check_store, hide_password
from dart.studies.summary import read_study
from tests.helpers.servers import Unavailable, free_port, mlflow_server, postgresql
from tests.helpers.study_engine import FakeRun, run_toy, write_study
from tests.helpers.study_process import StudyProcess

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:DeprecationWarning",
    # A server's client leaves its pooled sockets to the garbage collector.
    "ignore:unclosed:ResourceWarning",
)
ROOT = Path(__file__).parents[2]
SEARCH = """\
variants: {tuned: {rank: {low: 2, high: 64, log: true}, gate: {low: 0.0, high: 1.0}}, plain: {}}
baseline: plain
budget: {trials: 5, seeds: [0, 1]}
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a PostgreSQL of our own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install psycopg[binary]")
    try:
        with postgresql(tmp_path_factory.mktemp("pg")) as url:
            yield url
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def storage(database: str) -> str:
    """Return the address of another database there: Optuna and MLflow cannot share one."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create database optuna")
    return re.sub(r"/postgres$", "/optuna", database)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an MLflow server that keeps its runs in PostgreSQL."""
    store = check_store("--tracking-uri", database)
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), store=store) as url:
        yield url


def _statuses(uri: str, name: str) -> list[str]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags.get("dart.key") for run in runs}) == len(runs)
    return sorted(run.info.status for run in runs)


def test_a_search_in_postgresql_with_a_server_is_the_same_and_survives_a_stop(
    storage: str, server: str, tmp_path: Path
) -> None:
    plain, remote = tmp_path / "plain", tmp_path / "remote"
    path = write_study(tmp_path, SEARCH)
    run_toy(path, plain)

    class Stopped(FakeRun):
        def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            if len(self.calls) == 6:
                raise KeyboardInterrupt
            return super().__call__(*arguments, **options)

    stores = {"storage": storage, "tracking_uri": server, "track": True}
    with pytest.raises(KeyboardInterrupt):
        run_toy(path, remote, Stopped(), **stores)
    outcome = run_toy(path, remote, **stores)
    assert not outcome.failed
    one, two = (read_study(results, "toy") for results in (plain, remote))
    assert {cell["key"] for cell in one.cells} == {cell["key"] for cell in two.cells}
    assert not (remote / "mlflow.db").exists()
    assert not (remote / "studies" / "toy" / "optuna.db").exists()
    assert _statuses(server, "toy") == ["FINISHED"] * (len(one.cells) + 1)
    store = optuna.storages.RDBStorage(check_store("--storage", storage))
    (summary,) = optuna.get_all_study_summaries(store)
    store.engine.dispose()
    assert summary.n_trials == 6  # five, and the one that was cut off


def test_kills_lose_nothing_in_postgresql_and_a_server(
    storage: str, server: str, tmp_path: Path
) -> None:
    engine = StudyProcess(tmp_path, SEARCH, name="killed")  # other tests know a "toy" there
    flags = (f"--storage={storage}", f"--uri={server}")
    try:
        for runs in (4, 8):
            process = engine.start(*flags, seconds=0.3)
            engine.wait_for_runs(runs)
            process.kill()
            process.communicate()
        engine.finish(*flags)
        engine.check_whole()
    finally:
        engine.stop()
    begun = engine.calls()
    assert len(begun) - len(set(begun)) <= 2  # what was in flight
    assert set(_statuses(server, "killed")) == {"FINISHED"}


def test_tracking_straight_into_postgresql(database: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}, broken: {}}", name="direct")
    run_toy(path, tmp_path, track=True, tracking_uri=database)
    store = check_store("--tracking-uri", database)
    assert _statuses(store, "direct") == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("direct")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`dart.variant` = 'plain'")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history) == [(s, 1.0 / (s + 1)) for s in range(5)]
    assert run.data.metrics["train/loss"] == 0.2


def test_sync_writes_to_a_server_what_was_run_without_one(server: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, "variants: {plain: {}}", name="later")
    run_toy(path, tmp_path)
    command = [sys.executable, "-m", "dart.cli", "sync", "later", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--tracking-uri", server], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert _statuses(server, "later") == ["FINISHED"] * 3


def test_a_database_with_the_tables_of_another_mlflow_is_refused(
    database: str, tmp_path: Path
) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create database older")
    older = re.sub(r"/postgres$", "/older", database)
    with psycopg.connect(older) as connection:
        # What tells MLflow of its schema, with a revision that this one does not expect.
        connection.execute("create table alembic_version (version_num varchar(32) primary key)")
        connection.execute("insert into alembic_version values ('f4a9d0000000')")
    run = FakeRun()
    path = write_study(tmp_path, "variants: {plain: {}}")
    with pytest.raises(UserError, match=r"^--tracking-uri .*dart:\*\*\*@.*another version") as no:
        run_toy(path, tmp_path, run, track=True, tracking_uri=older)
    assert "\n" not in str(no.value)
    assert run.calls == []


def test_an_address_without_a_database_or_user_is_refused(database: str) -> None:
    with pytest.raises(UserError, match=r"/nothing: cannot be used: .*does not exist"):
        check_store("--storage", re.sub(r"/postgres$", "/nothing", database))


@pytest.mark.parametrize(
    ("url", "servers", "text"),
    [
        ("results.db", False, "not an address of a store; allowed: sqlite:///FILE"),
        ("postgres://h/d", False, "did you mean 'postgresql'?"),
        ("http://localhost:1", False, "not an address of a store"),
        ("ftp://localhost", True, "http://HOST:PORT"),
        ("http://:80", True, "names no host"),
        ("http://localhost:1", True, "no MLflow server answers there: "),
        ("sqlite:////nowhere/at/all.db", False, "there is no folder /nowhere/at"),
    ],
)
def test_a_wrong_address_is_one_line(url: str, servers: bool, text: str) -> None:
    with pytest.raises(UserError) as refused:
        check_store("--store", url, servers=servers)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unreachable_database_is_refused_and_its_password_not_shown() -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/d"
    with pytest.raises(UserError, match=r"cannot be used: .*refused") as refused:
        check_store("--storage", url)
    assert "secret" not in str(refused.value)
    assert hide_password(url).startswith("postgresql://me:***@127.0.0.1")


def test_what_answers_but_is_no_mlflow_server_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match="what answers there is no MLflow server"):
            check_store("--tracking-uri", f"http://127.0.0.1:{port}", servers=True)
        thread.join()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, only text" * 99)
    with pytest.raises(UserError, match="cannot be used: file is not a database"):
        check_store("--storage", f"sqlite:///{tmp_path / 'text.db'}")


def test_the_command_refuses_a_wrong_address_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("variants: {none: {}}\n")
    command = [sys.executable, "run_study.py", str(path), "--results", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--storage", "postgres://x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --storage postgres://x: not an address")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
