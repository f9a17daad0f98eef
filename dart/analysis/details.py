"""What runs keep besides their errors: by viewing angle, on the way, and what moved.

Read run by run and not kept: these tables are looked at for a few variants at a time.
"""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from dart.analysis.records import Cell, Study, open_study, refuse
from dart.analysis.tables import Location, read_records
from dart.errors import UserError, did_you_mean
from dart.recipe import ZERO_SHOT

ANGLES = ("domain", "role", "split", "image", "ring", "metric", "before", "after")
CURVES = ("step", "domain", "role", "metric", "value")
INTERPOLATION = ("alpha", "domain", "role", "split", "metric", "value")
UPDATES = ("part", "parameter", "count", "initial", "update", "relative")


def load_angles(
    study: Location, *, metric: str | None = None, results: Location | None = None
) -> pd.DataFrame:
    """Return the errors by polar angle: one row a run, domain and ring, mean over test images.

    Args:
        study: Name, YAML file, or folder in the results.
        metric: The study's own unless given.
        results: Root of the results; ``DART_RESULTS`` or ``results`` unless given.

    Returns:
        ``variant, trial, seed, domain, role, ring`` (its inner edge in degrees), ``images``
        (that see the ring), ``before, after``.

    Raises:
        UserError: If the study is unknown, or no run of it kept such errors.
    """
    opened = open_study(study, results=results)
    metric = metric or opened.record.metric
    table = _load(
        opened, "angles", ANGLES, filters=[("metric", "=", metric), ("split", "=", "test")]
    )
    by = ["variant", "trial", "seed", "domain", "role", "ring"]
    grouped = table.groupby(by, sort=False, observed=True)
    return grouped.agg(
        images=("image", "nunique"), before=("before", "mean"), after=("after", "mean")
    ).reset_index()


def load_curves(
    study: Location, *, metric: str | None = None, results: Location | None = None
) -> pd.DataFrame:
    """Return the errors during training, on a few validation images of each domain.

    Returns:
        ``variant, trial, seed, step, domain, role, metric, value``; step 0 is before training.

    Raises:
        UserError: If the study is unknown, or no run of it kept a curve.
    """
    opened = open_study(study, results=results)
    wanted = metric or opened.record.metric
    return _load(opened, "curves", CURVES, filters=[("metric", "=", wanted)])


def load_updates(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return how far each trained parameter moved from its first value.

    Returns:
        ``variant, trial, seed, part, parameter, count, initial, update, relative``: root mean
        squares of the first values and of the change, and their ratio.

    Raises:
        UserError: If the study is unknown, or no run of it kept its updates.
    """
    return _load(open_study(study, results=results), "updates", UPDATES)


def load_interpolation(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return the errors between the weights before training and those after it.

    Returns:
        ``variant, trial, seed, alpha`` (share of the way), ``domain, role, split, metric, value``
        (mean over images), ``before`` (the same of the network before training).

    Raises:
        UserError: If the study is unknown, or no run of it measured the way.
    """
    opened = open_study(study, results=results)
    table = _load(opened, "interpolation", INTERPOLATION)
    before = {
        (cell.variant, cell.trial, cell.seed, split, domain, metric): value
        for cell, run in read_records(opened)
        if run is not None
        for split, means in (("test", run.domains), ("val", run.validation_domains))
        for domain, of_domain in means.items()
        for metric, value in of_domain.before.items()
    }
    names = ("variant", "trial", "seed", "split", "domain", "metric")
    places = zip(*(table[name].astype(object) for name in names), strict=True)
    return table.assign(before=[before.get(place, float("nan")) for place in places])


def find_run_file(
    study: Study, variant: str, name: str, *, seed: int | None, words: str
) -> tuple[int, Path]:
    """Return the seed of the first run of a variant that kept a file, and the file.

    Args:
        study: Where to look.
        variant: One of the study's.
        name: The file's.
        seed: Only this one, if given.
        words: What a run without the file lacks.

    Raises:
        UserError: There is no such variant, or no run with the file.
    """
    names = list(dict.fromkeys(cell.variant for cell in study.record.cells))
    if variant not in names:
        raise UserError(
            f"unknown variant {variant!r}; the study has: {', '.join(names)}"
            + did_you_mean(variant, names)
        )
    for cell in study.record.cells:
        path = study.run_folder(cell) / name
        if cell.variant == variant and seed in (None, cell.seed) and path.is_file():
            return cell.seed, path
    of_seed = "" if seed is None else f" of seed {seed}"
    raise UserError(f"study {study.record.study!r}: no run of {variant!r}{of_seed} has {words}")


def _load(
    study: Study,
    name: str,
    columns: tuple[str, ...],
    *,
    filters: list[tuple[str, str, str]] | None = None,
) -> pd.DataFrame:
    cells = [
        cell
        for cell, run in read_records(study)
        if run and run.status == "finished" and cell.variant != ZERO_SHOT
    ]
    tables = [
        table for cell in cells if (table := _read(study, cell, name, columns, filters)) is not None
    ]
    if not tables:
        raise UserError(
            f"study {study.record.study!r}: no finished run has kept {name}.parquet; runs made "
            "before it was recorded have none"
        )
    table = pd.concat(tables, ignore_index=True)
    names = list(dict.fromkeys(cell.variant for cell in study.record.cells))
    present = [variant for variant in names if variant in set(table["variant"])]
    return table.assign(variant=pd.Categorical(table["variant"], present, ordered=True))


def _read(
    study: Study,
    cell: Cell,
    name: str,
    columns: tuple[str, ...],
    filters: list[tuple[str, str, str]] | None,
) -> pd.DataFrame | None:
    path = study.run_folder(cell) / f"{name}.parquet"
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, columns=list(columns), filters=filters).to_pandas()
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are among them
        refuse(path, error)
    keys = {"variant": cell.variant, "trial": cell.trial, "seed": cell.seed}
    return table.assign(**keys)[[*keys, *columns]]
