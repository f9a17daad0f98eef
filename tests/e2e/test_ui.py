"""``dart ui`` as a user starts it: a real MLflow server, looked at in a real browser."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from dart.cli import main
from dart.studies.records import run_folder
from dart.tracking import StudyTracker
from tests.helpers.browser import chromium
from tests.helpers.servers import Unavailable, free_port
from tests.helpers.study_results import FakeRun, adapted, untouched, write_study

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 will take away; its users do not see the warning.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

RUNS = [untouched()] + [
    adapted(variant, gain=0.1 + i / 50 + seed / 500, loss=0.02 + i / 100, seed=seed)
    for i, variant in enumerate(("daa", "gated"))
    for seed in (0, 1)
]
POINTS = {(0.0, 0.0), (0.1, 0.02), (0.102, 0.02), (0.12, 0.03), (0.122, 0.03)}


def _track(results: Path, run: FakeRun, tracker: StudyTracker) -> None:
    folder = run_folder(results, run.key)
    Image.new("RGB", (64, 32), "orange").save(folder / "predictions.png")
    cell = {"key": run.key, "variant": run.variant, "seed": run.seed, "trial": run.trial}
    recipe = {"variant": run.variant, "seed": run.seed}
    recipe |= {"hyperparameters": {}, "training": {}, "protocol": {}}
    record = json.loads((folder / "result.json").read_text())
    gain = 0.40 - run.after["abs_rel"]["wide"]
    record |= {"adaptation": gain, "forgetting": run.after["abs_rel"]["plain"] - 0.10}
    record |= {"ended": "2026-01-01T00:00:00+00:00"}
    tracker.sync(cell, recipe, result=record, folder=folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    gone = adapted("gone", gain=0.3, loss=0.3)
    write_study(folder, [*RUNS, gone])
    tracker = StudyTracker(folder, "toy", about={"question": "Which?"})
    for run in (*RUNS, gone):
        _track(folder, run, tracker)
    tracker.close("FINISHED", summary={})
    # The study is edited: one variant is not asked any more.
    cells = folder / "studies" / "toy" / "cells.json"
    content = json.loads(cells.read_text())
    content["cells"] = [cell for cell in content["cells"] if cell["variant"] != "gone"]
    cells.write_text(json.dumps(content))
    return folder


@contextmanager
def _serving(results: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the command and yield it and what it printed until it was ready."""
    command = [sys.executable, "-m", "dart.cli", "ui", "toy", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--results", str(results), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        assert lines, "it said nothing"
        assert lines[-1].startswith("Ctrl-C"), "".join(lines)
        yield process, lines
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


def _servers(port: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "--port" in words and str(port) in words:
            found.append(" ".join(words))
    return found


DRAWN = "document.querySelectorAll('.js-plotly-plot .scatterlayer path.point').length >= 5"
COMPARED = "document.body.innerText.includes('Comparing 5 Runs')"
DATA = """JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(
    plot => plot.data.map(trace => [trace.type, trace.x, trace.y])))"""


def test_the_charts_hold_the_studys_points(results: Path, tmp_path: Path) -> None:
    wanted = free_port()
    with socket.socket() as other:  # somebody else is there already
        other.bind(("127.0.0.1", wanted))
        other.listen()
        try:
            with chromium(tmp_path / "profile") as page, _serving(results, wanted) as found:
                process, lines = found
                assert f"port {wanted} is in use; taking" in lines[0]
                link, compare = (
                    re.search(r"http\S+", line)[0]  # type: ignore[index]
                    for line in lines[1:3]
                )
                port = int(link.split(":")[2].split("/")[0])
                assert _servers(port)
                page.visit(link, until=DRAWN)
                traces = [trace for plot in json.loads(page.evaluate(DATA)) for trace in plot]
                scatter = [trace for trace in traces if trace[0] == "scatter"]
                points = {
                    (round(x, 6), round(y, 6))
                    for _, xs, ys in scatter
                    for x, y in zip(xs, ys, strict=True)
                }
                assert points == POINTS
                text = page.evaluate("document.body.innerText")
                for words in ("adaptation vs. forgetting", "Parallel Coordinates", "gated-t0-s1"):
                    assert words in text
                page.picture(tmp_path / "view.png")
                # As if MLflow's page wrote its views otherwise: the plain link needs none.
                key = re.search(r"ShareKey=(\w+)", link)[1]  # type: ignore[index]
                with sqlite3.connect(results / "mlflow.db") as database:
                    tag = f"mlflow.sharedViewState.{key}"
                    database.execute(
                        "INSERT INTO experiment_tags (key, value, experiment_id) SELECT ?, ?, "
                        "experiment_id FROM experiment_tags WHERE key = ?",
                        (f"{tag}x", '{"form": "another"}', tag),
                    )
                page.visit(f"{link}x", until="document.body.innerText.includes('gated-t0-s1')")
                assert not page.evaluate(DRAWN)
                page.visit(compare, until=COMPARED)
                for run in ("zero_shot", "daa-t0-s0", "gated-t0-s1"):
                    assert run in page.evaluate("document.body.innerText")
                assert process.poll() is None
        except Unavailable as reason:
            pytest.skip(str(reason))
    assert process.returncode == 0
    assert not _servers(port)


def test_the_tag_is_written_once(results: Path) -> None:
    with _serving(results, free_port()):
        pass
    with sqlite3.connect(results / "mlflow.db") as database:
        found = database.execute(
            "SELECT value FROM experiment_tags WHERE key LIKE 'mlflow.sharedViewState.%'"
        ).fetchall()
    ((content,),) = found
    charts = json.loads(content)["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["SCATTER", "PARALLEL", "BAR", "BAR", "IMAGE"]


def _refuse(capsys: pytest.CaptureFixture[str], results: Path, *options: str) -> str:
    assert main(["ui", *options, "--results", str(results), "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no study 'tyo'" in _refuse(capsys, results, "tyo")
    assert "--port 0: must be between" in _refuse(capsys, results, "toy", "--port", "0")
    down = f"http://127.0.0.1:{free_port()}"
    assert "no MLflow server answers" in _refuse(capsys, results, "toy", "--tracking-uri", down)
    write_study(tmp_path, [FakeRun("daa", status="missing")])
    assert "no finished run yet" in _refuse(capsys, tmp_path, "toy")


def test_it_says_when_mlflow_does_not_know_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, RUNS)
    assert "dart sync toy" in _refuse(capsys, tmp_path, "toy")


def test_a_database_of_another_version_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, RUNS)
    (tmp_path / "mlflow.db").write_bytes((results / "mlflow.db").read_bytes())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'f4a900000000'")
    assert "MLflow cannot use it" in _refuse(capsys, tmp_path, "toy")
