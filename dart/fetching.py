"""A study read back from MLflow: its records as a results folder, wherever it was run.

The copy lies in the user's cache and holds what the analysis reads and nothing else. A run that
was fetched is fetched again only if it was logged anew.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

# MLflow reads these when it is used: nothing leaves the machine, and a server that goes away is
# not asked for minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from dart.errors import UserError, did_you_mean
from dart.stores import check_store, hide_password

WANTED = ("result.json", "per_image.parquet")
KEY_LENGTH = 16
"""Characters of a run's key that name its folder."""
PAGE = 1000
AT_ONCE = 8


def fetch_study(name: str, *, tracking_uri: str, cache: Path | None = None) -> Path:
    """Return the folder of a study in a copy of its results, read from MLflow.

    Args:
        name: The study's, which is the experiment's.
        tracking_uri: A database's or a server's address.
        cache: Where the copy goes; ``$DART_CACHE``, else ``~/.cache/dart``, unless given.

    Raises:
        UserError: Nothing answers at the address, or it has no such study.
    """
    where = f"--tracking-uri {hide_password(tracking_uri)}"
    _check_database_file(where, tracking_uri)
    uri = check_store("--tracking-uri", tracking_uri, servers=True)
    root = cache or Path(os.environ.get("DART_CACHE") or Path.home() / ".cache" / "dart")
    results = root / "mlflow" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    try:
        client = MlflowClient(uri, registry_uri=uri)
        parent, children = _find(client, name, where)
        _fetch_all(client, children, results)
        folder = results / "studies" / name
        with _arriving(folder) as partial:
            _download(client, parent, "cells.json", partial, where)
    except (MlflowException, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: study {name!r} cannot be read: {text}") from None
    return folder


def _check_database_file(where: str, uri: str) -> None:
    """Refuse a file that is not there: opening it would make an empty database."""
    if uri.startswith("sqlite:"):
        path = Path(urlsplit(uri).path.removeprefix("/"))
        if not path.is_file():
            raise UserError(f"{where}: there is no database {path}")


def _find(client: MlflowClient, name: str, where: str) -> tuple[Run, dict[str, Run]]:
    """Return a study's own run, and its runs by key."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = [found.name for found in client.search_experiments() if found.name != "Default"]
        has = ", ".join(sorted(known)) or "none"
        raise UserError(f"{where}: no study {name!r}; it has: {has}{did_you_mean(name, known)}")
    parents: list[Run] = []
    children: dict[str, Run] = {}
    for run in _all_runs(client, experiment.experiment_id):
        kind = run.data.tags.get("dart.kind")
        if kind == "study":
            parents.append(run)
        elif "dart.logged" in run.data.tags:
            children[run.data.tags["dart.key"]] = run
    if not parents:
        raise UserError(f"{where}: experiment {name!r} is not a study of dart")
    return min(parents, key=lambda run: run.info.start_time), children


def _all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], run_view_type=ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _fetch_all(client: MlflowClient, children: Mapping[str, Run], results: Path) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [
            pool.submit(_fetch_run, client, run, results / "runs" / key[:KEY_LENGTH])
            for key, run in children.items()
        ]
        for job in jobs:
            job.result()


def _fetch_run(client: MlflowClient, run: Run, folder: Path) -> None:
    logged = run.data.tags["dart.logged"]
    mark = folder / "logged"
    if mark.is_file() and mark.read_text() == logged:
        return
    with _arriving(folder) as partial:
        there = {entry.path for entry in client.list_artifacts(run.info.run_id)}
        for name in WANTED:
            if name in there:
                client.download_artifacts(run.info.run_id, name, str(partial))
        (partial / "logged").write_text(logged)


def _download(client: MlflowClient, run: Run, name: str, folder: Path, where: str) -> None:
    if name not in {entry.path for entry in client.list_artifacts(run.info.run_id)}:
        raise UserError(f"{where}: the study has no {name} yet; it is logged when a launch ends")
    client.download_artifacts(run.info.run_id, name, str(folder))


@contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """Fill a folder beside its place and put it there whole."""
    partial = folder.with_name(f".tmp-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            old = folder.with_name(f".tmp-{uuid.uuid4().hex}")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        partial.rename(folder)
    except FileNotFoundError:
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
