"""Runs folded into one step end as they end alone, whatever goes wrong with the others."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import run_study
from benchmarks.chaos import find_workers
from dart.errors import Stopped
from dart.models import batched
from dart.studies.fold_executor import FoldExecutor
from dart.studies.plan import make_plan
from dart.studies.spec import load_spec
from dart.studies.stopping import StopRequest
from dart.studies.worker import Task
from dart.training import captured, together
from experiments.conditioned import FiLM
from tests.helpers.own_frames import write_frames

ROOT = Path(__file__).parents[2]
STUDY = """\
variants: {none: {}, film: {}, lora: {}}
baseline: none
protocol: {pretrained: rooms_small, source: [known.yaml], target: own.yaml, held_out: []}
training: {steps: STEPS, batch_size: 1, learning_rate: 1.0e-3}
budget: {seeds: [0]}
"""
DOMAIN = """\
format: manifest
path: list.csv
size: [32, 64]
options: {defaults: {convention: range, depth_scale: 2000}}
splits: {train: 0.5, val: 0.25, test: 0.25}
"""
NUM_FRAMES = 8
LONG = 60
"""Steps of the study that is killed in the middle."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small fisheye frames, source and target in one, and a study in two lengths."""
    root = tmp_path_factory.mktemp("own")
    write_frames(root, NUM_FRAMES)
    for name in ("own", "known"):
        (root / f"{name}.yaml").write_text(DOMAIN)
    (root / "short.yaml").write_text(STUDY.replace("STEPS", "4"))
    (root / "long.yaml").write_text(STUDY.replace("STEPS", str(LONG)))
    return root


