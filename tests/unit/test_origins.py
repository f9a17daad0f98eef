"""Where a report says that its numbers come from."""

import json
from pathlib import Path

from dart.analysis.records import open_study
from dart.analysis.report.origins import describe_origins
from dart.analysis.tables import read_records
from dart.studies.records import run_folder
from tests.helpers.study_results import FakeRun, three_variants, untouched, write_study


def _write_recipe(results: Path, run: FakeRun, **training: object) -> None:
    recipe = {"variant": run.variant, "training": training, "protocol": {"source": ["plain"]}}
    (run_folder(results, run.key) / "recipe.json").write_text(json.dumps(recipe))


def test_fields_of_training_are_told_at_once_unless_runs_differ(tmp_path: Path) -> None:
    runs = [run for run in three_variants() if run.variant != "zero_shot"]
    write_study(tmp_path, [untouched(), *runs])
    for run in runs:
        unfreeze = {"encoder": 0.5} if run.variant == "daa" else {}
        _write_recipe(tmp_path, run, steps=60, loss="si_log", unfreeze=unfreeze)
    _write_recipe(tmp_path, untouched(), steps=0)  # it is not trained
    study = open_study("toy", results=tmp_path)
    origins = describe_origins(study, read_records(study))
    assert origins["training"] == "steps 60, loss si_log"
    assert origins["training: unfreeze"] == "nothing (6 runs); encoder 0.5 (3 runs)"
    assert origins["source"] == "plain"
