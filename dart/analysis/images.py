"""The errors per image of all runs of a study, read fast and kept in one parquet file.

Run folders are complete once they are there and are replaced as a whole, so size and time of
their files tell whether the kept file is still that of the runs. What was measured is kept sorted
by metric and split, so that one metric is read alone; what the rows are is the same in most runs,
and is kept once.
"""

import base64
import hashlib
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Integer, Shaped
from numpy import ndarray

from dart.analysis.image_files import BROKEN, NAMING, ImageFiles, Layout
from dart.analysis.records import Cell, Study, keeping_everything, reading_ahead

MEASURED = ("before", "after")
LAYOUT = b"dart.rows.3"
"""Names the kept file's layout; changed with it."""
AT_ONCE = 64
"""So many runs are sorted together; what they measured stays in the processor's cache."""
DAMAGED = (*BROKEN, zipfile.BadZipFile, zlib.error)
"""What reading a damaged kept file raises."""


class Rows:
    """What the rows of many runs are: by metric and split, then by run, then as in its file.

    Args:
        words: Column -> its words.
        layouts: What the rows of a run may be.
        of_run: The place of each run's layout.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]],
        layouts: Sequence[Layout],
        of_run: Integer[ndarray, " r"],
    ) -> None:
        self.words = {name: list(known) for name, known in words.items()}
        self.layouts = layouts
        self.of_run = of_run
        count = max(1, len(self.words["split"]))
        keys = [np.int64(count) * rows["metric"] + rows["split"] for rows in layouts]
        groups = np.unique(np.concatenate([np.unique(key) for key in keys]))
        self.metrics, self.splits = np.divmod(groups, count)
        self.starts = np.array([np.searchsorted(key, groups, "left") for key in keys])
        self.ends = np.array([np.searchsorted(key, groups, "right") for key in keys])
        self.blocks = [(int(of), len(list(runs))) for of, runs in groupby(of_run)]

    def choose(
        self, metrics: Sequence[str] | None, splits: Sequence[str] | None
    ) -> Integer[ndarray, " g"]:
        """Return the places of the groups of some metrics and splits; all unless given."""
        chosen = np.ones(len(self.metrics), bool)
        for column, codes, wanted in (
            ("metric", self.metrics, metrics),
            ("split", self.splits, splits),
        ):
            if wanted is not None:
                known = [code for code, word in enumerate(self.words[column]) if word in wanted]
                chosen &= np.isin(codes, known)
        return np.flatnonzero(chosen)

    def count(self, groups: Integer[ndarray, " g"]) -> Integer[ndarray, "g r"]:
        """Return how many rows each run has in each of some groups."""
        return (self.ends - self.starts)[self.of_run][:, groups].T

    def expand(self, name: str, groups: Integer[ndarray, " g"]) -> Integer[ndarray, " n"]:
        """Return a column of all runs' rows."""
        if name in self.words:
            kind: np.dtype | type = _smallest(len(self.words[name]))
        else:
            kind = np.result_type(*(_narrow(rows[name]) for rows in self.layouts))
        column = np.empty(int(self.count(groups).sum()), kind)
        position = 0
        for group in groups:
            for of, runs in self.blocks:
                part = self.layouts[of][name][self.starts[of, group] : self.ends[of, group]]
                end = position + runs * len(part)
                column[position:end].reshape(runs, len(part))[:] = part
                position = end
        return column


@dataclass(frozen=True)
class Images:
    """The errors per image of many runs.

    Attributes:
        columns: Those of ``image_files.COLUMNS``, words as categories.
        counts: How many rows each run has in each metric and split.
    """

    columns: dict[str, pd.Categorical | ndarray]
    counts: Integer[ndarray, "g r"]

    def of_runs(self, values: Shaped[ndarray, " r"]) -> Shaped[ndarray, " n"]:
        """Return a value of each run for each of its rows."""
        return np.repeat(np.tile(_narrow(values), len(self.counts)), self.counts.ravel())


