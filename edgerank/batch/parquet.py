"""Parquet files, read by ranges of rows and written; needs the extra "batch"."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgerank.batch.inputs import PairRecord, Record, RowRecord
from edgerank.batch.job import BadRow, Kind, Shard
from edgerank.batch.scoring import Scored
from edgerank.closing import Closing
from edgerank.errors import InputError

BATCH_ROWS = 64  # that are read at once: a row may have a thousand documents
NEEDED: dict[Kind, tuple[str, ...]] = {
    "rows": ("query", "documents"),
    "pairs": ("query_id", "document_id"),
}
ID = {"rows": "id", "pairs": "query_id"}


class ParquetRows(Closing):
    """A file that is read from front to back: a shard that begins later is read on to."""

    def __init__(self, path: Path, kind: Kind) -> None:
        """Open a file.

        :raises InputError: it cannot be read, is no Parquet file, or lacks a column
        """
        self._path = path
        self._kind: Kind = kind
        self._file = open_parquet(path, kind)
        optional = [ID[kind]] if ID[kind] in self._file.schema_arrow.names else []
        self._columns = list(dict.fromkeys([*NEEDED[kind], *optional]))
        self._records = iter(())  # type: Iterator[dict[str, Any]]
        self._place = self._file.metadata.num_rows  # row that is read next; at first there is none

    def read(self, shard: Shard) -> Iterator[tuple[int, Record | BadRow]]:
        """Yield a shard's records with their numbers, from 1.

        :raises InputError: the file cannot be read
        """
        kind: type[Record] = RowRecord if self._kind == "rows" else PairRecord
        for offset, record in enumerate(self._between(shard.start, shard.end)):
            number = shard.number + offset
            try:
                yield number, msgspec.convert(record, kind)
            except msgspec.ValidationError as error:
                name = record.get(ID[self._kind])
                name = name if isinstance(name, str | int) else None
                pairs = len(record["documents"] or ()) if self._kind == "rows" else 1
                yield number, BadRow(self._path.name, number, name, str(error), pairs)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _between(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        if start == end:
            return
        if start < self._place:
            self._begin(start)
        try:
            skipped = start - self._place
            yield from islice(self._records, skipped, skipped + end - start)
            self._place = end
        except (pa.ArrowException, OSError) as error:
            raise InputError(str(self._path), f"it cannot be read: {error}") from error

    def _begin(self, start: int) -> None:
        """Go back to the row group of a row."""
        first, self._place = 0, 0
        metadata = self._file.metadata
        while self._place + metadata.row_group(first).num_rows <= start:
            self._place += metadata.row_group(first).num_rows
            first += 1
        batches = self._file.iter_batches(
            BATCH_ROWS, range(first, metadata.num_row_groups), self._columns, use_threads=False
        )
        self._records = (record for batch in batches for record in batch.to_pylist())


def open_parquet(path: Path, kind: Kind) -> pq.ParquetFile:
    """Open a file whose columns are read piece by piece.

    :raises InputError: it cannot be read, is no Parquet file, or lacks a column
    """
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(str(path), f"it cannot be read: {error}") from error
    names = file.schema_arrow.names
    missing = [name for name in NEEDED[kind] if name not in names]
    if missing:
        raise InputError(
            str(path), f"it has no column {' and no column '.join(missing)}; it has {names}"
        )
    return file


def count_pairs(path: Path) -> Iterator[int]:
    """Yield the number of documents of each row.

    :raises InputError: the file cannot be read, or its documents are no lists
    """
    with open_parquet(path, "rows") as file:
        kind = file.schema_arrow.field("documents").type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise InputError(str(path), f"documents must be lists, and are {kind}")
        for batch in file.iter_batches(BATCH_ROWS, columns=["documents"], use_threads=False):
            lengths = pc.list_value_length(batch.column(0))
            yield from (length or 0 for length in lengths.to_pylist())


def query_ids(path: Path) -> Iterator[str]:
    """Yield the query id of each row of pairs.

    :raises InputError: the file cannot be read
    """
    with open_parquet(path, "pairs") as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["query_id"], use_threads=False):
            yield from (str(name) for name in batch.column(0).to_pylist())


def num_rows(path: Path, kind: Kind) -> int:
    """Return the number of rows.

    :raises InputError: the file cannot be read, is no Parquet file, or lacks a column
    """
    with open_parquet(path, kind) as file:
        count: int = file.metadata.num_rows
    return count


def encode_parquet(kind: Kind, scored: Sequence[Scored], *, integer_ids: bool) -> bytes:
    """Write results as a Parquet file.

    :param integer_ids: whether ids of rows are int64, and not strings
    """
    name: Any = pa.int64() if integer_ids else pa.string()
    as_name = int if integer_ids else str
    rows = [one.row for one in scored]
    columns = {
        ID[kind]: pa.array([as_name(row.id) for row in rows], name),
    }
    if kind == "rows":
        scores = [one.scores.tolist() for one in scored]
        columns["query"] = pa.array([row.query for row in rows], pa.string())
        columns["scores"] = pa.array(scores, pa.list_(pa.float32()))
    else:
        columns["document_id"] = pa.array([row.names[0] for row in rows], pa.string())
        columns["score"] = pa.array([one.scores[0] for one in scored], pa.float32())
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def has_integer_ids(paths: Sequence[Path], kind: Kind) -> bool:
    """Whether the ids of all files' rows are integers, or are their numbers."""
    for path in paths:
        with open_parquet(path, kind) as file:
            schema = file.schema_arrow
            if ID[kind] in schema.names and not pa.types.is_integer(schema.field(ID[kind]).type):
                return False
    return True
