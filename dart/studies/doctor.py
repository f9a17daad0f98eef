"""What is wrong with a results folder, and how it is mended; nothing is changed unasked.

Records of runs are never deleted: what cannot be read is moved to ``damaged/``.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dart.errors import UserError
from dart.locks import find_holder
from dart.provenance import package_versions
from dart.studies.folders import find_stale, is_alive
from dart.studies.lock import LOCK
from dart.studies.records import check_folder, find_damage
from dart.studies.summary import Written, list_studies, read_study
from dart.studies.sync import sync_study

DECISIVE = ("torch", "timm", "numpy", "opencv-python-headless")
"""Packages whose version can change a number."""
SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    path: Path
    text: str
    mend: Callable[[], None] | None = None
    """None: it is said, and nothing can or need be done about it here."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        shown = {"kind": self.kind, "path": str(self.path), "text": self.text}
        return {**shown, "mendable": self.mend is not None}


def examine(results: Path, *, uri: str | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a results folder.

    A finding's ``mend`` may be called before the next one is asked for, so that what follows is
    judged by what was mended.

    Raises:
        UserError: There is no such folder.
    """
    check_folder(results)
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}")
    yield from _leftovers(results)
    yield from _damaged(results)
    studies = []
    for name in list_studies(results):
        try:
            studies.append(read_study(results, name))
        except UserError as error:
            path = results / "studies" / name / "cells.json"
            yield Finding("unreadable_study", path, str(error))
    for study in studies:
        yield from _states(study)
        yield from _versions(study)
    yield from _tracking(results, studies, uri)


def _remove(path: Path) -> Callable[[], None]:
    def mend() -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    return mend


def _leftovers(results: Path) -> Iterator[Finding]:
    stale = find_stale(results)
    for path in stale:
        text = "half-written by a process that no longer lives"
        yield Finding("orphaned_folder", path, text, _remove(path))
    yesterday = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    for path in sorted(set((results / "runs").glob(".tmp-*")) - set(stale)):
        if path.stat().st_mtime < yesterday:  # by a worker on another machine, most likely
            text = "half-written, and untouched for a day"
            yield Finding("orphaned_folder", path, text, _remove(path))
    probes = [*results.glob("runs/.probe-*"), *results.glob("studies/*/.probe-*")]
    partial = [p for p in results.glob("studies/*/.*.[0-9]*") if _is_dead(p.suffix[1:])]
    for path in sorted(probes + partial):
        yield Finding("leftover", path, "left by a process that died", _remove(path))
    yield from _locks(results)


def _is_dead(owner: str) -> bool:
    return owner.isdigit() and not is_alive(int(owner))


def _locks(results: Path) -> Iterator[Finding]:
    for path in sorted(results.glob(f"studies/*/{LOCK}")):
        owner = path.read_text().strip()
        if _is_dead(owner) and find_holder(path) is None:
            text = f"names process {owner}, which no longer lives; the lock itself is free"
            yield Finding("dead_owner", path, text, lambda path=path: _empty(path))


def _empty(path: Path) -> None:
    path.write_text("")


def _damaged(results: Path) -> Iterator[Finding]:
    horizon = datetime.now(UTC) + SKEW
    for folder in sorted((results / "runs").glob("[!.]*")):
        try:
            record = json.loads((folder / "result.json").read_text())
            if record["status"] not in ("finished", "failed"):
                raise ValueError(f"status {record['status']!r}")
            text = find_damage(folder, record.get("files", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            text = f"{folder / 'result.json'} cannot be read: {reason}"
            record = {}
        if text:
            text += "; moved to damaged/ it is run again"
            yield Finding("damaged_run", folder, text, _move(folder, results / "damaged"))
        ended = record.get("ended")
        if ended and datetime.fromisoformat(ended) > horizon:
            text = f"ended in the future ({ended}): the clock of its machine or of this one is off"
            yield Finding("clock_skew", folder, text)


def _move(path: Path, target: Path) -> Callable[[], None]:
    def mend() -> None:
        target.mkdir(exist_ok=True)
        number = 0
        while (place := target / f"{path.name}.{number}").exists():
            number += 1
        path.rename(place)

    return mend


def _states(study: Written) -> Iterator[Finding]:
    if study.holder() is not None:
        return
    done = {key[:16] for key, record in study.records.items() if record["status"] == "finished"}
    asked = {cell["key"][:16] for cell in study.cells}
    for path in sorted((study.folder / "states").glob("*")):
        if path.name.startswith(".") or path.stem in done or path.stem not in asked:
            text = "the state of a run that is finished or no longer asked for"
            yield Finding("leftover", path, text, _remove(path))


def _versions(study: Written) -> Iterator[Finding]:
    """Say where the runs of one study were made with different software."""
    here = package_versions()
    for package in DECISIVE:
        used: dict[str, int] = {}
        for _, record in study.committed():
            version = record.get("environment", {}).get("versions", {}).get(package)
            if version:
                used[version] = used.get(version, 0) + 1
        if used.keys() - {here.get(package)} or len(used) > 1:
            counts = ", ".join(f"{version} ({runs} runs)" for version, runs in sorted(used.items()))
            text = f"{package}: its runs were made with {counts}; here is {here.get(package)}"
            yield Finding("versions", study.folder, text)


def _tracking(results: Path, studies: list[Written], uri: str | None) -> Iterator[Finding]:
    database = results / "mlflow.db"
    if uri is None and not database.exists():
        if any(study.records for study in studies):
            text = "MLflow's database is gone; it is written anew from the run folders"
            yield Finding("no_mlflow", database, text, lambda: _sync_all(studies, uri))
        return
    # MLflow takes two seconds to import.
    from dart.tracking import database_uri, describe_refusal, read_statuses  # noqa: PLC0415

    for study in studies:
        if study.holder() is not None:
            continue
        try:
            known = read_statuses(uri or database_uri(results), study.name)
        except Exception as error:
            mend = None if uri else lambda: _rebuild(database)
            yield Finding("mlflow_unusable", database, describe_refusal(results, uri, error), mend)
            return
        yield from _compare(study, known, uri)


def _compare(study: Written, known: dict[str, str], uri: str | None) -> Iterator[Finding]:
    wanted = {"finished": "FINISHED", "failed": "FAILED"}
    zombies = [key for key, status in known.items() if status == "RUNNING"]
    wrong = [
        key
        for key, record in study.records.items()
        if known.get(key) != wanted[record["status"]] and key not in zombies
    ]

    def mend() -> None:
        sync_study(study, uri=uri)

    if zombies:
        text = f"{len(zombies)} of its runs are RUNNING in MLflow, and no process is at work"
        yield Finding("zombie_runs", study.folder, text, mend)
    if wrong:
        text = f"{len(wrong)} of its runs are missing in MLflow or have another status there"
        yield Finding("out_of_step", study.folder, text, mend)


def _sync_all(studies: list[Written], uri: str | None) -> None:
    for study in studies:
        if study.records:
            sync_study(study, uri=uri)


def _rebuild(database: Path) -> None:
    """Move a database away and write it anew.

    Raises:
        UserError: It cannot be written.
    """
    _move(database, database.parent / "damaged")()
    # A process of its own: MLflow keeps its hands on a database that it once opened.
    command = [sys.executable, "-m", "dart.cli", "sync", "--all", "--results"]
    done = subprocess.run(
        [*command, str(database.parent)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: ") or "dart sync failed")
