"""Addresses of databases and servers, checked before any work is done on their account."""

import importlib.util
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from dart.errors import UserError, did_you_mean

SECONDS = 5
"""How long a server may take to answer at all."""
DATABASES = ("sqlite", "postgresql")
SERVERS = ("http", "https")


def hide_password(url: str) -> str:
    """Return an address that may be shown.

    >>> hide_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def check_store(option: str, url: str, *, servers: bool = False) -> str:
    """Return the address as SQLAlchemy or MLflow takes it, once something there has answered.

    Args:
        option: What the user calls it, as ``--storage``.
        url: A database, as ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        servers: Whether the address of an MLflow server is allowed too.

    Raises:
        UserError: It is no such address, or nothing answers there.
    """
    where = f"{option} {hide_password(url)}"
    kind = url.partition("://")[0].partition("+")[0]
    allowed = (*DATABASES, *SERVERS) if servers else DATABASES
    if "://" not in url or kind not in allowed:
        shown = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE"
        shown += ", http://HOST:PORT" if servers else ""
        nearest = did_you_mean(kind, allowed)
        raise UserError(f"{where}: not an address of a store; allowed: {shown}{nearest}")
    if kind in SERVERS:
        _check_server(where, url)
        return url.rstrip("/")
    if kind == "postgresql":
        if importlib.util.find_spec("psycopg") is None:
            raise UserError(f"{where}: needs psycopg; install it with: pip install psycopg[binary]")
        url = "postgresql+psycopg://" + url.partition("://")[2]
    else:
        _check_file(where, url)
    _check_database(where, url, kind)
    return url


def _check_server(where: str, url: str) -> None:
    if not urlsplit(url).hostname:
        raise UserError(f"{where}: names no host; expected http://HOST:PORT")
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/version", timeout=SECONDS) as answer:
            version = answer.read(100).decode(errors="replace").strip()
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{where}: no MLflow server answers there: {_one_line(reason)}") from None
    if not re.fullmatch(r"\d+\.\d+\S*", version):
        raise UserError(f"{where}: what answers there is no MLflow server")


def _check_file(where: str, url: str) -> None:
    folder = Path(urlsplit(url).path.removeprefix("/")).parent
    if not folder.is_dir():
        raise UserError(f"{where}: there is no folder {folder}")


def _check_database(where: str, url: str, kind: str) -> None:
    # SQLAlchemy comes with Optuna and MLflow, and takes a moment to import.
    import sqlalchemy  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    options = {"connect_timeout": SECONDS} if kind == "postgresql" else {"timeout": SECONDS}
    try:
        engine = sqlalchemy.create_engine(url, connect_args=options)
        with engine.connect() as connection:
            # SQLite looks at its file only when it is asked for something in it.
            question = "SELECT 1" if kind == "postgresql" else "SELECT 1 FROM sqlite_master"
            connection.execute(sqlalchemy.text(question))
        engine.dispose()
    except (SQLAlchemyError, ValueError) as error:
        reason = getattr(error, "orig", None) or error
        raise UserError(f"{where}: cannot be used: {_one_line(reason)}") from None


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
