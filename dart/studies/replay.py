"""A run repeated from its recipe, and compared with its record number by number."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dart.errors import UserError
from dart.protocol import run_recipe
from dart.recipe import ZERO_SHOT, Recipe
from dart.studies.plan import create_recipe

COMPARED = ("trainable_parameters", "frozen_hash_before", "domains", "validation_domains")


def find_run(results: Path, run: str) -> Path:
    """Return the folder of a finished run, given by its path or the beginning of its key.

    Raises:
        UserError: There is none, there are several, or it did not finish.
    """
    path = Path(run)
    if not path.is_dir():
        found = sorted((results / "runs").glob(f"{run}*")) if run.isalnum() else []
        if len(found) != 1:
            what = f"{len(found)} runs begin" if found else "no run begins"
            raise UserError(
                f"{what} with '{run}' in {results / 'runs'}; give a folder or more of it"
            )
        path = found[0]
    try:
        record = json.loads((path / "result.json").read_text())
        status = record["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its record cannot be read: {error}") from None
    if status != "finished":
        raise UserError(f"{path}: the run failed ({record.get('reason')}); nothing to compare with")
    return path


def read_run_recipe(folder: Path) -> Recipe:
    """Return the recipe that lies in a run's folder.

    Raises:
        UserError: It cannot be read, or is of another version of the project.
    """
    try:
        return Recipe.model_validate_json((folder / "recipe.json").read_text())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / 'recipe.json'} cannot be read: {reason}") from None


def find_changes(recipe: Recipe) -> list[str]:
    """Return what a run read or ran that is different now; its numbers may then differ too.

    Raises:
        UserError: The variant, the checkpoint or a data set is gone.
    """
    now = create_recipe(
        recipe.variant,
        {} if recipe.variant == ZERO_SHOT else recipe.hyperparameters,
        recipe.protocol,
        recipe.training,
        recipe.seed,
    )
    changes = []
    if now.variant_code != recipe.variant_code:
        changes.append(f"the code of variant {recipe.variant}")
    if now.pretrained_sha256 != recipe.pretrained_sha256:
        changes.append(f"the checkpoint {recipe.protocol.pretrained}")
    changes += [
        f"data {name}" for name, hash_ in recipe.data.items() if now.data.get(name) != hash_
    ]
    if now.semantics != recipe.semantics:
        changes.append("the meaning of the project's own code")
    return changes


def replay(folder: Path, *, device: str) -> dict[str, Any]:
    """Repeat a run and return ``identical``, ``changed``, ``differences`` and ``largest``.

    ``largest`` is the largest difference of an error, as a share of what it was.

    Raises:
        UserError: The run cannot be repeated.
    """
    recipe, record = read_run_recipe(folder), json.loads((folder / "result.json").read_text())
    changed = find_changes(recipe)
    with tempfile.TemporaryDirectory(prefix="dart-replay-") as name:
        place = Path(name)
        (place / "run").mkdir()
        again = run_recipe(recipe, place / "run", results=place, device=device)
        differences = list(_compare(record, again, COMPARED))
        differences += _compare_tensors(folder, place / "run")
    changed += _find_other_machine(record, again)
    return {
        "run": str(folder),
        "key": record["key"],
        "identical": not differences,
        "changed": changed,
        "differences": differences,
        "largest": max(map(_share, differences), default=0.0),
    }


def _share(difference: Mapping[str, Any]) -> float:
    before, after = difference.get("before"), difference.get("after")
    if not isinstance(before, float) or not isinstance(after, float):
        return 0.0
    return abs(after - before) / abs(before) if before else float("inf")


def _find_other_machine(record: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Yield what alters the order of sums, and so last digits: versions, device, threads, fold."""
    old, new = record.get("environment", {}), again["environment"]
    versions = old.get("versions", {})
    for package, now in new["versions"].items():
        if package in versions and versions[package] != now:
            yield f"{package} {versions[package]} -> {now}"
    for name in ("device", "threads"):
        if name in old and old[name] != new[name]:
            yield f"{name} {old[name]} -> {new[name]}"
    off = [", ".join(told.get("switched_off", [])) or "nothing" for told in (old, new)]
    if off[0] != off[1]:
        yield f"switched off: {off[0]} -> {off[1]}"
    if record.get("fold", 1) > 1:
        yield f"one of {record['fold']} runs folded -> alone"


def _compare(
    old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    one, two = dict(_leaves(old, names)), dict(_leaves(new, names))
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            yield {"name": name, "before": one.get(name), "after": two.get(name)}


def _leaves(content: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if isinstance(content.get(name), Mapping):
            inner = content[name]
            for path, value in _leaves(inner, tuple(inner)):
                yield f"{name}.{path}", value
        elif name in content:
            yield name, content[name]


def _compare_tensors(old: Path, new: Path) -> Iterator[dict[str, Any]]:
    paths = [folder / "adapter.safetensors" for folder in (old, new)]
    if not any(path.exists() for path in paths):
        return
    one, two = (load_file(path) if path.exists() else {} for path in paths)
    for name in sorted(one.keys() | two.keys()):
        if name not in one or name not in two or one[name].shape != two[name].shape:
            yield {"name": f"tensor {name}", "before": name in one, "after": name in two}
        elif not torch.equal(one[name], two[name]):
            largest = float((one[name].double() - two[name].double()).abs().max())
            yield {"name": f"tensor {name}", "largest_difference": largest}
