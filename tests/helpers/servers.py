"""A real PostgreSQL and a real MLflow server, for the length of a test module."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO


class Unavailable(Exception):
    """What a test needs is not installed here."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    if path := shutil.which("initdb"):
        return Path(path).parent
    raise Unavailable("PostgreSQL is not installed")


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a server of one's own and yield the address of its database ``postgres``.

    Raises:
        Unavailable: It is not installed, or cannot be started here.
    """
    binaries, port = _binaries(), free_port()
    # Not in pytest's folder, which other users cannot enter: it refuses to run as root.
    with TemporaryDirectory(prefix="dart-postgresql-") as name:
        data = Path(name)
        user: str | None = None
        if os.getuid() == 0:
            user = "postgres"
            shutil.chown(data, "postgres")
        with (folder / "postgresql.log").open("w") as log:
            yield from _serve(binaries, data, port, log=log, user=user)


def _serve(
    binaries: Path, data: Path, port: int, *, log: IO[str], user: str | None
) -> Iterator[str]:
    initialise = [binaries / "initdb", "-D", data, "-A", "trust", "-U", "dart", "--no-sync"]
    done = subprocess.run(
        initialise, stdout=log, stderr=subprocess.STDOUT, check=False, cwd="/", user=user
    )
    if done.returncode:
        raise Unavailable(f"initdb: {_tail(log)}")
    command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", "/tmp", "-F"]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd="/", user=user)
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        for _ in range(300):
            if subprocess.run(ready, check=False).returncode == 0:
                break
            if process.poll() is not None:
                raise Unavailable(f"postgres: {_tail(log)}")
            time.sleep(0.2)
        yield f"postgresql://dart:secret@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # fast: SIGTERM waits for every client to leave
        process.wait()


def _tail(log: IO[str]) -> str:
    return Path(log.name).read_text()[-300:]


@contextmanager
def mlflow_server(folder: Path, *, store: str) -> Iterator[str]:
    """Run an MLflow server on a database and yield its address."""
    port = free_port()
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = (folder / "server.log").open("w")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        log.close()
