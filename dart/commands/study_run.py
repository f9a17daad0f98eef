"""Running a study and showing what came of it: for ``run_study.py`` and ``dart retry``."""

import json
import sys
from pathlib import Path

from dart.analysis import load_runs, print_table, summarize, to_json
from dart.studies.execute import execute_study
from dart.studies.progress import make_reporter
from dart.studies.runner import Options
from dart.studies.spec import Study


def run_study(study: Study, results: Path, options: Options, *, as_json: bool) -> int:
    """Run what a study misses, print its table and return the exit status.

    Raises:
        UserError: Something that was given cannot be used.
        KeyboardInterrupt: The process was told to end.
    """
    outcome = execute_study(study, results, reporter=make_reporter(), options=options)
    table = summarize(load_runs(study.name, results=results))
    if as_json:
        sys.stdout.write(json.dumps(to_json(table), indent=1) + "\n")
    else:
        print_table(table)
    for cell, result in outcome.failed:
        folder = results / "runs" / cell.key[:16]
        sys.stderr.write(f"failed: {cell.label} ({folder}): {result.get('reason')}\n")
    if outcome.failed:
        sys.stderr.write(
            f"{len(outcome.failed)} of {len(outcome.cells)} runs failed; "
            "--retry-failed runs them again\n"
        )
    where = options.tracking_uri and "MLflow's server"
    sys.stderr.write(f"runs: {where or results / 'mlflow.db'}; see them with: make ui\n")
    return 1 if outcome.failed else 0
