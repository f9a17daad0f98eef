"""``dart ui``: MLflow's pages of a study, on this machine only, opened at a ready-made view."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dart.analysis.records import open_study
from dart.analysis.tables import read_records
from dart.commands.common import results_folder
from dart.errors import UserError
from dart.stores import SERVERS, check_store
from dart.tracking import database_uri
from dart.views import View, write_view

HOST = "127.0.0.1"
START_SECONDS = 120
"""A loaded machine takes half a minute to import MLflow's server."""
STOP_SECONDS = 10


def ui(options: Namespace) -> int:
    """Serve a study's runs until interrupted; with a server's address only say where to look."""
    uri = options.tracking_uri
    if uri is not None:
        uri = check_store("--tracking-uri", uri, servers=True)
    results = results_folder(options).absolute()
    study = open_study(options.study, results=results, tracking_uri=uri)
    read_records(study)
    name, metric = study.record.study, study.record.metric
    keys = {cell.key for cell in study.record.cells}
    view = write_view(results, name, metric=metric, keys=keys, uri=uri)
    if uri is not None and uri.startswith(SERVERS):
        _show(view, uri, open_it=not options.no_browser)
        return 0
    port = _choose_port(options.port)
    # A shell lets what it starts in the background ignore an interrupt.
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.default_int_handler)
    try:
        with _serve(uri or database_uri(results), port, results) as process:
            _show(view, f"http://{HOST}:{port}", open_it=not options.no_browser)
            sys.stdout.write("Ctrl-C stops the server.\n")
            sys.stdout.flush()
            code = process.wait()
        raise UserError(f"the MLflow server on port {port} ended by itself with status {code}")
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")
        return 0


def _show(view: View, server: str, *, open_it: bool) -> None:
    link = view.link(server)
    sys.stdout.write(f"{link}\n")
    sys.stdout.write(f"if no chart appears there: {view.compare_link(server)}\n")
    sys.stdout.flush()
    if open_it and _has_screen():
        webbrowser.open(link)


def _has_screen() -> bool:
    """Return whether a window can open; elsewhere ``webbrowser`` may start one in the terminal."""
    return sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _choose_port(wanted: int) -> int:
    """Return the wanted port, or a free one if something else listens there.

    Raises:
        UserError: It is no number of a port, or not allowed.
    """
    if not 1 <= wanted <= 65535:
        raise UserError(f"--port {wanted}: must be between 1 and 65535")
    if _is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        chosen = probe.getsockname()[1]
    sys.stderr.write(f"port {wanted} is in use; taking {chosen}\n")
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a port that was left moments ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise UserError(f"--port {port}: this user may not listen there") from None
        except OSError:
            return False
    return True


@contextmanager
def _serve(store: str, port: int, results: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server; when this ends, none of its processes is left."""
    environment = {
        **os.environ,
        # Given here and not as an argument, because an address may hold a password.
        "MLFLOW_BACKEND_STORE_URI": store,
        # Without these it starts eleven processes and takes 2 GB.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--default-artifact-root", str(results / "mlartifacts")]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            _wait_until_up(process, port, log)
            yield process
        finally:
            _stop(process)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    for _ in range(START_SECONDS * 5):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    raise UserError(f"the MLflow server did not start on port {port}: {lines[-1][:300]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
