"""The one run of a study that goes on to be used, chosen by a rule and not by eye.

The rule: of the choices of hyperparameters whose mean relative forgetting on the validation split
stays within the bound, the best on the target's validation split; of its seeds the median one.
Test errors are reported and never chosen by.
"""

import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dart.errors import UserError
from dart.metrics import METRICS, compare
from dart.recipe import ZERO_SHOT
from dart.studies.summary import Written, in_study_metric

FILES = ("adapter.safetensors", "recipe.json", "result.json", "predictions.png")


@dataclass(frozen=True)
class Champion:
    """A study's champion."""

    study: Written
    cell: Mapping[str, Any]
    record: Mapping[str, Any]
    rule: str
    candidates: int
    """Choices that finished and kept the bound."""

    @property
    def folder(self) -> Path:
        """Where its run lies."""
        return self.study.run_folder(self.cell["key"])


@dataclass
class _Choice:
    cells: list[tuple[Mapping[str, Any], Mapping[str, Any]]]
    target: float
    forgetting: float


def find_champion(study: Written, *, max_forgetting: float | None = None) -> Champion:
    """Return the champion of a study.

    Args:
        max_forgetting: Largest relative forgetting; the study's own bound where None, and no bound
            where it has none.

    Raises:
        UserError: No run finished, or none keeps the bound.
    """
    bound = _bound(study) if max_forgetting is None else max_forgetting
    choices = _choices(study)
    if not choices:
        raise UserError(f"study '{study.name}': no run with an adapter has finished yet")
    kept = [choice for choice in choices if bound is None or choice.forgetting <= bound]
    if not kept:
        least = min(choice.forgetting for choice in choices)
        raise UserError(
            f"study '{study.name}': every choice forgets more than {bound:g} (relative, on the "
            f"validation split); the least is {least:.4g}"
        )
    best = min(kept, key=lambda choice: choice.target)
    sign = _sign(study.metric)
    seeds = sorted(best.cells, key=lambda pair: sign * _validation(pair[1], study.metric)[0])
    cell, record = seeds[(len(seeds) - 1) // 2]
    limit = "no bound on forgetting" if bound is None else f"relative forgetting <= {bound:g}"
    rule = (
        f"best {study.metric} on the target's validation split, mean over seeds, with {limit}; "
        "of its seeds the median one"
    )
    return Champion(study, cell, record, rule, len(kept))


def _sign(metric: str) -> float:
    return -1.0 if METRICS[metric].higher_is_better else 1.0


def _validation(record: Mapping[str, Any], metric: str) -> tuple[float, float]:
    outcome = compare(record["validation_domains"], metric)
    return float(outcome["target_after"]), float(outcome["forgetting_relative"])


def _choices(study: Written) -> list[_Choice]:
    groups: dict[tuple[str, Any], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for cell, record in study.committed():
        adapter = study.run_folder(cell["key"]) / "adapter.safetensors"
        is_candidate = record["status"] == "finished" and cell["variant"] != ZERO_SHOT
        if is_candidate and adapter.exists():
            groups.setdefault((cell["variant"], cell["trial"]), []).append((cell, record))
    choices = []
    for cells in groups.values():
        points = [_validation(record, study.metric) for _, record in cells]
        target = _sign(study.metric) * statistics.fmean(point[0] for point in points)
        forgetting = statistics.fmean(point[1] for point in points)
        choices.append(_Choice(cells, target, forgetting))
    return choices


def _bound(study: Written) -> float | None:
    try:
        content = yaml.safe_load((study.folder / "study.yaml").read_text())
        return float(content["constraints"]["forgetting_relative"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def export_champion(champion: Champion, folder: Path) -> Path:
    """Write adapter, recipe, record and model card into a new folder, and return it.

    Raises:
        UserError: The folder is there already, or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; choose another --out or move it away")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in FILES:
            if (champion.folder / name).exists():
                shutil.copy(champion.folder / name, partial)
        (partial / "README.md").write_text(write_card(champion))
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {(error.strerror or str(error)).lower()}"
        ) from None
    return folder


def write_card(champion: Champion) -> str:
    """Return the champion's model card, in Markdown."""
    study, record = champion.study, {**champion.record}
    record |= in_study_metric(record, study.metric)
    recipe = json.loads((champion.folder / "recipe.json").read_text())
    settings = json.dumps(recipe["hyperparameters"]) if recipe["hyperparameters"] else "none"
    environment = record.get("environment", {})
    rows = "\n".join(
        f"| {name} | {entry['role']} | {entry['before'][study.metric]:.4f} "
        f"| {entry['after'][study.metric]:.4f} |"
        for name, entry in record["domains"].items()
    )
    return f"""# {record["variant"]}, champion of study {study.name}

An adapter for monocular metric depth: `adapter.safetensors` holds what was trained, and belongs to
the pretrained network `{recipe["protocol"]["pretrained"]}`
(sha256 `{recipe["pretrained_sha256"][:16]}`).
It predicts the {record.get("convention", "distance")} in metres.

- **Question of the study:** {study.content.get("question") or "none was written down"}
- **Chosen by:** {champion.rule}; from {champion.candidates} choices.
- **Variant:** {record["variant"]}; hyperparameters: {settings}
- **Trained:** {recipe["training"]["steps"]} steps of {recipe["training"]["batch_size"]} images of
  `{recipe["protocol"]["target"]}`, seed {record["seed"]};
  {record.get("trainable_parameters", "unknown")} parameters
- **Run:** `{record["key"][:16]}`; code {environment.get("git_sha", "unknown")[:12]}\
{" with uncommitted changes" if environment.get("dirty") else ""}

## Errors on test scenes ({study.metric}, mean over images)

| domain | role | before | after |
|---|---|---|---|
{rows}

Repeat the run: `dart replay {record["key"][:16]}`. Use it:
`dart evaluate adapter.safetensors --domains {recipe["protocol"]["target"]}`.

## Limits

One seed of a run on the domains above; domains that are not in the table were not measured.
"""
