"""The results folder: what is in it is complete, whatever stops the process that writes it.

A run is written into a folder whose name starts with ``.tmp-`` and becomes visible by one rename.
"""

import errno
import os
import re
import shutil
import socket
import uuid
from pathlib import Path

from dart.errors import UserError
from dart.studies.records import KEY_LENGTH, read_result, run_folder


def prepare_results(results: Path, study: str) -> Path:
    """Create the folders of a study and return the study's own.

    Raises:
        UserError: If something cannot be written there.
    """
    folder = results / "studies" / study
    try:
        for path in (results / "runs", folder):
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise cannot_write(results, error) from None
    return folder


def cannot_write(results: Path, error: OSError) -> UserError:
    """Return the error for a results folder that refuses a write."""
    reason = (error.strerror or type(error).__name__).lower()
    at = f" ({error.filename})" if error.filename else ""
    return UserError(
        f"results folder '{results}' cannot be written: {reason}{at}; "
        "choose another with --results or DART_RESULTS"
    )


def full_disk(path: Path) -> OSError:
    """Return the error of a write that found no room."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that it holds either its old or its new content, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def open_run(results: Path, key: str) -> Path:
    """Create and return the folder in which this process prepares the run of a key."""
    folder = results / "runs" / f".tmp-{key[:KEY_LENGTH]}-{owner_tag()}"
    # Process numbers come again, in containers at once: what stands there is not ours.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def commit_run(prepared: Path, results: Path, key: str) -> Path:
    """Make a prepared run visible and return its folder.

    The record of a failed run gives way. If another process finished the same run meanwhile, its
    record stays and ours is dropped.
    """
    final = run_folder(results, key)
    for path in prepared.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(prepared)
    discard_failed(results, key)
    try:
        os.rename(prepared, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(prepared)
    _sync_folder(final.parent)
    return final


def discard_failed(results: Path, key: str) -> None:
    """Remove the record of a run if it is that of a failure."""
    result = read_result(results, key)
    if result is not None and result["status"] == "failed":
        old = results / "runs" / f".tmp-{key[:KEY_LENGTH]}-old-{owner_tag()}"
        os.rename(run_folder(results, key), old)
        shutil.rmtree(old)


def describe_files(folder: Path) -> dict[str, int]:
    """Return name -> bytes of every file of a run but its record, which will hold this."""
    return {
        path.name: path.stat().st_size
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "result.json"
    }


def owner_tag() -> str:
    """Return machine and process number: folders may be shared between machines."""
    machine = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
    return f"{machine}-{os.getpid()}"


def clean_stale(results: Path) -> None:
    """Remove what processes of this machine that no longer live left half-written."""
    for path in find_stale(results):
        shutil.rmtree(path, ignore_errors=True)


def find_stale(results: Path) -> list[Path]:
    """Return the half-written runs of processes of this machine that no longer live."""
    machine = owner_tag().rpartition("-")[0]
    stale = []
    for path in sorted((results / "runs").glob(".tmp-*")):
        match = re.search(r"-([^-]+)-(\d+)$", path.name)
        if match and match[1] == machine and not is_alive(int(match[2])):
            stale.append(path)
    return stale


def is_alive(pid: int) -> bool:
    """Say whether a process other than this one lives."""
    if pid == os.getpid():
        return False  # we have written nothing yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