@pytest.fixture(autouse=True)
def own_cache(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DART_CACHE", str(own / "cache"))


def start(study: Path, results: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_study.py"), str(study), "--results", str(results)]
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(study: Path, results: Path, *options: str) -> None:
    """Run a study to its end in this process."""
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        assert run_study.main([str(study), "--results", str(results), *options]) == 0
    finally:
        signal.signal(signal.SIGTERM, earlier)


def records(results: Path) -> dict[str, dict[str, Any]]:
    found = results.glob("runs/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def losses(results: Path) -> dict[str, list[float]]:
    found = results.glob("runs/*/history.parquet")
    return {path.parent.name: pd.read_parquet(path)["loss"].tolist() for path in found}


def wait_for_states(process: subprocess.Popen[str], results: Path) -> dict[str, list[float]]:
    """Wait until the three runs of the long study kept their states; return the losses in them."""
    deadline = time.monotonic() + 500
    while len(states := list(results.glob("studies/long/states/[!.]*.pt"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kept = {s.stem: torch.load(s, weights_only=True)["trainer"]["history"] for s in states}
    assert all(0 < len(history) < LONG for history in kept.values())
    return {key: [step["loss"] for step in history] for key, history in kept.items()}


def assert_alike(one: Path, other: Path) -> None:
    """Every run has the history and the errors of its counterpart, but for rounding."""
    mine, theirs = records(one), records(other)
    assert mine.keys() == theirs.keys()
    for name, record in mine.items():
        assert record["status"] == theirs[name]["status"] == "finished"
        assert record["frozen_hash_after"] == theirs[name]["frozen_hash_after"]
        folders = [results / "runs" / name for results in (one, other)]
        for file in ("per_image.parquet", "history.parquet"):
            if record["variant"] == "zero_shot" and file == "history.parquet":
                continue  # it takes no step
            one_table, other_table = (pd.read_parquet(folder / file) for folder in folders)
            pd.testing.assert_frame_equal(
                one_table, other_table, check_exact=False, rtol=2e-3, atol=1e-4
            )


@pytest.fixture(scope="module")
def alone(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short study with its runs one after the other."""
    results = tmp_path_factory.mktemp("alone")
    finish(own / "short.yaml", results)
    return results


def test_a_folded_study_is_the_study(
    own: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(own / "short.yaml", tmp_path, "--fold", "4")
    assert "not folded, each takes its steps alone: lora" in capsys.readouterr().err
    assert_alike(alone, tmp_path)
    folds = {r["variant"]: r.get("fold", 1) for r in records(tmp_path).values()}
    assert folds == {"zero_shot": 1, "none": 3, "film": 3, "lora": 3}


def test_a_folded_study_that_is_killed_goes_on_where_it_was(own: Path, tmp_path: Path) -> None:
    process = start(own / "long.yaml", tmp_path, "--fold", "4")
    try:
        kept = wait_for_states(process, tmp_path)
    finally:
        process.kill()
        process.communicate()
    finish(own / "long.yaml", tmp_path, "--fold", "4")
    for key, history in kept.items():
        ended = losses(tmp_path)[key]
        assert len(ended) == LONG
        # What was done before the kill was kept, not done again.
        assert ended[: len(history)] == history
    assert not list(tmp_path.glob("studies/long/states/*.pt"))


def test_workers_fold_what_they_get(own: Path, alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    options = ("--fold", "4", "--workers", "2")
    process = start(own / "short.yaml", tmp_path, *options)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "not folded, each takes its steps alone: lora" not in errors
    assert_alike(alone, tmp_path)
    # Three runs for two workers: two and one.
    folds = sorted(record.get("fold", 1) for record in records(tmp_path).values())
    assert folds == [1, 1, 2, 2]


def test_a_worker_that_dies_in_a_fold_costs_no_step(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start(own / "long.yaml", tmp_path, "--fold", "4", "--executor", "ray")
    kept = wait_for_states(process, tmp_path)
    [worker] = find_workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert errors.count("crashed, attempt 1 of 3; it is run again") == 3
    ended = {key: record for key, record in records(tmp_path).items() if key in kept}
    assert [record["status"] for record in ended.values()] == ["finished"] * 3
    # Whose fault it was nobody knows, so that none of them is folded again.
    assert [(r["attempts"], r.get("fold", 1)) for r in ended.values()] == [(2, 1)] * 3
    for key, history in kept.items():
        steps = losses(tmp_path)[key]
        assert len(steps) == LONG
        assert steps[: len(history)] == history


class Fold:
    """Runs of the short study, each of two seeds, in a ``FoldExecutor`` of this process."""

    def __init__(self, own: Path, results: Path) -> None:
        (results / "runs").mkdir(parents=True)
        (results / "studies" / "short" / "states").mkdir(parents=True)
        self.results, self.notes, self.done = results, [], []
        plan = make_plan(load_spec(own / "short.yaml"), results)
        recipes = [c.recipe for c in plan.cells if c.recipe.variant in ("none", "film")]
        others = [recipe.model_copy(update={"seed": 1}) for recipe in recipes]
        self.recipes = recipes + others

    def state(self, key: str) -> Path:
        return self.results / "studies" / "short" / "states" / f"{key}.pt"

    def run(self, *, limits: Callable[[int], float | None] = lambda _: None) -> None:
        with StopRequest() as stop:
            executor = FoldExecutor(
                len(self.recipes), stop=stop, on_step=self._on_step, note=self.notes.append
            )
            for place, recipe in enumerate(self.recipes):
                state = self.state(recipe.key)
                executor.submit(Task(recipe, self.results, state, time_limit=limits(place)))
            endings = executor.wait_any()
        assert [ending.task.recipe for ending in endings] == self.recipes

    def _on_step(self, done: int, steps: int, loss: float) -> None:
        assert done <= steps
        assert math.isfinite(loss)
        self.done.append(done)


def test_what_does_not_fit_together_is_halved_and_loses_no_step(
    own: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    forward = captured.forward_together

    def small(nets: Any, *rest: Any, **options: Any) -> Any:
        tried.append(len(nets))
        if len(nets) > 2:  # as an accelerator says it
            raise torch.OutOfMemoryError("out of memory: planted")
        return forward(nets, *rest, **options)

    monkeypatch.setattr(captured, "forward_together", small)
    fold = Fold(own, tmp_path)
    fold.run()
    assert tried[0] == 4
    assert set(tried[1:]) == {2}
    assert fold.notes == [
        "4 runs folded: out of memory: planted; going on with 2 at a time",
    ]
    got, expected = losses(tmp_path), losses(alone)
    assert len(got) == 4
    assert len(got.keys() & expected.keys()) == 2
    for key in got.keys() & expected.keys():
        assert got[key] == pytest.approx(expected[key], rel=1e-4)


@pytest.mark.parametrize("reads", [False, True])
def test_a_fold_is_batched_as_on_a_gpu_and_says_what_is_not(
    own: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """The study's engine calls modules at once, but those that look at a number."""
    monkeypatch.setattr(together, "is_batched", lambda _: True)
    monkeypatch.setattr(batched, "_tried", {})
    adapt = FiLM.forward

    def look(self: FiLM, features: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        change = adapt(self, features, camera)
        return change if change.mean().item() < math.inf else torch.zeros_like(change)

    if reads:
        monkeypatch.setattr(FiLM, "forward", look)
    fold = Fold(own, tmp_path)
    fold.run()
    assert len(fold.notes) == reads
    for note in fold.notes:
        assert note.startswith("not batched, one after the other: film (")
        assert "item()" in note
    got, expected = losses(tmp_path), losses(alone)
    assert len(got.keys() & expected.keys()) == 2
    for key in got.keys() & expected.keys():
        assert got[key][0] == pytest.approx(expected[key][0], rel=1e-6)
        # AdamW's first steps are as long whatever a gradient's size, so that rounding grows.
        assert got[key] == pytest.approx(expected[key], rel=0.03)


def test_one_run_over_its_time_ends_and_the_others_do_not(own: Path, tmp_path: Path) -> None:
    fold = Fold(own, tmp_path)
    fold.run(limits=lambda place: 1e-3 if place == 1 else None)
    late = fold.recipes[1].key
    ended = {record["key"]: record for record in records(tmp_path).values()}
    assert ended[late]["status"] == "failed"
    assert ended[late]["failure"] == "time_limit"
    assert "0.001 s" in ended[late]["reason"]
    others = [record for key, record in ended.items() if key != late]
    assert [record["status"] for record in others] == ["finished"] * 3


def test_a_stop_keeps_the_state_of_every_run(own: Path, tmp_path: Path) -> None:
    fold = Fold(own, tmp_path)
    on_step = fold._on_step

    def stop_soon(done: int, steps: int, loss: float) -> None:
        on_step(done, steps, loss)
        if len(fold.done) == 5:  # the second step of the first run
            os.kill(os.getpid(), signal.SIGTERM)

    fold._on_step = stop_soon  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        fold.run()
    assert records(tmp_path) == {}
    lengths = []
    for recipe in fold.recipes:
        kept = torch.load(fold.state(recipe.key), weights_only=True)
        lengths.append(len(kept["trainer"]["history"]))
    assert set(lengths) == {2}


def test_a_stop_within_a_step_loses_no_point_of_a_curve(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, fold = Fold(own, tmp_path / "whole"), Fold(own, tmp_path / "stopped")
    undisturbed.run()
    on_step = fold._on_step

    def stop_soon(done: int, steps: int, loss: float) -> None:
        on_step(done, steps, loss)
        if len(fold.done) == 5:  # the others have taken the step, and nobody told them
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fold, "_on_step", stop_soon)
    with pytest.raises(Stopped):
        fold.run()
    fold.run()
    curves = [
        {path.parent.name: set(pd.read_parquet(path).step) for path in root.rglob("curves.parquet")}
        for root in (tmp_path / "whole", tmp_path / "stopped")
    ]
    assert len(curves[0]) == len(fold.recipes)
    assert curves[0] == curves[1]


def test_an_error_of_a_step_of_one_is_that_runs(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a step of one run raises instead of answering."""
    fold = Fold(own, tmp_path)
    bad, take = fold.recipes[1], together.take_steps

    def take_or_raise(trainers: list[Any]) -> Any:
        if any(trainer.model.variant == bad.variant for trainer in trainers):
            raise ValueError("planted")
        return take(trainers)

    monkeypatch.setattr(together, "take_steps", take_or_raise)
    fold.run()
    ended = {record["key"]: record for record in records(tmp_path).values()}
    assert len(ended) == len(fold.recipes)
    for recipe in fold.recipes:
        is_bad = recipe.variant == bad.variant
        assert ended[recipe.key]["status"] == ("failed" if is_bad else "finished")
    assert "planted" in ended[bad.key]["reason"]
