"""Training curves, written into the tables of MLflow's database with one statement.

MLflow builds an object for every number and orders them all, which takes most of a second of the
processor for 20 metrics of 200 steps. Only rows of ``metrics`` are written here; the last value of
each metric goes through MLflow, which keeps what it shows in tables of its own. MLflow's version is
pinned, and it refuses a database whose tables are of another.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    NullPool,
    String,
    column,
    create_engine,
    table,
)
from sqlalchemy.dialects import postgresql, sqlite

Row = tuple[str, float, int, int]
"""Name, value, time stamp in milliseconds and step."""
METRICS = table(
    "metrics",
    column("run_uuid", String(32)),
    column("key", String(250)),
    column("value", Float(precision=53)),
    column("timestamp", BigInteger),
    column("step", BigInteger),
    column("is_nan", Boolean),
)
INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Kinds of databases, and how a row that is there already is passed over."""
PATIENCE = 60
"""Seconds to wait for another process that writes to the same SQLite file."""


def takes_rows(uri: str) -> bool:
    """Say whether an address is that of a database, not of a server."""
    return _kind(uri) in INSERTS


def _kind(uri: str) -> str:
    return uri.partition("://")[0].partition("+")[0]


def split_last(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows that a later one of the same name follows, and the last of every name."""
    earlier: list[Row] = []
    last: dict[str, Row] = {}
    for row in rows:
        name, value, moment, step = row
        known = last.setdefault(name, row)
        if known is row:
            continue
        # As MLflow tells which of two values is the later one.
        is_later = (step, moment, value) > (known[3], known[2], known[1])
        earlier.append(known if is_later else row)
        last[name] = row if is_later else known
    return earlier, list(last.values())


def write_rows(uri: str, run: str, rows: Sequence[Row]) -> None:
    """Write rows of a run, all or none; those that are there already stay as they are.

    Args:
        uri: The database's address.
        run: MLflow's identity of the run.
        rows: Of finite values.

    Raises:
        SQLAlchemyError: The database does not take them.
    """
    if not rows:
        return
    kind = _kind(uri)
    options = {"timeout": PATIENCE} if kind == "sqlite" else {}
    engine = create_engine(uri, poolclass=NullPool, connect_args=options)
    names = ("key", "value", "timestamp", "step")
    content = [
        {"run_uuid": run, "is_nan": False, **dict(zip(names, row, strict=True))} for row in rows
    ]
    with engine.begin() as connection:
        connection.execute(INSERTS[kind](METRICS).on_conflict_do_nothing(), content)
