"""The whole line with nothing stood in: shipped network, shipped frames, training, MLflow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from dart.analysis import load_runs, load_study, summarize
from dart.cli import main

STUDY = """\
question: Does anything happen at all?
baseline: none
variants:
  none: {}
  daa_query_softmax: {num_queries: 16}
protocol: {pretrained: rooms_small, source: [rooms_pinhole], target: rooms_fisheye,
           held_out: [rooms_stereographic]}
training: {steps: 6, batch_size: 4, learning_rate: 1.0e-3}
budget: {seeds: [0, 1]}
"""

NEW_VARIANT = '''\
"""Is a constant for each channel enough?"""

import torch
from torch import Tensor, nn

from dart.models import Stage, register_variant


class Offset(nn.Module):
    """Adds one learned number a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        """Return the residual."""
        return self.offset.expand_as(features)


@register_variant(hypothesis="A constant for each channel is enough.", compare_to="none")
def channel_offset(stage: Stage) -> nn.Module:
    """One offset a channel."""
    return Offset(stage.channels)
'''


def run_study(study: Path, results: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "run_study.py", str(study), "--results", str(results), *options],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the project, to which a user adds her own variant."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("dart", "experiments"):
        shutil.copytree(
            repository / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(repository / "run_study.py", copy)
    (copy / "real.yaml").write_text(STUDY)
    return copy


@pytest.fixture(scope="module")
def finished(project: Path) -> dict:
    done = run_study(project / "real.yaml", project / "results", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_says_what_the_issue_asks_for(finished: dict) -> None:
    assert finished["study"] == "real"
    assert finished["metric"] == "abs_rel"
    rows = {row["variant"]: row for row in finished["variants"]}
    assert set(rows) == {"zero_shot", "none", "daa_query_softmax"}
    zero = rows["zero_shot"]
    assert zero["adaptation"] == zero["forgetting"] == zero["forgetting_relative"] == 0
    assert zero["trainable_parameters"] == 0
    for name in ("none", "daa_query_softmax"):
        row = rows[name]
        assert (row["runs"], row["failed"]) == (2, 0)
        assert row["target_before"] == zero["target_before"]
        assert row["adaptation"] == pytest.approx(row["target_before"] - row["target_after"])
        assert row["forgetting"] != 0
    more = rows["daa_query_softmax"]["trainable_parameters"] - rows["none"]["trainable_parameters"]
    # a stage of c channels: Q r + r c of queries, e c of camera keys, c c + c of the projection
    widths = (48, 64, 168, 224)
    assert more == sum(16 * 8 + 8 * c + 256 * c + c * c + c for c in widths)


def test_again_repeats_nothing(project: Path, finished: dict) -> None:
    runs = sorted((project / "results" / "runs").iterdir())
    times = [(run / "result.json").stat().st_mtime_ns for run in runs]
    again = run_study(project / "real.yaml", project / "results", "--json", cwd=project)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == finished
    assert [(run / "result.json").stat().st_mtime_ns for run in runs] == times


@pytest.mark.usefixtures("finished")
def test_the_record_of_a_run_is_whole(project: Path) -> None:
    runs = load_runs("real", results=project / "results")
    assert len(runs) == 5
    for folder in (project / "results" / "runs").iterdir():
        result = json.loads((folder / "result.json").read_text())
        assert result["frozen_hash_before"] == result["frozen_hash_after"]
        errors = pd.read_parquet(folder / "per_image.parquet")
        means = errors[errors["split"] == "test"].groupby(["domain", "metric"])["after"].mean()
        for domain, values in result["domains"].items():
            for metric, value in values["after"].items():
                assert means[domain, metric] == pytest.approx(value)
        assert (folder / "predictions.png").stat().st_size > 10_000
        if result["variant"] != "zero_shot":
            assert len(pd.read_parquet(folder / "history.parquet")) == 6


@pytest.mark.usefixtures("finished")
def test_mlflow_holds_every_run_and_its_status(project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project / 'results' / 'mlflow.db'}")
    names = {e.name: e.experiment_id for e in client.search_experiments()}
    (experiment,) = [identity for name, identity in names.items() if "real" in name]
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run not in parents]
    assert len(children) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    for run in children:
        assert "forgetting" in run.data.metrics
        artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert {"predictions.png", "per_image.parquet"} <= artifacts


def test_the_tidy_frame_agrees_with_the_table(project: Path, finished: dict) -> None:
    frame = load_study("real", results=project / "results")
    table = summarize(load_runs("real", results=project / "results"))
    target = frame.query("role == 'target' and metric == 'abs_rel' and split == 'test'")
    means = target.groupby("variant")["after"].mean()
    rows = {row["variant"]: row for row in finished["variants"]}
    for variant, value in means.items():
        assert value == pytest.approx(rows[variant]["target_after"])
    assert len(table) == 3


def test_a_new_variant_is_one_file_and_one_line(project: Path, finished: dict) -> None:
    (project / "experiments" / "channel_offset.py").write_text(NEW_VARIANT)
    study = project / "real.yaml"
    study.write_text(STUDY.replace("  none: {}\n", "  none: {}\n  channel_offset: {}\n"))
    before = set((project / "results" / "runs").iterdir())
    plan = run_study(study, project / "results", "--plan", "--json", cwd=project)
    assert json.loads(plan.stdout)["num_missing"] == 2, plan.stderr
    done = run_study(study, project / "results", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout)["variants"]}
    assert rows["channel_offset"]["runs"] == 2
    extra = rows["channel_offset"]["trainable_parameters"] - rows["none"]["trainable_parameters"]
    assert extra == 48 + 64 + 168 + 224
    assert len(set((project / "results" / "runs").iterdir()) - before) == 2
    # the other variants' rows did not change
    for row in finished["variants"]:
        assert rows[row["variant"]] == row


@pytest.mark.usefixtures("finished")
def test_a_soup_is_measured_like_a_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = project / "results"
    where = ["--results", str(results), "--json"]
    assert main(["soup", "real", "none", *where]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = results / "soups" / "real-none-0"
    seeds = [
        load_file(path.with_name("adapter.safetensors"))
        for path in results.glob("runs/*/result.json")
        if json.loads(path.read_text())["variant"] == "none"
    ]
    mean = load_file(folder / "adapter.safetensors")
    assert len(seeds) == 2
    for name, tensor in mean.items():
        one, other = (seed[name].double() for seed in seeds)
        assert torch.allclose(tensor.double(), (one + other) / 2, atol=1e-7)
    measured = main(
        ["evaluate", str(folder / "adapter.safetensors"), "--domains", "rooms_fisheye", "--json"]
    )
    assert measured == 0
    again = json.loads(capsys.readouterr().out)["domains"]["rooms_fisheye"]["abs_rel"]
    assert result["domains"]["rooms_fisheye"]["after"]["abs_rel"] == pytest.approx(again, rel=1e-5)
    assert main(["soup", "real", "nothing", *where]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(
        "error: study 'real' has no finished run of 'nothing'; there are: none, "
    )


DIVERGING = """\
question: What if the learning rate is absurd?
baseline: none
variants: {none: {}}
protocol: {pretrained: rooms_small, source: [rooms_pinhole], target: rooms_fisheye,
           held_out: [rooms_stereographic]}
training: {steps: 6, batch_size: 4}
search: {learning_rate: [1.0e-3, 1.0e+30]}
design: factorial
budget: {seeds: [0]}
"""


@pytest.mark.usefixtures("finished")
def test_a_diverging_run_is_recorded_and_the_study_goes_on(project: Path) -> None:
    study = project / "diverging.yaml"
    study.write_text(DIVERGING)
    done = run_study(study, project / "results", "--json", cwd=project)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("failed: ")]
    assert "step" in line
    assert "not finite" in line or "nan" in line.lower() or "inf" in line.lower()
    rows = {row["variant"]: row for row in json.loads(done.stdout)["variants"]}
    assert (rows["none"]["runs"], rows["none"]["failed"]) == (1, 1)
    client = MlflowClient(f"sqlite:///{project / 'results' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if "diverging" in e.name]
    runs = client.search_runs([experiment.experiment_id])
    children = [run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(children) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.usefixtures("finished")
def test_seeds_are_paired(project: Path) -> None:
    """Both variants saw the same images: before step 1, their losses are equal."""
    first = {}
    for folder in (project / "results" / "runs").iterdir():
        result = json.loads((folder / "result.json").read_text())
        if result["status"] == "finished" and result["variant"] in ("none", "daa_query_softmax"):
            history = pd.read_parquet(folder / "history.parquet")
            first.setdefault(result["seed"], []).append(history["loss"][0])
    assert set(first) == {0, 1}
    for losses in first.values():
        assert np.ptp(losses) < 1e-6
    assert first[0][0] != pytest.approx(first[1][0], rel=1e-3)
