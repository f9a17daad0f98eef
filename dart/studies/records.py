"""What lies in the results folder: which runs are done, what they say, how long they took."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dart.errors import UserError
from dart.recipe import ZERO_SHOT, Recipe

State = Literal["done", "failed", "missing", "pruned"]
KEY_LENGTH = 16
"""Characters of a run's key in the name of its folder."""
PARQUET = b"PAR1"
RECENT = 100
"""Past runs read to estimate how long the next will take."""


def run_folder(results: Path, key: str) -> Path:
    """Return where the run of a key is or will be committed."""
    return results / "runs" / key[:KEY_LENGTH]


def check_folder(results: Path) -> None:
    """Refuse what can never be a results folder; one that is yet to be made is none the worse.

    Raises:
        UserError: It, or what it lies in, is a file.
    """
    for path in (results, *results.parents):
        if path.is_dir():
            return
        if path.exists():
            raise UserError(
                f"results folder '{results}': {path} is a file, not a folder; "
                "choose another with --results or DART_RESULTS"
            )


def read_result(results: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a committed run, or None if it has not run.

    An unreadable record counts as a failed run: it is shown, not silently repeated.
    """
    path = run_folder(results, key) / "result.json"
    try:
        result = json.loads(path.read_text())
        if result["status"] not in ("finished", "failed"):
            raise ValueError(f"status {result['status']!r}")
        if result["status"] == "finished" and not result["domains"]:
            raise ValueError("it names no domain")
        damage = find_damage(path.parent, result.get("files", {}))
    except FileNotFoundError:
        if not path.parent.is_dir():
            return None
        return {"key": key, "status": "failed", "reason": f"{path} is missing"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"key": key, "status": "failed", "reason": f"{path} cannot be read: {error}"}
    if damage:
        return {"key": key, "status": "failed", "reason": damage}
    return result


def find_damage(folder: Path, files: Mapping[str, int]) -> str:
    """Say which file of a run is not as it was written; an empty text if all are.

    Sizes are compared, and the mark at the end of what analysis reads: hashes would take minutes
    for ten thousand runs.
    """
    for name, size in files.items():
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            return f"{path} is gone: {(error.strerror or str(error)).lower()}"
        if found != size:
            return f"{path} is damaged: it has {found} bytes, and {size} were written"
    if "per_image.parquet" in files and not _ends_as_parquet(folder / "per_image.parquet"):
        return f"{folder / 'per_image.parquet'} is damaged: it does not end as a parquet file"
    return ""


def _ends_as_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(PARQUET)))
        return file.read() == PARQUET


def state_of(result: Mapping[str, Any] | None) -> State:
    """Return the state of a cell from its record."""
    if result is None:
        return "missing"
    return "done" if result["status"] == "finished" else "failed"


def read_cells(results: Path, study: str) -> dict[str, Any]:
    """Return a study's ``cells.json``: ``cells`` and ``proposed``, empty if it never ran."""
    empty: dict[str, Any] = {"cells": [], "proposed": {}}
    try:
        content = json.loads((results / "studies" / study / "cells.json").read_text())
        return empty | {name: content[name] for name in empty}
    except (OSError, ValueError, KeyError, TypeError):
        return empty  # it is written anew from the study and the search's own record


def estimate_seconds(missing: Sequence[Recipe], results: Path) -> float | None:
    """Return the seconds that the missing runs will take, judged by the newest past runs."""
    if not missing:
        return 0.0
    same: dict[tuple[str, int], list[float]] = {}
    paces: list[float] = []
    for recipe, seconds in _past_runs(results):
        steps = recipe["training"]["steps"] * recipe["training"]["batch_size"]
        same.setdefault((recipe["variant"], steps), []).append(seconds)
        if recipe["variant"] != ZERO_SHOT:
            paces.append(seconds / steps)
    total = 0.0
    for recipe in missing:
        steps = recipe.training.steps * recipe.training.batch_size
        known = same.get((recipe.variant, steps))
        if known:
            total += sum(known) / len(known)
        elif recipe.variant != ZERO_SHOT:
            if not paces:
                return None
            total += steps * sum(paces) / len(paces)
    return total


def _past_runs(results: Path) -> Iterator[tuple[dict[str, Any], float]]:
    runs = results / "runs"
    if not runs.is_dir():
        return
    folders = [entry for entry in os.scandir(runs) if not entry.name.startswith(".")]
    folders.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for folder in folders[:RECENT]:
        try:
            result = json.loads(Path(folder.path, "result.json").read_text())
            if result["status"] == "finished":
                recipe = json.loads(Path(folder.path, "recipe.json").read_text())
                # Runs of a fold pass their time together.
                yield recipe, float(result["wall_seconds"]) / int(result.get("fold", 1))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # an estimate may ignore what it cannot read