def read_images(
    study: Study,
    cells: Sequence[Cell],
    *,
    metrics: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> Images:
    """Return the errors per image of all ``cells``.

    Args:
        metrics: Only these, if given.
        splits: Only these, if given.

    Raises:
        UserError: If a run has no such file, or it cannot be read.
    """
    paths = [study.run_folder(cell) / "per_image.parquet" for cell in cells]
    cache = study.folder / f".per_image-{_fingerprint(cells, paths)}.parquet"
    if cache.is_file():
        with suppress(*DAMAGED):  # made anew
            return _read_kept(cache, metrics, splits)
    rows, errors = _read_all(paths)
    with ThreadPoolExecutor(1) as beside:
        kept = beside.submit(_keep, rows, errors, cache)
        images = _choose_images(rows, errors, metrics, splits)
    with suppress(OSError):  # results may be on a disk that is only read
        kept.result()
    return images


def _choose_images(
    rows: Rows,
    errors: Mapping[str, Float[ndarray, " _n"]],
    metrics: Sequence[str] | None,
    splits: Sequence[str] | None,
) -> Images:
    groups = rows.choose(metrics, splits)
    every = np.arange(len(rows.metrics))
    if len(groups) < len(every):
        starts = np.concatenate([[0], rows.count(every).sum(1).cumsum()])
        parts = [slice(*starts[group : group + 2]) for group in groups]
        errors = {
            name: np.concatenate([values[:0], *(values[part] for part in parts)])
            for name, values in errors.items()
        }
    return _to_images(rows, groups, errors)


def _fingerprint(cells: Sequence[Cell], paths: Sequence[Path]) -> str:
    """Hash which files they are and when they were written."""
    digest = hashlib.sha256(LAYOUT)
    for cell, path in zip(cells, paths, strict=True):
        with suppress(OSError):  # the reader says which one is missing
            state = os.stat(path)
            digest.update(f"{cell.key} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read_all(paths: Sequence[Path]) -> tuple[Rows, dict[str, Float[ndarray, " _n"]]]:
    files = ImageFiles()
    with keeping_everything(), reading_ahead(paths):
        of_run, *measured = zip(*(files.read(str(path)) for path in paths), strict=True)
    rows = Rows(
        {name: [*words] for name, words in files.words.items()}, files.layouts, np.array(of_run)
    )
    errors = {
        name: _sort(rows, files.orders, values)
        for name, values in zip(MEASURED, measured, strict=True)
    }
    return rows, errors


def _sort(
    rows: Rows, orders: Sequence[Integer[ndarray, " _m"]], measured: Sequence[Float[ndarray, " _m"]]
) -> Float[ndarray, " n"]:
    """Return what every run measured, by metric and split, then by run."""
    every = np.arange(len(rows.metrics))
    counts = rows.count(every)
    values = np.empty(int(counts.sum()))
    # For each group, where the rows of the next run belong.
    place = np.concatenate([[0], counts.sum(1).cumsum()])[:-1]
    first = 0
    for of, runs in rows.blocks:
        for start in range(first, first + runs, AT_ONCE):
            stacked = np.stack(measured[start : min(start + AT_ONCE, first + runs)])
            for group in every:
                chosen = orders[of][rows.starts[of, group] : rows.ends[of, group]]
                part = stacked[:, chosen].ravel()
                values[place[group] : place[group] + len(part)] = part
                place[group] += len(part)
        first += runs
    return values


def _to_images(
    rows: Rows, groups: Integer[ndarray, " g"], errors: Mapping[str, Float[ndarray, " _n"]]
) -> Images:
    columns: dict[str, pd.Categorical | ndarray] = {}
    for name in NAMING:
        values = rows.expand(name, groups)
        if name in rows.words:
            kind = pd.CategoricalDtype(pd.Index(rows.words[name], dtype="str"))
            values = pd.Categorical.from_codes(values, dtype=kind, validate=False)
        columns[name] = values
    return Images(columns | dict(errors), rows.count(groups))


def _smallest(count: int) -> type[np.signedinteger]:
    """Return the type that pandas keeps the codes of so many categories in."""
    return np.int8 if count < 2**7 else np.int16 if count < 2**15 else np.int32


def _narrow(values: Shaped[ndarray, " n"]) -> Shaped[ndarray, " n"]:
    """Return whole numbers in four bytes where those hold them; in millions of rows it tells."""
    limits = np.iinfo(np.int32)
    if values.dtype != np.int64 or values.min() < limits.min or values.max() > limits.max:
        return values
    return values.astype(np.int32)


def _keep(rows: Rows, errors: Mapping[str, Float[ndarray, " _n"]], cache: Path) -> None:
    partial = cache.with_suffix(f".{uuid.uuid4().hex}")
    table = pa.table({name: pa.array(errors[name]) for name in MEASURED})
    table = table.replace_schema_metadata({LAYOUT: _pack(rows)})
    # What was measured before repeats, and shrinks to nothing at no cost.
    packing = {"before": "lz4", "after": "none"}
    ends = rows.count(np.arange(len(rows.metrics))).sum(1).cumsum()
    try:
        with pq.ParquetWriter(
            partial,
            table.schema,
            use_dictionary=False,
            write_statistics=False,
            compression=packing,  # pyright: ignore[reportArgumentType]
        ) as writer:
            for start, end in zip([0, *ends], ends, strict=False):
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)
        for old in cache.parent.glob(".per_image-*.parquet"):
            old.unlink(missing_ok=True)
        partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)


def _read_kept(cache: Path, metrics: Sequence[str] | None, splits: Sequence[str] | None) -> Images:
    with pq.ParquetFile(cache) as file:
        rows = _unpack(file.schema_arrow.metadata[LAYOUT])
        groups = rows.choose(metrics, splits)
        table = file.read_row_groups(groups.tolist(), columns=list(MEASURED))
    return _to_images(rows, groups, {name: table[name].to_numpy() for name in MEASURED})


def _pack(rows: Rows) -> bytes:
    """Return ``rows`` as text, which is what parquet keeps beside its columns."""
    content = {
        "words": np.array(json.dumps(rows.words)),
        "lengths": np.array([len(layout["metric"]) for layout in rows.layouts]),
        "of_run": rows.of_run,
    }
    for name in NAMING:
        content[name] = np.concatenate([layout[name] for layout in rows.layouts])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **content)
    return base64.b64encode(buffer.getvalue())


def _unpack(packed: bytes) -> Rows:
    with np.load(io.BytesIO(base64.b64decode(packed))) as content:
        ends = content["lengths"].cumsum()[:-1]
        columns = {name: np.split(content[name], ends) for name in NAMING}
        layouts = [
            dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)
        ]
        return Rows(json.loads(str(content["words"])), layouts, content["of_run"])
