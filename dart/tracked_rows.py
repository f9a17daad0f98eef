"""What MLflow is told of a run: numbers, texts and times out of its folder, without MLflow."""

import math
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

CURVE_POINTS = 200
"""Steps of a training curve that MLflow gets."""


def final_metrics(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a run's record under slash names, as ``target/abs_rel_after``."""
    for domain, entry in result.get("domains", {}).items():
        group = "target" if entry["role"] == "target" else f"{entry['role']}/{domain}"
        for when in ("before", "after"):
            for metric, value in entry[when].items():
                if math.isfinite(value):
                    yield f"{group}/{metric}_{when}", value
    blocks = {"": result, "validation/": result.get("validation", {})}
    for prefix, block in blocks.items():
        for name, value in block.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name != "seed" and math.isfinite(value):
                yield f"{prefix}{name}", float(value)


def read_history(folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of what was recorded during training, at most 200 steps of each.

    A page of curves shows no more, and a server takes its time for each; all of them stay in the
    run's folder.
    """
    path = folder / "history.parquet"
    if not path.exists():
        return
    frame = pd.read_parquet(path)
    if len(frame) > CURVE_POINTS:
        last = len(frame) - 1
        frame = frame.iloc[[round(i * last / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)]]
    for name in frame.columns.drop("step"):
        for step, value in zip(frame["step"], frame[name], strict=True):
            if math.isfinite(value):
                yield f"train/{name}", float(value), int(step)


def list_metrics(result: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, float, int, int]]:
    """Yield name, value, time stamp in milliseconds and step of all numbers of a run.

    Equal time stamps make a second attempt after a crash write the same rows again.
    """
    stamp = ended(result)
    for name, value in final_metrics(result):
        yield name, value, stamp, 0
    for name, value, step in read_history(folder):
        yield name, value, stamp, step


def flatten_recipe(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of what a recipe fixes, as ``training.steps``."""
    parts = ("variant", "seed", "hyperparameters", "training", "protocol")
    yield from _flatten({name: recipe[name] for name in parts})


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{prefix}{name}", text


def now() -> int:
    """Return the time in milliseconds."""
    return int(time.time() * 1000)


def ended(result: Mapping[str, Any]) -> int:
    """Return when a run ended in milliseconds; now, if its record is too damaged to say."""
    moment = result.get("ended")
    return int(datetime.fromisoformat(moment).timestamp() * 1000) if moment else now()


def started(result: Mapping[str, Any]) -> int | None:
    """Return when a run began in milliseconds, if its record says."""
    moment = result.get("started")
    return int(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
