"""What the engine costs: per run, for a plan of 1,000 cells, for 10,000 finished ones.

    .venv/bin/python benchmarks/engine_overhead.py

The stand-in for training returns at once and writes 20 metrics of 200 steps, so that what is left
is planning, asking, committing and MLflow. A run costs what a study with more of them takes more,
trials whose outcome was known before included. Processor seconds and those of the clock on the wall
must both meet a goal: run it where nothing else is at work.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dart.metrics import compare  # noqa: E402
from dart.recipe import ZERO_SHOT, Recipe  # noqa: E402
from dart.studies.folders import describe_files  # noqa: E402
from dart.studies.plan import make_plan  # noqa: E402
from dart.studies.records import run_folder  # noqa: E402
from dart.studies.spec import load_spec  # noqa: E402
from dart.studies.summary import read_study  # noqa: E402
from tests.helpers.study_engine import (  # noqa: E402
    FakeRun,
    make_result,
    own_registry,
    run_toy,
    write_study,
)

METRICS, STEPS = 20, 200
RUN_SECONDS = 60.0
GRID = """\
variants: {{tuned: {{rank: [{ranks}], gate: [{gates}]}}}}
budget: {{seeds: [0, 1, 2, 3, 4]}}
"""
SEARCH = """\
variants: {{tuned: {{rank: {{low: 2, high: 64, log: true}}, gate: {{low: 0.0, high: 1.0}}}}}}
budget: {{trials: {trials}, seeds: [0]}}
"""


class LoggingRun(FakeRun):
    """Writes 20 metrics of 200 steps, and takes no time of its own.

    The best gate lies inside its range: at an end of it a search would propose the same setting
    again and again, which is not run.
    """

    def __call__(self, recipe: Recipe, folder: Path, **options: Any) -> dict[str, Any]:
        """Write the record."""
        result = super().__call__(recipe, folder, **options)
        if recipe.variant != ZERO_SHOT:
            target = result["domains"]["rooms_fisheye"]["after"]  # the validation split's, too
            target["abs_rel"] += 0.1 * (float(recipe.hyperparameters["gate"]) - 0.4) ** 2
            result |= compare(result["domains"], result["metric"])
            (folder / "result.json").write_text(json.dumps(result))
        values = {f"metric{i}": [float(i + s) for s in range(STEPS)] for i in range(METRICS)}
        frame = pd.DataFrame({"step": range(STEPS), **values})
        frame.to_parquet(folder / "history.parquet")
        return result


def _seconds(action: Callable[[], Any]) -> tuple[float, float]:
    """Return processor and wall seconds of an action."""
    processor, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - processor, time.perf_counter() - wall


def measure_runs(folder: Path, *, few: int, many: int, track: bool) -> dict[str, float]:
    """Return what one more run of a search costs: the difference of two studies, per run."""
    # The imports of MLflow and of a Gaussian process are paid once, not per run.
    run_toy(write_study(folder, SEARCH.format(trials=6), name="warm"), folder, track=track)
    times, runs = [], []
    for name, trials in (("few", few), ("many", many)):
        path = write_study(folder, SEARCH.format(trials=trials), name=name)
        run = LoggingRun()
        times.append(_seconds(lambda path=path, run=run: run_toy(path, folder, run, track=track)))
        runs.append(len(run.calls))
    more = runs[1] - runs[0]
    processor, wall = ((after - before) / more for before, after in zip(*times, strict=True))
    return {
        "runs": more,
        "trials": many - few,
        "processor_seconds": processor,
        "wall_seconds": wall,
        "processor_share": processor / RUN_SECONDS,
        "wall_share": wall / RUN_SECONDS,
    }


def _grid(cells: int) -> str:
    ranks = 20
    gates = -(-cells // (5 * ranks))
    return GRID.format(
        ranks=", ".join(str(2 + i) for i in range(ranks)),
        gates=", ".join(str(i / 1000) for i in range(gates)),
    )


def measure_plan(folder: Path, *, cells: int) -> dict[str, float]:
    """Return what the plan of a study costs that has run nothing yet."""
    path = write_study(folder, _grid(cells), name="plan")
    with own_registry():
        processor, wall = _seconds(lambda: make_plan(load_spec(path), folder))
    return {"cells": cells, "processor_seconds": processor, "wall_seconds": wall}


def measure_loading(folder: Path, *, cells: int) -> dict[str, float]:
    """Return what reading a study costs whose runs are all finished, and planning it again."""
    path = write_study(folder, _grid(cells), name="finished")
    with own_registry():
        study = load_spec(path)
        plan = make_plan(study, folder)
        for cell in plan.cells:
            _write_finished(folder, cell.recipe)
        content = {"study": "finished", "metric": "abs_rel"}
        content |= {"cells": [cell.to_dict() for cell in plan.cells]}  # type: ignore[dict-item]
        place = folder / "studies" / "finished"
        place.mkdir(parents=True)
        (place / "cells.json").write_text(json.dumps(content))
        processor, wall = _seconds(lambda: read_study(folder, "finished").records)
        again, again_wall = _seconds(lambda: make_plan(study, folder))
    return {
        "cells": len(plan.cells),
        "processor_seconds": processor,
        "wall_seconds": wall,
        "plan_processor_seconds": again,
        "plan_wall_seconds": again_wall,
    }


def _write_finished(results: Path, recipe: Recipe) -> None:
    folder = run_folder(results, recipe.key)
    folder.mkdir(parents=True)
    (folder / "per_image.parquet").write_bytes(b"PAR1...PAR1")
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    record = {**make_result(recipe), "wall_seconds": 60.0, "files": describe_files(folder)}
    (folder / "result.json").write_text(json.dumps(record))


def main() -> int:
    """Print one JSON object; 0 if every goal is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--cells", type=int, default=10_000, help="finished ones to load")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dart-overhead-"))
    for name in "abcd":
        (folder / name).mkdir()
    try:
        report = {
            "run": measure_runs(folder / "a", few=4, many=4 + options.runs, track=True),
            "run_without_mlflow": measure_runs(
                folder / "b", few=4, many=4 + options.runs, track=False
            ),
            "plan": measure_plan(folder / "c", cells=1000),
            "loading": measure_loading(folder / "d", cells=options.cells),
        }
    finally:
        shutil.rmtree(folder)
    run, plan, loading = report["run"], report["plan"], report["loading"]
    goals = {
        "processor share of a run of 60 s <= 0.01": run["processor_share"] <= 0.01,
        "wall share of a run of 60 s <= 0.01": run["wall_share"] <= 0.01,
        "plan of 1,000 cells: wall_seconds <= 1": plan["wall_seconds"] <= 1,
        "reading 10,000 finished cells: wall_seconds <= 5": loading["wall_seconds"] <= 5,
    }
    print(json.dumps({**report, "goals": goals}, indent=1))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
