"""A job's source, opened: the rows of any of its shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgerank.batch.inputs import checked, decode_records, fitting_runs, read_lines_between
from edgerank.batch.job import BadRow, OutputFormat, Row, Shard, Source
from edgerank.batch.texts import Texts
from edgerank.closing import Closing

if TYPE_CHECKING:
    from edgerank.batch.parquet import ParquetRows


@dataclass(frozen=True)
class Indexes:
    """Files that say where the texts of pairs are."""

    queries: Path
    corpus: Path


class Reader(Closing):
    """Reads the rows of shards; each process has its own."""

    def __init__(self, source: Source, format: OutputFormat, indexes: Indexes | None) -> None:
        """Open a source.

        :param format: of the output: a run file cannot have every row
        :param indexes: for pairs
        :raises OSError: a file of texts cannot be read
        """
        self._source = source
        self._format = format
        self._opened = ExitStack()
        self._texts: tuple[Texts, Texts] | None = None
        self._parquet: tuple[int, ParquetRows] | None = None  # the file that was read last
        if indexes is not None:
            assert source.queries is not None and source.corpus is not None
            self._texts = (
                self._opened.enter_context(Texts(source.queries, indexes.queries)),
                self._opened.enter_context(Texts(source.corpus, indexes.corpus)),
            )

    def rows(self, shard: Shard) -> Iterator[Row | BadRow]:
        """Yield a shard's rows.

        :raises InputError: the file cannot be read
        """
        path = self._source.files[shard.file]
        if self._source.format == "parquet":
            records = self._opened_parquet(shard.file).read(shard)
        else:
            lines = read_lines_between(path, shard)
            records = decode_records(self._source, path.name, lines)
        rows = checked(path.name, records, self._texts)
        if self._format == "trec":
            rows = fitting_runs(self._source.kind, path.name, rows)
        return rows

    def close(self) -> None:
        """Close all files."""
        self._opened.close()

    def _opened_parquet(self, file: int) -> ParquetRows:
        from edgerank.batch.parquet import ParquetRows

        if self._parquet is None or self._parquet[0] != file:
            if self._parquet is not None:
                self._parquet[1].close()
            opened = ParquetRows(self._source.files[file], self._source.kind)
            self._parquet = file, self._opened.enter_context(opened)
        return self._parquet[1]
