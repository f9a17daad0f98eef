"""The errors per image of all runs of a study, read fast and kept in one parquet file.

Run folders are complete once they are there and are replaced as a whole, so size and time of
their files tell whether the kept file is still that of the runs. Words are kept as numbers into
lists of words, and rows sorted by metric and split, so that one metric is read alone.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dart.analysis.records import Cell, Study, refuse
from dart.errors import UserError

COLUMNS = ("domain", "role", "split", "image", "scene", "metric", "before", "after")
WORDS = ("domain", "role", "split", "image", "metric")
"""Columns of words, which repeat."""
BATCH = 256
"""Files read at once: the name of each row's file is known only while it is in memory."""
LAYOUT = b"dart.words.2"
"""Names the kept file's layout; changed with it."""
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading a damaged file raises; pyarrow's own errors are among them."""


def read_images(
    study: Study,
    cells: Sequence[Cell],
    *,
    metrics: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the errors per image of all ``cells``: column -> values, words as categories.

    Args:
        metrics: Only these, if given.
        splits: Only these, if given.

    Returns:
        Those of ``COLUMNS``, and ``run``, the position in ``cells``.

    Raises:
        UserError: If a run has no such file, or it cannot be read.
    """
    paths = [study.run_folder(cell) / "per_image.parquet" for cell in cells]
    cache = study.folder / f".per_image-{_fingerprint(cells, paths)}.parquet"
    wanted = {"metric": metrics, "split": splits}
    if cache.is_file():
        with suppress(*BROKEN):  # a damaged file is made anew
            return _read_kept(cache, wanted)
    images = _read_all(paths)
    with suppress(OSError):  # results may be on a disk that is only read
        _keep(images, cache)
    selected = _select(_words(images), wanted)
    return _to_columns(images if selected is None else images.filter(selected))


def _fingerprint(cells: Sequence[Cell], paths: Sequence[Path]) -> str:
    """Hash which files they are and when they were written."""
    digest = hashlib.sha256(LAYOUT)
    for cell, path in zip(cells, paths, strict=True):
        with suppress(OSError):  # the reader says which one is missing
            state = os.stat(path)
            digest.update(f"{cell.key} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _words(images: pa.Table | pq.ParquetFile) -> dict[str, list[str]]:
    schema = images.schema_arrow if isinstance(images, pq.ParquetFile) else images.schema
    return json.loads(schema.metadata[LAYOUT])


def _select(
    words: Mapping[str, list[str]], wanted: Mapping[str, Sequence[str] | None]
) -> pc.Expression | None:
    expression = None
    for column, values in wanted.items():
        if values is not None:
            codes = [code for code, word in enumerate(words[column]) if word in values]
            part = pc.field(column).isin(pa.array(codes, pa.int32()))
            expression = part if expression is None else expression & part
    return expression


def _read_kept(cache: Path, wanted: Mapping[str, Sequence[str] | None]) -> dict[str, Any]:
    with pq.ParquetFile(cache) as file:
        selected = _select(_words(file), wanted)
    # Kept files are never written to, so they can be read where they lie.
    return _to_columns(pq.read_table(cache, filters=selected, memory_map=True, pre_buffer=False))


def _to_columns(images: pa.Table) -> dict[str, Any]:
    words = _words(images)
    columns: dict[str, Any] = {name: images[name].to_numpy() for name in images.column_names}
    for name, known in words.items():
        kind = pd.CategoricalDtype(pd.Index(known, dtype="str"))
        columns[name] = pd.Categorical.from_codes(columns[name], dtype=kind, validate=False)
    return columns


def _keep(images: pa.Table, cache: Path) -> None:
    partial = cache.with_suffix(f".{uuid.uuid4().hex}")
    # All but the measured numbers repeats, and shrinks to nothing at no cost.
    packing = {name: "none" if name == "after" else "lz4" for name in images.column_names}
    try:
        with pq.ParquetWriter(
            partial,
            images.schema,
            use_dictionary=False,
            compression=packing,  # pyright: ignore[reportArgumentType]
        ) as writer:
            for part in _parts(images):
                writer.write_table(part)
        for old in cache.parent.glob(".per_image-*.parquet"):
            old.unlink(missing_ok=True)
        partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)


def _parts(images: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each metric and split: groups that are read, or not, as a whole."""
    codes = [images[name].to_numpy() for name in ("metric", "split")]
    changes = np.any([np.diff(column) != 0 for column in codes], axis=0)
    ends = [*(np.flatnonzero(changes) + 1).tolist(), images.num_rows]
    for start, end in zip([0, *ends], ends, strict=False):
        yield images.slice(start, end - start)


def _read_all(paths: Sequence[Path]) -> pa.Table:
    tables = []
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        try:
            tables.append(_read_batch(batch, first=start))
        except BROKEN:
            for path in batch:
                _check(path)
            raise
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    words = {}
    for name in WORDS:
        column = table[name].combine_chunks()
        words[name] = column.dictionary.to_pylist()
        narrow = pa.int8() if len(words[name]) < 128 else pa.int32()
        table = table.set_column(table.column_names.index(name), name, column.indices.cast(narrow))
    # Stable, so that rows keep the order of runs and of each run's file.
    order = np.lexsort([table[name].to_numpy() for name in ("split", "metric")])
    table = table.take(pa.array(order))
    return table.replace_schema_metadata({LAYOUT: json.dumps(words)})


def _read_batch(paths: Sequence[Path], *, first: int) -> pa.Table:
    layout = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=WORDS))
    names = [str(path) for path in paths]
    table = ds.dataset(names, format=layout).to_table(columns=[*COLUMNS, "__filename"])
    if any(table[column].null_count for column in COLUMNS):
        raise ValueError("a file lacks a column that others have")
    places: Mapping[str, int] = {name: first + i for i, name in enumerate(names)}
    files = table["__filename"].dictionary_encode().unify_dictionaries().combine_chunks()
    runs = np.array([places[name] for name in files.dictionary.to_pylist()], np.int32)
    table = table.drop_columns("__filename")
    return table.append_column("run", pa.array(runs[files.indices.to_numpy()]))


def _check(path: Path) -> None:
    """Raise for the file that cannot be read, by name."""
    try:
        columns = set(pq.read_table(path).column_names)
    except BROKEN as error:
        refuse(path, error)
    if missing := sorted(set(COLUMNS) - columns):
        raise UserError(f"{path}: cannot be read: it has no column {missing[0]!r}")
