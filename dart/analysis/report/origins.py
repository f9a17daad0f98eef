"""Where a study's numbers come from: code, versions, data, and what became of every run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dart.analysis.records import Cell, RunRecord, Study

MOST_SHOWN = 3
TRAINING = "training: "


def describe_origins(
    study: Study, records: Sequence[tuple[Cell, RunRecord | None]]
) -> dict[str, str]:
    """Return what made the finished runs: heading -> words; where runs differ all are named."""
    finished = [(cell, run) for cell, run in records if run and run.status == "finished"]
    found: dict[str, Counter[str]] = {}

    def note(heading: str, value: object) -> None:
        if value not in (None, "", {}, []):
            found.setdefault(heading, Counter())[_words(value)] += 1

    for cell, run in finished:
        environment = run.environment
        dirty = ", with changes that were not committed" if environment.dirty else ""
        note("commit", f"{environment.git_sha}{dirty}" if environment.git_sha else None)
        note("versions", environment.versions)
        note("device", environment.device)
        note("error of", run.convention)
        _note_recipe(note, _read_recipe(study, cell))
    _join_training(found)
    found["seeds"] = Counter([_words(sorted({cell.seed for cell, _ in records}))])
    return {heading: _join(values) for heading, values in found.items()}


def _note_recipe(note: Any, recipe: Mapping[str, Any]) -> None:
    protocol = recipe.get("protocol", {})
    for name in ("source", "target", "held_out"):
        note(name.replace("_", "-"), protocol.get(name))
    note("pretrained", _named_hash(protocol.get("pretrained"), recipe.get("pretrained_sha256")))
    if recipe.get("variant") != "zero_shot":
        for name, value in recipe.get("training", {}).items():
            note(f"{TRAINING}{name}", value if value not in ("", {}, []) else "nothing")
    for name, value in recipe.get("data", {}).items():
        note(f"data {name}", value[:16])


def _join_training(found: dict[str, Counter[str]]) -> None:
    """Tell the fields that all runs share at once; the others keep a heading each."""
    shared = [name for name in found if name.startswith(TRAINING) and len(found[name]) == 1]
    words = [f"{name.removeprefix(TRAINING)} {_join(found.pop(name))}" for name in shared]
    if words:
        found["training"] = Counter([", ".join(words)])


def _named_hash(name: object, sha256: object) -> str | None:
    return f"{name} (sha256 {str(sha256)[:16]})" if name and sha256 else None


def _read_recipe(study: Study, cell: Cell) -> Mapping[str, Any]:
    try:
        content = json.loads((study.run_folder(cell) / "recipe.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _join(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    shown = [f"{words} ({count} runs)" for words, count in values.most_common(MOST_SHOWN)]
    if len(values) > MOST_SHOWN:
        shown.append(f"and {len(values) - MOST_SHOWN} others")
    return "; ".join(shown)
