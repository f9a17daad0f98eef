"""A user's own frames as the target of a study, through nothing but two small text files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dart.cli import main
from dart.data.dataset import open_domain
from tests.helpers.own_frames import write_frames

STUDY = """\
variants:
  none: {}
protocol: {pretrained: rooms_small, source: [../data/known.yaml], target: ../data/my_fisheye.yaml,
           held_out: []}
training: {steps: 2, batch_size: 2}
"""

DOMAIN = """\
format: manifest
path: frames/list.csv
size: [96, 128]
options: {defaults: {convention: range, depth_scale: 2000}}
splits: {train: 0.5, val: 0.25, test: 0.25}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve fisheye frames in files of the user's making, a domain file and a study."""
    root = tmp_path_factory.mktemp("own")
    write_frames(root / "data" / "frames", 12)
    for name in ("my_fisheye", "known"):
        (root / "data" / f"{name}.yaml").write_text(DOMAIN)
    (root / "studies").mkdir()
    (root / "studies" / "own.yaml").write_text(STUDY)
    return root


def run_study(own: Path, repository: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "run_study.py", str(own / "studies" / "own.yaml"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "DART_CACHE": str(own / "cache")}
    return subprocess.run(
        [*command, "--results", str(own / "results"), "--json"],
        capture_output=True,
        text=True,
        cwd=repository,
        env=environment,
        check=False,
        timeout=600,
    )


def test_a_study_adapts_to_the_users_own_frames(own: Path, repository: Path) -> None:
    done = run_study(own, repository)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (own / "results").rglob("result.json")]
    assert {record["variant"] for record in records} == {"zero_shot", "none"}
    for record in records:
        roles = {name: domain["role"] for name, domain in record["domains"].items()}
        assert roles == {"my_fisheye": "target", "known": "source"}
        folder = next((own / "results").rglob(f"{record['key'][:8]}*/per_image.parquet"), None)
        assert folder is not None
        errors = pd.read_parquet(folder)
        target = errors[(errors["domain"] == "my_fisheye") & (errors["split"] == "test")]
        assert target["image"].nunique() == target["scene"].nunique() == 3
        before = target[target["metric"] == "abs_rel"]["before"].mean()
        assert record["domains"]["my_fisheye"]["before"]["abs_rel"] == pytest.approx(before)
    again = run_study(own, repository, "--plan")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["num_done"] == 2


def test_the_same_errors_as_through_the_built_in_domain(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DART_CACHE", str(own / "cache"))
    everything = own / "data" / "everything.yaml"
    names = ", ".join(f"room {number}" for number in range(12))
    everything.write_text(DOMAIN.split("splits")[0] + f"splits: {{test: [{names}]}}\n")
    assert main(["evaluate", "rooms_small", "--domains", str(everything), "--json"]) == 0
    own_errors = json.loads(capsys.readouterr().out)["domains"]["everything"]
    mine, theirs = open_domain(str(everything), "test"), open_domain("rooms_fisheye", "test")
    for index in range(12):
        assert np.array_equal(mine[index].image, theirs[index].image)
        np.testing.assert_allclose(mine[index].distance, theirs[index].distance, atol=2e-7)
        assert mine[index].camera.key == theirs[index].camera.key
    assert 0.05 < own_errors["abs_rel"] < 1


def test_a_changed_depth_file_is_another_run(own: Path, repository: Path) -> None:
    frames = own / "data" / "frames"
    first = (frames / "0_range.png").read_bytes()
    (frames / "0_range.png").write_bytes((frames / "1_range.png").read_bytes())
    done = run_study(own, repository, "--plan")
    (frames / "0_range.png").write_bytes(first)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_done"] == 0


def test_mistakes_are_told_before_anything_runs(own: Path, repository: Path) -> None:
    path = own / "data" / "my_fisheye.yaml"
    path.write_text(DOMAIN.replace("manifest", "manifesto"))
    done = run_study(own, repository, "--plan")
    path.write_text(DOMAIN)
    assert done.returncode == 2
    assert "own.yaml:3: protocol.target" in done.stderr
    assert "unknown format 'manifesto'" in done.stderr
    assert "did you mean 'manifest'" in done.stderr
    assert "Traceback" not in done.stderr
