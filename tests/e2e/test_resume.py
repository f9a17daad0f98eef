"""A real run that is killed in the middle goes on to the very numbers it would have reached."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from dart.tracking import database_uri

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROOT = Path(__file__).parents[2]
STUDY = """\
variants: {daa_query_softmax: {num_queries: 8}}
protocol: {pretrained: rooms_small, held_out: []}
training: {steps: 60, batch_size: 1, learning_rate: 1.0e-3, colour: 0.3}
"""
VOLATILE = {"started", "ended", "wall_seconds", "peak_memory_mib", "environment", "files"}


def _start(study: Path, results: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run_study.py"), str(study), "--results", str(results)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(study: Path, results: Path) -> None:
    process = _start(study, results)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "resumed.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def undisturbed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    _finish(study, results)
    return results


def _trained(results: Path) -> Path:
    (folder,) = [p.parent for p in results.glob("runs/*/adapter.safetensors")]
    return folder


def _record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in record.items() if name not in VOLATILE}


def _wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 500
    while not (found := list(path.glob(pattern))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def _statuses(results: Path) -> list[str]:
    client = MlflowClient(database_uri(results))
    experiment = client.get_experiment_by_name("resumed")
    assert experiment is not None
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_cut_off_in_the_middle_ends_bit_for_bit_the_same(
    number: signal.Signals, study: Path, undisturbed: Path, tmp_path: Path
) -> None:
    # What was measured before adaptation is shared, as between any two runs.
    shutil.copytree(undisturbed / "before", tmp_path / "before")
    process = _start(study, tmp_path)
    try:
        state = _wait_for(tmp_path, "studies/resumed/states/[!.]*.pt", process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == (-9 if number == signal.SIGKILL else 143), errors
    kept = torch.load(state, weights_only=True)
    assert 0 < len(kept["trainer"]["history"]) <= 60
    if number == signal.SIGTERM:
        assert errors.splitlines()[-1].startswith("stopped: ")
        assert _statuses(tmp_path) == ["FINISHED", "KILLED", "KILLED"]

    _finish(study, tmp_path)
    assert not state.exists()
    first, second = _trained(undisturbed), _trained(tmp_path)
    assert first.name == second.name
    assert _record(first) == _record(second)
    one, two = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name in ("per_image.parquet", "history.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(first / name), pd.read_parquet(second / name), check_exact=True
        )
    assert _statuses(tmp_path) == ["FINISHED"] * 3
