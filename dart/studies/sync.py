"""MLflow's copy of a study, written anew from the run folders; they are the truth."""

import json
from pathlib import Path
from typing import Any

from dart.recipe import ProtocolSpec, TrainingSpec
from dart.studies.lock import lock_study
from dart.studies.summary import Written, in_study_metric, summarize_runs


def sync_study(study: Written, *, uri: str | None = None) -> int:
    """Log every committed run of a study that MLflow lacks; return how many runs there are.

    Raises:
        UserError: The study is running, or MLflow cannot use its database.
    """
    # MLflow takes two seconds to import.
    from dart.tracking import StudyTracker  # noqa: PLC0415

    status = study.status()
    with lock_study(study.folder):
        tracker = StudyTracker(study.results, study.name, about=study.about, uri=uri)
        for cell, record in study.committed():
            tracker.sync(
                cell,
                read_recipe(study, cell),
                result={**record, **in_study_metric(record, study.metric)},
                folder=study.run_folder(cell["key"]),
            )
        runs = [(cell["variant"], record) for cell, record in study.committed()]
        files: list[Path] = [study.folder / "study.yaml", study.folder / "cells.json"]
        summary = summarize_runs(runs, study.metric)
        tracker.close(status, summary=summary, artifacts=files)
        return len(runs)


def read_recipe(study: Written, cell: dict[str, Any]) -> dict[str, Any]:
    """Return a run's recipe, with the study's metric; without a readable one what its cell says."""
    try:
        recipe = json.loads((study.run_folder(cell["key"]) / "recipe.json").read_text())
        recipe["protocol"]["metric"] = study.metric
        return recipe
    except (OSError, ValueError, KeyError, TypeError):
        return {
            "variant": cell["variant"],
            "seed": cell["seed"],
            "hyperparameters": cell.get("hyperparameters", {}),
            "training": TrainingSpec().model_dump() | cell.get("training", {}),
            "protocol": ProtocolSpec().model_dump(),
        }
