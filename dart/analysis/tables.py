"""From the runs of a study to its final table.

Every number is worked out anew from the means per domain with the study's own metric, through
``metrics.compare``, so that the sign of a change is decided in one place.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from numpy import ndarray
from rich import box
from rich.console import Console
from rich.table import Table

from dart.analysis.images import read_images
from dart.analysis.records import (
    Cell,
    RunRecord,
    Study,
    keeping_everything,
    open_study,
    read_run,
    reading_ahead,
)
from dart.errors import UserError
from dart.metrics import METRICS, compare
from dart.recipe import ZERO_SHOT

MEASURED = (
    "target_before",
    "target_after",
    "adaptation",
    "adaptation_relative",
    "source_before",
    "source_after",
    "forgetting",
    "forgetting_worst",
    "forgetting_relative",
    "held_out_before",
    "held_out_after",
)
"""Columns with a mean and a standard deviation over seeds, in the study's metric."""

SHOWN = {
    "target_after": "target\nafter",
    "adaptation": "adaptation",
    "forgetting": "forgetting",
    "held_out_after": "held-out\nafter",
}

CELL_COLUMNS = ("study", "key", "variant", "trial", "seed")
RUN_COLUMNS = ("metric", "is_baseline", "settings", "status", "reason")
COUNTS = ("trainable_parameters", "total_parameters", "steps")
"""Whole numbers among the costs."""
COSTS = (*COUNTS, "flops_per_image", "wall_seconds")
"""What a run took; absent where it was not recorded."""
COST_COLUMNS = (*COSTS, "peak_memory_mib", "validation_target_after")
IMAGE_COLUMNS = ("domain", "role", "split", "image", "scene", "before", "after")
OUR_COLUMNS = {*CELL_COLUMNS, *RUN_COLUMNS, *COST_COLUMNS, *IMAGE_COLUMNS, *MEASURED}
"""A hyperparameter of such a name is called ``hyperparameter_NAME`` in a frame."""

Location = str | os.PathLike[str]


