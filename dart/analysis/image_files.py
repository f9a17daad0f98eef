"""The errors per image that runs leave behind, decoded no oftener than they differ.

All runs of a study measure the same images, so their files share most columns byte for byte. Such
a column is decoded once; of a further file only what it measured is.
"""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Integer
from numpy import ndarray

from dart.analysis.records import read_whole, refuse
from dart.errors import UserError

WORDS = ("domain", "role", "split", "image", "metric")
"""Columns of words, which repeat."""
NAMING = ("domain", "role", "split", "image", "scene", "metric")
"""Columns that say what a row is."""
COLUMNS = (*NAMING, "before", "after")
"""In the order in which runs write them."""
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading a damaged file raises; pyarrow's own errors are among them."""

LACKING = "a row lacks one of its numbers or words"
RECENT = 8
"""So many files a further one is compared with before all of it is decoded."""

Key = tuple[object, ...]
Layout = dict[str, Integer[ndarray, " _n"]]
"""What the rows of a file are, sorted by metric and split: words as places in lists of words."""


@dataclass(frozen=True)
class _Known:
    """A file whose columns but the last are decoded.

    Attributes:
        layout: The place of its layout.
        before: Its errors before, as in the file.
        schema: Names and types of its columns.
        compression: How they are packed.
        head: Its bytes up to the errors after; nothing where columns do not lie as runs write them.
    """

    layout: int
    before: Float[ndarray, " n"]
    schema: pq.ParquetSchema
    compression: str
    head: bytes | None

    def is_start_of(self, content: bytes, file: pq.ParquetFile) -> bool:
        """Return whether another file differs from this one in the errors after alone."""
        return (
            self.head is not None
            and content.startswith(self.head)
            and self.schema == file.schema
            and (self.compression, len(self.head)) == _locate(file)
        )


def _locate(file: pq.ParquetFile) -> tuple[str, int | None]:
    """Return the compression of the errors before, and where those after start."""
    if file.metadata.num_row_groups != 1 or file.schema.names != list(COLUMNS):
        return "", None
    chunk = file.metadata.row_group(0).column(COLUMNS.index("before"))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return chunk.compression, start + chunk.total_compressed_size


class ImageFiles:
    """Reads one file after the other, and remembers what they share.

    Attributes:
        words: Column -> its words, in order of appearance.
        layouts: Every different naming of rows.
        orders: For each layout, the place in the file of each of its rows.
    """

    def __init__(self) -> None:
        self.words: dict[str, dict[str, int]] = {name: {} for name in WORDS}
        self.layouts: list[Layout] = []
        self.orders: list[Integer[ndarray, " n"]] = []
        self._namings: dict[Key, int] = {}
        self._befores: dict[Key, Float[ndarray, " n"]] = {}
        self._recent: deque[_Known] = deque(maxlen=RECENT)

    def read(self, path: str) -> tuple[int, Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Return the place of a file's layout, and its errors before and after, as in the file.

        Raises:
            UserError: If there is no such file, or it cannot be read.
        """
        try:
            return self._read(read_whole(path))
        except BROKEN as error:
            _check(Path(path))
            refuse(Path(path), error)

    def _read(self, content: bytes) -> tuple[int, Float[ndarray, " n"], Float[ndarray, " n"]]:
        file = pq.ParquetFile(pa.BufferReader(content))
        known = next((one for one in self._recent if one.is_start_of(content, file)), None)
        if known is None:
            known = self._recognize(content)
            self._recent.appendleft(known)
        [after] = file.read(["after"], use_threads=False).columns
        if after.null_count:
            raise ValueError(LACKING)
        return known.layout, known.before, _to_numbers(after)

    def _recognize(self, content: bytes) -> "_Known":
        """Find out how a file names its rows and what was measured before, by reading all of it."""
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(WORDS))
        table = file.read([*NAMING, "before"], use_threads=False)
        if any(column.null_count for column in table.itercolumns()):
            raise ValueError(LACKING)
        columns = {name: self._to_codes(name, table[name]) for name in WORDS}
        columns["scene"] = table["scene"].to_numpy().astype(np.int64, casting="safe")
        naming = tuple(columns[name].tobytes() for name in NAMING)
        if naming not in self._namings:
            self._add_layout(naming, columns)
        layout = self._namings[naming]
        before = _to_numbers(table["before"])
        before = self._befores.setdefault((layout, before.tobytes()), before)
        compression, end = _locate(file)
        head = None if end is None else content[:end]
        return _Known(layout, before, file.schema, compression, head)

    def _add_layout(self, naming: Key, columns: Layout) -> None:
        # Stable: within a metric and split, rows keep the order of the file.
        order = np.lexsort((columns["split"], columns["metric"]))
        self._namings[naming] = len(self.layouts)
        self.layouts.append({name: columns[name][order] for name in NAMING})
        self.orders.append(order)

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
