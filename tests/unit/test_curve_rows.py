"""Rows written beside MLflow are what MLflow itself would have written."""

import math
import shutil
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy.exc import SQLAlchemyError

from dart.curve_rows import Row, split_last, takes_rows, write_rows
from dart.tracking import database_uri

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROWS: list[Row] = [
    *(("train/loss", 1 / (step + 1), 1000, step) for step in range(200)),
    *(("train/rate", 0.5, 1000, step) for step in range(3)),
    ("target/abs_rel_after", 1e-310, 1000, 0),
    ("big", 1.7e308, 2**40, 2**40),
]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = database_uri(tmp_path_factory.mktemp("rows"))
    MlflowClient(uri).search_experiments()
    return uri


def _content(
    client: MlflowClient, run: str
) -> tuple[dict[str, float], dict[str, list[tuple[int, int, float]]]]:
    latest = client.get_run(run).data.metrics
    names = {name for name, *_ in ROWS}
    histories = {
        name: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run, name))
        for name in names
    }
    return latest, histories


def _log(client: MlflowClient, run: str, rows: list[Row]) -> None:
    client.log_batch(run, [Metric(*row) for row in rows])


def test_mlflow_reads_the_same_as_of_its_own(uri: str) -> None:
    client = MlflowClient(uri)
    own, ours = (client.create_run("0").info.run_id for _ in range(2))
    _log(client, own, ROWS)
    for _ in range(2):  # a second attempt after a kill writes nothing twice
        earlier, last = split_last(ROWS)
        write_rows(uri, ours, earlier)
        _log(client, ours, last)
    assert _content(client, ours) == _content(client, own)
    assert len(client.get_metric_history(ours, "train/loss")) == 200


def test_what_was_cut_off_before_the_last_values_is_completed(uri: str) -> None:
    client = MlflowClient(uri)
    run = client.create_run("0").info.run_id
    earlier, last = split_last(ROWS)
    write_rows(uri, run, earlier[:77])
    assert client.get_run(run).data.metrics == {}
    write_rows(uri, run, earlier)
    _log(client, run, last)
    assert len(client.get_metric_history(run, "train/loss")) == 200
    assert client.get_run(run).data.metrics["train/loss"] == 1 / 200


def test_rows_of_no_run_are_refused_as_a_whole(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(uri.removeprefix("sqlite:///"), path)
    (before,) = _count(path)
    with pytest.raises(SQLAlchemyError):  # SQLite takes NaN for a value that is missing
        write_rows(f"sqlite:///{path}", "run", [*ROWS[:3], ("x", math.nan, 0, 0)])
    assert _count(path) == (before,)


def _count(path: Path) -> tuple[int]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return tuple(connection.execute(sqlalchemy.text("select count(*) from metrics")).one())


rows = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(-3, 3).map(float),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(rows)
def test_splitting_loses_no_row_and_keeps_the_latest_of_every_name(rows: list[Row]) -> None:
    earlier, last = split_last(rows)
    assert sorted([*earlier, *last]) == sorted(rows)
    names = {name for name, *_ in rows}
    assert {name for name, *_ in last} == names
    assert len(last) == len(names)
    for name, value, moment, step in last:
        others = [(r[3], r[2], r[1]) for r in rows if r[0] == name]
        assert (step, moment, value) == max(others)


def test_a_server_gets_its_numbers_by_mlflow() -> None:
    assert takes_rows("sqlite:////tmp/mlflow.db")
    assert takes_rows("postgresql+psycopg://me@host/db")
    assert not takes_rows("http://host:5000")