def load_runs(
    study: Location, *, results: Location | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """Return one row a run that the study asks for, whatever became of it.

    Args:
        study: Name, YAML file, or folder in the results.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        tracking_uri: Address of an MLflow store to read the study from instead.

    Returns:
        Columns ``study, key, variant, trial, seed``, one for each hyperparameter, ``metric,
        is_baseline, settings, status`` (``finished``, ``failed`` or ``missing``), ``reason``,
        those of ``COSTS``, ``peak_memory_mib``, those of ``MEASURED`` and
        ``validation_target_after``. ``variant`` is categorical in the study's order,
        ``zero_shot`` first.

    Raises:
        UserError: If the study is unknown, has no finished run, or a record cannot be read.
    """
    opened = open_study(study, results=results, tracking_uri=tracking_uri)
    return runs_frame(opened, read_records(opened))


def load_study(
    study: Location,
    *,
    results: Location | None = None,
    tracking_uri: str | None = None,
    metrics: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the errors of every image: one row a run, image and metric.

    Args:
        study: Name, YAML file, or folder in the results.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.
        tracking_uri: Address of an MLflow store to read the study from instead.
        metrics: Only these, if given.
        splits: Only these, if given.

    Returns:
        Columns ``study, key, variant, trial, seed``, one for each hyperparameter, ``domain, role,
        split, image, scene, metric, before, after``. The split of the final table is ``test``.

    Raises:
        UserError: If the study is unknown, has no finished run, or a record cannot be read.
    """
    opened = open_study(study, results=results, tracking_uri=tracking_uri)
    finished = [cell for cell, run in read_records(opened) if run and run.status == "finished"]
    return images_frame(opened, finished, metrics=metrics, splits=splits)


def runs_frame(study: Study, records: Sequence[tuple[Cell, RunRecord | None]]) -> pd.DataFrame:
    """Return what ``load_runs`` does, of records that are read already."""
    rows = [_run_row(study, cell, record) for cell, record in records]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(COUNTS, "Int64"))
    return _with_order(frame, study)


def images_frame(
    study: Study,
    cells: Sequence[Cell],
    *,
    metrics: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what ``load_study`` does, of the runs of ``cells``."""
    images = read_images(study, cells, metrics=metrics, splits=splits)
    of_cells = _with_order(pd.DataFrame([_cell_row(study, cell) for cell in cells]), study)
    columns: dict[str, pd.Categorical | ndarray] = {}
    for name, values in of_cells.items():
        if pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = images.of_runs(values.to_numpy())
            continue
        # A word a run, in millions of rows: kept once each.
        kept = values.astype("category").cat
        codes = images.of_runs(kept.codes.to_numpy())
        kind = pd.CategoricalDtype(kept.categories, ordered=kept.ordered)
        columns[str(name)] = pd.Categorical.from_codes(codes, dtype=kind, validate=False)
    return pd.DataFrame(columns | images.columns, copy=False)


def summarize(runs: pd.DataFrame, *, every_trial: bool = False) -> pd.DataFrame:
    """Return the final table: one row a variant, means and spread over its seeds.

    Of a variant with several trials the one with the best target on the validation split is
    shown; what is shown of it is measured on the test split.

    Args:
        runs: From ``load_runs``.
        every_trial: One row a trial instead.

    Returns:
        ``study, metric, variant, baseline, settings, trials, runs`` (finished), ``failed,
        missing``, those of ``COSTS`` (means over the shown runs), and
        those of ``MEASURED``, each with its sample standard deviation over seeds in ``*_std``; not
        a number where nothing was measured.
    """
    rows = []
    for _, of_variant in runs.groupby("variant", sort=True, observed=True):
        trials = [trial for _, trial in of_variant.groupby("trial", sort=False, dropna=False)]
        rows += [
            _summary_row(trial, trial if every_trial else of_variant, trials=len(trials))
            for trial in (trials if every_trial else _choose(trials))
        ]
    return pd.DataFrame(rows).astype({"trainable_parameters": "Int64", "total_parameters": "Int64"})


def to_json(table: pd.DataFrame) -> dict[str, Any]:
    """Return the final table as an object for JSON; what was not measured is null."""
    rows = table.drop(columns=["study", "metric"]).astype(object)
    rows = rows.where(rows.notna(), None)
    return {
        "study": str(table["study"].iloc[0]),
        "metric": str(table["metric"].iloc[0]),
        "variants": rows.to_dict("records"),
    }


def print_table(table: pd.DataFrame, *, console: Console | None = None) -> None:
    """Print the final table to the terminal."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)  # a file has no edge to wrap at
    metric = str(table["metric"].iloc[0])
    better = "higher" if METRICS[metric].higher_is_better else "lower"
    drawn = Table(
        title=f"{table['study'].iloc[0]}: {metric}, mean and spread over seeds",
        caption=f"{better} {metric} is better; adaptation: target gained; forgetting: source lost; "
        "* baseline",
        box=box.SIMPLE_HEAD,
    )
    drawn.add_column("variant", overflow="fold")  # the widest gives way first
    for heading in ("runs", "trainable\nparameters", "target\nbefore", *SHOWN.values()):
        drawn.add_column(heading, justify="right")
    drawn.add_column("forgetting\nrelative", justify="right")
    for _, row in table.iterrows():
        drawn.add_row(*_cells(row))
    console.print(drawn)


def _cells(row: pd.Series) -> Iterator[str]:
    settings = f"\n  {row['settings']}" if row["trials"] > 1 else ""
    yield f"{row['variant']}{' *' if row['baseline'] else ''}{settings}"
    trouble = [f"{row[what]} {what}" for what in ("failed", "missing") if row[what]]
    yield "\n".join([str(row["runs"]), *trouble])
    parameters = row["trainable_parameters"]
    yield "-" if pd.isna(parameters) else f"{parameters:,}"
    yield _number(row, "target_before", spread=False)
    for column in SHOWN:
        yield _number(row, column, spread=row["variant"] != ZERO_SHOT)
    relative = row["forgetting_relative"]
    yield "-" if pd.isna(relative) else f"{relative:+.1%}"


def _number(row: pd.Series, column: str, *, spread: bool) -> str:
    if pd.isna(row[column]):
        return "-"
    sign = "+" if column in {"adaptation", "forgetting"} else ""
    text = f"{row[column]:{sign}.4f}"
    deviation = row[f"{column}_std"]
    return (
        text if pd.isna(deviation) or not spread else f"{text} \N{PLUS-MINUS SIGN}{deviation:.4f}"
    )


def read_records(study: Study) -> list[tuple[Cell, RunRecord | None]]:
    """Return every cell with the record of its run, if it has one.

    Raises:
        UserError: If no run is finished, or a record cannot be read.
    """
    files = [study.run_folder(cell) / "result.json" for cell in study.record.cells]
    with keeping_everything(), reading_ahead(files):
        records = [(cell, read_run(study, cell)) for cell in study.record.cells]
    if not any(run is not None and run.status == "finished" for _, run in records):
        raise UserError(f"study {study.record.study!r} in {study.results} has no finished run yet")
    return records


def _cell_row(study: Study, cell: Cell) -> dict[str, Any]:
    settings = {
        f"hyperparameter_{name}" if name in OUR_COLUMNS else name: value
        for name, value in cell.settings.items()
    }
    return {
        "study": study.record.study,
        "key": cell.key,
        "variant": cell.variant,
        "trial": cell.trial,
        "seed": cell.seed,
        **settings,
    }


def _run_row(study: Study, cell: Cell, run: RunRecord | None) -> dict[str, Any]:
    row = _cell_row(study, cell) | {
        "metric": study.record.metric,
        "is_baseline": cell.variant == study.record.baseline,
        "settings": study.describe(cell),
        "status": run.status if run else "missing",
        "reason": run.reason if run else None,
        **{name: getattr(run, name) if run else None for name in (*COSTS, "peak_memory_mib")},
        "validation_target_after": None,
    }
    if run and run.wall_seconds is not None:
        row["wall_seconds"] = run.wall_seconds / run.fold  # runs of a fold pass it together
    row |= dict.fromkeys(MEASURED)
    return row | _compare(study, cell, run) if run and run.status == "finished" else row


def _compare(study: Study, cell: Cell, run: RunRecord) -> dict[str, float]:
    metric = study.record.metric
    try:
        outcome = compare(_plain(run.domains), metric)
        if run.validation_domains:
            validation = compare(_plain(run.validation_domains), metric)
            outcome["validation_target_after"] = validation["target_after"]
    except (KeyError, ValueError):
        path = study.run_folder(cell) / "result.json"
        raise UserError(f"{path}: cannot be read: no {metric!r} of every domain") from None
    return outcome


def _plain(domains: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: means.model_dump() for name, means in domains.items()}


def _with_order(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    known = set(frame["variant"])
    names = list(dict.fromkeys([ZERO_SHOT, *(cell.variant for cell in study.record.cells)]))
    present = [name for name in names if name in known]
    return frame.assign(variant=pd.Categorical(frame["variant"], present, ordered=True))


def choose_trials(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of one trial a variant: the one that ``summarize`` shows.

    Returns:
        The runs; and the variants of which no trial was measured on validation, so that their
        first was taken.
    """
    chosen, unmeasured = [], []
    for name, of_variant in runs.groupby("variant", sort=True, observed=True):
        trials = [trial for _, trial in of_variant.groupby("trial", sort=False, dropna=False)]
        best = _choose(trials)
        chosen.append(best[0])
        if len(best) > 1:
            unmeasured.append(str(name))
    return pd.concat(chosen), unmeasured


def _choose(trials: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the trial with the best target on validation; all where that was not measured."""
    scores = [trial["validation_target_after"].astype(float).mean() for trial in trials]
    known = [(score, i) for i, score in enumerate(scores) if not pd.isna(score)]
    if not known:
        return trials
    highest = METRICS[trials[0]["metric"].iloc[0]].higher_is_better
    _, best = max(known, key=lambda pair: (pair[0] if highest else -pair[0], -pair[1]))
    return [trials[best]]


def mean_costs(runs: pd.DataFrame) -> dict[str, float | None]:
    """Return what runs of one trial took on average; nothing where none recorded it."""
    means: dict[str, float | None] = {}
    for name in COSTS:
        known = runs[name].dropna().astype(float)
        exact = name in ("trainable_parameters", "total_parameters")  # seeds do not change them
        means[name] = None if known.empty else int(known.iloc[0]) if exact else float(known.mean())
    return means


def _summary_row(trial: pd.DataFrame, counted: pd.DataFrame, *, trials: int) -> dict[str, Any]:
    finished = trial[trial["status"] == "finished"]
    first = trial.iloc[0]
    row: dict[str, Any] = {
        "study": first["study"],
        "metric": first["metric"],
        "variant": first["variant"],
        "baseline": bool(first["is_baseline"]),
        "settings": first["settings"],
        "trials": trials,
        "runs": len(finished),
        "failed": int((counted["status"] == "failed").sum()),
        "missing": int((counted["status"] == "missing").sum()),
        **mean_costs(finished),
    }
    for column in MEASURED:
        values = finished[column].astype(float)
        row[column] = values.mean()
        row[f"{column}_std"] = values.std()
    return row
