"""Where a job's shards begin: one pass over its input, that looks at nothing but sizes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import msgspec
import numpy as np

from edgerank import trec
from edgerank.batch.inputs import count_documents
from edgerank.batch.job import Kind, OutputFormat, Shard, Source
from edgerank.batch.texts import Texts
from edgerank.errors import InputError
from edgerank.files import open_input


class Extent(msgspec.Struct, frozen=True):
    """A row, before anything else of it is read."""

    start: int  # bytes from the beginning of the file, or rows
    end: int
    number: int  # from 1
    pairs: int
    query: str | None = None  # of pairs, where those of a query are to stay together


class _Query(msgspec.Struct):
    query_id: str | int


def plan_shards(
    source: Source, format: OutputFormat, shard_pairs: int, queries: Texts | None
) -> Iterator[Shard]:
    """Cut a source into shards: every row once, in order; there is one shard at least.

    A shard has ``shard_pairs`` pairs at most, or one row. In a run file the ranks are of a query's
    documents, so all pairs of a query are in one shard then.

    :param queries: for pairs
    :raises InputError: a file cannot be read, or a query is in two places of the input of a run
    """
    together = format == "trec" and source.kind == "pairs"
    once = _Once(queries) if together and queries is not None else None
    planned = 0
    for index, path in enumerate(source.files):
        extents = _extents(source, path, together)
        if once is not None:
            extents = once.check(path, extents)
        for shard in cut(index, extents, shard_pairs):
            planned += 1
            yield shard
    if not planned:  # so that an empty output can be read, too
        yield Shard(0, 0, 0, 1, 0)


def cut(file: int, extents: Iterable[Extent], shard_pairs: int) -> Iterator[Shard]:
    """Lay consecutive rows of a file into shards.

    :param shard_pairs: that a shard has at most, unless one row, or one query of pairs that stay
        together, has more
    """
    begun: Shard | None = None
    size = 0
    for group in _groups(extents):
        first, last = group[0], group[-1]
        pairs = sum(extent.pairs for extent in group)
        more = sum(max(1, extent.pairs) for extent in group)  # rows without documents count, too
        if begun is not None and size + more <= shard_pairs:
            begun = msgspec.structs.replace(begun, end=last.end, pairs=begun.pairs + pairs)
            size += more
            continue
        if begun is not None:
            yield begun
        begun, size = Shard(file, first.start, last.end, first.number, pairs), more
    if begun is not None:
        yield begun


def _groups(extents: Iterable[Extent]) -> Iterator[Sequence[Extent]]:
    """Yield each row by itself, or with the others of its query that stand beside it."""
    group: list[Extent] = []
    for extent in extents:
        if group and (extent.query is None or extent.query != group[-1].query):
            yield group
            group = []
        group.append(extent)
    if group:
        yield group


def _extents(source: Source, path: Path, together: bool) -> Iterator[Extent]:
    """:raises InputError: the file cannot be read"""
    if source.format == "parquet":
        yield from _parquet_extents(path, source.kind, together)
        return
    with open_input(path) as file:
        offset = 0
        for number, line in enumerate(file, 1):
            end = offset + len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                query = _query_of(source, line) if together else None
                pairs = count_documents(line) if source.kind == "rows" else 1
                yield Extent(offset, end, number, pairs, query)
            offset = end


def _parquet_extents(path: Path, kind: Kind, together: bool) -> Iterator[Extent]:
    from edgerank.batch import parquet

    counts: Iterable[int] = repeat(1, parquet.num_rows(path, kind))
    if kind == "rows":
        counts = parquet.count_pairs(path)
    names: Iterable[str | None] = parquet.query_ids(path) if together else repeat(None)
    for row, (pairs, query) in enumerate(zip(counts, names, strict=False)):
        yield Extent(row, row + 1, row + 1, pairs, query)


def _query_of(source: Source, line: bytes) -> str | None:
    """Return the query of a pair, None if it cannot be read."""
    try:
        if source.format == "trec":
            return trec.parse_line(line)[0]
        return str(msgspec.json.decode(line, type=_Query).query_id)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class _Once:
    """Notices a query that comes back after another one: a byte a query is what it takes."""

    def __init__(self, queries: Texts) -> None:
        self._queries = queries
        self._is_past = np.zeros(len(queries), bool)
        self._last: str | None = None

    def check(self, path: Path, extents: Iterable[Extent]) -> Iterator[Extent]:
        """:raises InputError: a query comes back"""
        for extent in extents:
            if extent.query is not None and extent.query != self._last:
                self._last = extent.query
                place = self._queries.place(extent.query)
                if place is not None and self._is_past[place]:
                    raise InputError(
                        str(path),
                        f"row {extent.number}: the query {extent.query!r} was there before, with"
                        " others between; sort the rows by query, or write another format",
                    )
                if place is not None:
                    self._is_past[place] = True
            yield extent
