"""``run_study.py`` as a user calls it: plans at once, refuses in a line, never runs twice."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from dart.models import create_model
from dart.models.checkpoint import save_pretrained
from dart.tracking import database_uri
from dart.variants import scan_variants

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROOT = Path(__file__).parents[2]
FIRST, SECOND = sorted(scan_variants())[:2]
HEAVY = ("torch", "mlflow", "timm", "optuna", "pandas")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network that knows nothing."""
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    model = create_model("none", generator=torch.Generator().manual_seed(0))
    save_pretrained(model, path, metadata={})
    return path


def _write(folder: Path, checkpoint: Path, *, rates: str = "[1e-3]") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(
        f"variants: {{{FIRST}: {{}}, {SECOND}: {{}}}}\n"
        f"protocol: {{pretrained: {checkpoint}}}\n"
        "training: {steps: 3, batch_size: 1}\n"
        f"search: {{learning_rate: {rates}}}\n"
    )
    return path


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "run_study.py"), *map(str, arguments)]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_plan_needs_neither_torch_nor_mlflow_and_little_time(
    checkpoint: Path, tmp_path: Path
) -> None:
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path('run_study.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
    )
    path = _write(tmp_path, checkpoint)
    command = [sys.executable, "-c", code, str(path), "--plan"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 2 + 1
    assert all(" missing " in line for line in lines[:-1])
    assert "3 runs, 0 done, 0 failed, 3 missing" in lines[-1]
    # Processor time: what the wall shows depends on who else is at work.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert not (tmp_path / "results").exists()


def test_the_plan_of_the_quickstart_is_json_if_asked(tmp_path: Path) -> None:
    done = _run("studies/quickstart.yaml", "--plan", "--json", "--results", tmp_path)
    if done.returncode:
        pytest.fail(done.stderr)
    plan = json.loads(done.stdout)
    assert plan["num_runs"] == plan["num_missing"] == len(plan["runs"])
    assert len({run["key"] for run in plan["runs"]}) == len(plan["runs"])
    assert all(run["state"] == "missing" for run in plan["runs"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["studies/quikstart.yaml"], "no such study file; studies holds: "),
        (["{toy}", "--only", "nothing"], "--only nothing: not a variant of study 'tiny'; it has: "),
        (["{toy}", "--device", "abacus"], "--device abacus: not usable here"),
        (["{toy}", "--executor", "rey"], "rey is no executor; allowed: inline, ray; did you mean"),
        (["{toy}", "--executor", "inline", "--workers", "2"], "--executor inline: runs one after"),
        (["{toy}", "--workers", "2", "--fold", "0"], "--fold: 0"),
        (["{toy}", "--gpus-per-run", "0.25"], "--gpus-per-run 0.25: runs would use the processor"),
        (["{toy}", "--results", "{toy}"], "cannot be written: "),
        (["{bad}"], "training.step: unknown key 'step'; allowed: trainable, "),
        (["{bad}", "--plan"], "did you mean 'steps'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: list[str], part: str, checkpoint: Path, tmp_path: Path
) -> None:
    toy = _write(tmp_path, checkpoint)
    bad = tmp_path / "bad.yaml"
    bad.write_text(toy.read_text().replace("steps:", "step:"))
    done = _run(*(text.format(toy=toy, bad=bad) for text in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr
    assert not list((tmp_path / "results").glob("runs/*"))


def _stamps(results: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (results / "runs").rglob("*")}


def _status(results: Path) -> dict[str, list[str]]:
    client = MlflowClient(database_uri(results))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    status: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        status.setdefault(run.data.tags["dart.kind"], []).append(run.info.status)
    return {kind: sorted(values) for kind, values in status.items()}


def test_a_study_runs_once_and_a_diverging_run_is_recorded(
    checkpoint: Path, tmp_path: Path
) -> None:
    results = tmp_path / "out"
    path = _write(tmp_path, checkpoint, rates="[1e-3, 1e30]")
    done = _run(path, "--results", results, "--json")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    table = json.loads(done.stdout)
    assert table["study"] == "tiny"
    rows: dict[str, list[Any]] = {}
    for row in table["variants"]:
        rows.setdefault(row["variant"], []).append(row)
    assert set(rows) == {"zero_shot", FIRST, SECOND}
    assert rows["zero_shot"][0]["adaptation"] == rows["zero_shot"][0]["forgetting"] == 0
    assert sum(row["failed"] for row in table["variants"]) >= 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) >= 1
    states = _status(results)
    assert states["study"] == ["FAILED"]
    assert states["run"] == ["FAILED"] * len(failed) + ["FINISHED"] * (5 - len(failed))

    before = _stamps(results)
    again = _run(path, "--results", results, "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout) == table
    assert _stamps(results) == before
    assert _status(results) == states


def _wait_for_a_run_in_flight(process: subprocess.Popen[str], results: Path) -> None:
    deadline = time.monotonic() + 600
    while not list(results.glob("runs/[!.]*")) or not list(results.glob("runs/.tmp-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_with_one_line(checkpoint: Path, tmp_path: Path) -> None:
    results = tmp_path / "out"
    path = _write(tmp_path, checkpoint)
    path.write_text(path.read_text().replace("steps: 3", "steps: 30000"))
    process = subprocess.Popen(
        _command(path, "--results", results),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for_a_run_in_flight(process, results)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert errors.splitlines()[-1].startswith("stopped: finished runs are kept")
    assert "Traceback" not in errors
    assert not list(results.glob("runs/.tmp-*"))
    assert len(list(results.glob("runs/*"))) == 1
    assert _status(results) == {"study": ["KILLED"], "run": ["FINISHED", "KILLED"]}
