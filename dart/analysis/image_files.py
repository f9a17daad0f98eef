"""The errors per image that runs leave behind, decoded no oftener than they differ.

All runs of a study measure the same images, so their files share most columns byte for byte. Such
a column is decoded once; of a further file only what it measured is.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Integer
from numpy import ndarray

from dart.analysis.records import refuse
from dart.errors import UserError

WORDS = ("domain", "role", "split", "image", "metric")
"""Columns of words, which repeat."""
NAMING = ("domain", "role", "split", "image", "scene", "metric")
"""Columns that say what a row is."""
COLUMNS = (*NAMING, "before", "after")
"""In the order in which runs write them."""
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading a damaged file raises; pyarrow's own errors are among them."""

Key = tuple[object, ...]
Layout = dict[str, Integer[ndarray, " _n"]]
"""What the rows of a file are, sorted by metric and split: words as places in lists of words."""


class ImageFiles:
    """Reads one file after the other, and remembers what they share.

    Attributes:
        words: Column -> its words, in order of appearance.
        layouts: Every different naming of rows.
    """

    def __init__(self) -> None:
        self.words: dict[str, dict[str, int]] = {name: {} for name in WORDS}
        self.layouts: list[Layout] = []
        self._orders: list[Integer[ndarray, " n"]] = []
        self._namings: dict[Key, int] = {}
        self._befores: dict[Key, Float[ndarray, " n"]] = {}
        self._schemas: list[pq.ParquetSchema] = []

    def read(self, path: Path) -> tuple[int, Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Return the place of a file's layout, and its errors before and after, in that order.

        Raises:
            UserError: If there is no such file, or it cannot be read.
        """
        try:
            return self._read(path.read_bytes())
        except BROKEN as error:
            _check(path)
            refuse(path, error)

    def _read(self, content: bytes) -> tuple[int, Float[ndarray, " n"], Float[ndarray, " n"]]:
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(WORDS))
        naming, before = self._identify(file, content)
        unknown = [*(NAMING if naming not in self._namings else ()), "after"]
        if (naming, before) not in self._befores:
            unknown.append("before")
        table = file.read(unknown, use_threads=False)
        if any(column.null_count for column in table.itercolumns()):
            raise ValueError("a row lacks one of its numbers or words")
        if naming not in self._namings:
            self._add_layout(naming, table)
        layout = self._namings[naming]
        order = self._orders[layout]
        if (naming, before) not in self._befores:
            self._befores[naming, before] = _to_numbers(table["before"])[order]
        return layout, self._befores[naming, before], _to_numbers(table["after"])[order]

    def _identify(self, file: pq.ParquetFile, content: bytes) -> tuple[Key, Key]:
        """Return what tells the naming of the rows from others, and the errors before."""
        schema = next((i for i, known in enumerate(self._schemas) if known == file.schema), None)
        if schema is None:
            schema = len(self._schemas)
            self._schemas.append(file.schema)
        if file.metadata.num_row_groups != 1 or file.schema.names != list(COLUMNS):
            return (schema, content), (schema, content)  # columns do not lie as runs write them
        chunk = file.metadata.row_group(0).column(COLUMNS.index("before"))
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        end = start + chunk.total_compressed_size
        return (schema, chunk.compression, content[:start]), (content[start:end],)

    def _add_layout(self, naming: Key, table: pa.Table) -> None:
        columns = {name: self._to_codes(name, table[name]) for name in WORDS}
        columns["scene"] = table["scene"].to_numpy().astype(np.int64, casting="safe")
        # Stable: within a metric and split, rows keep the order of the file.
        order = np.lexsort((columns["split"], columns["metric"]))
        self._namings[naming] = len(self.layouts)
        self.layouts.append({name: columns[name][order] for name in NAMING})
        self._orders.append(order)

    def _to_codes(self, name: str, column: pa.ChunkedArray) -> Integer[ndarray, " n"]:
        words = self.words[name]
        whole = column.unify_dictionaries().combine_chunks()
        codes = [words.setdefault(word, len(words)) for word in whole.dictionary.to_pylist()]
        return np.array(codes, np.int32)[whole.indices.to_numpy()]


def _to_numbers(column: pa.ChunkedArray) -> Float[ndarray, " n"]:
    return column.to_numpy().astype(float, copy=False)


def _check(path: Path) -> None:
    """Raise for a column that a file lacks."""
    try:
        columns = set(pq.read_schema(path).names)
    except BROKEN as error:
        refuse(path, error)
    if missing := sorted(set(COLUMNS) - columns):
        raise UserError(f"{path}: cannot be read: it has no column {missing[0]!r}")
