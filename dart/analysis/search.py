"""How far a search has come: the area that its trials dominate, trial by trial."""

import json
from pathlib import Path

import pandas as pd

from dart.analysis.records import open_study
from dart.analysis.tables import Location
from dart.errors import UserError

COLUMNS = ["search", "trial", "state", "target", "forgetting", "feasible", "hypervolume"]


def search_history(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return what each trial of a search reached and the area dominated after it.

    Measured on the validation split, means over seeds; both objectives are minimised, so that
    ``target`` is negated where higher is better.

    Returns:
        One row a trial: ``search`` (a variant, or ``all variants``), ``trial``, ``state``
        (``complete``, ``pruned``, ``fail``), ``target, forgetting`` (not a number where it did not
        finish), ``feasible``, ``hypervolume``.

    Raises:
        UserError: The study is no search, or none of its trials has finished.
    """
    opened = open_study(study, results=results)
    path = opened.folder / "hypervolume.jsonl"
    if not path.exists():
        raise UserError(
            f"study {opened.record.study!r} has no finished trial of a search (design: search)"
        )
    return _read(path, ["search", "trial"]).reindex(columns=COLUMNS)


def prune_history(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return every decision that ended a run early, or let it go on.

    Returns:
        One row a run and rung: ``variant, trial, seed, step, target, source`` (errors so far),
        ``rank`` (fronts ahead of it), ``place`` among the ``reached``, ``decision``.

    Raises:
        UserError: No run of the study came to a rung.
    """
    opened = open_study(study, results=results)
    path = opened.folder / "asha.jsonl"
    if not path.exists():
        raise UserError(f"study {opened.record.study!r}: no run came to a rung (pruning)")
    return _read(path, ["variant", "trial", "step"])


def _read(path: Path, order: list[str]) -> pd.DataFrame:
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off while it was written
    return pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True)
