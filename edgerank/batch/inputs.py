"""What a job reads: the files, and a shard's rows, each checked or with the reason why not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from edgerank import trec
from edgerank.batch.job import BadRow, InputFormat, Kind, Row, Shard, Source
from edgerank.batch.texts import Texts
from edgerank.beir import CORPUS, QUERIES
from edgerank.documents import check_query, document_text
from edgerank.errors import InputError
from edgerank.files import numbered_lines, open_input

SUFFIXES: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".trec": "trec",
    ".run": "trec",
}
HIDDEN = ("_", ".")  # files of a directory that begin so are not data, as for Spark and Hadoop


class RowRecord(msgspec.Struct, frozen=True):
    """A query and its documents, as a row has them; other fields are not read."""

    query: str
    documents: list[str | dict[str, Any]]
    id: str | int | None = None


class PairRecord(msgspec.Struct, frozen=True):
    """The ids of a query and of a document, as a row has them."""

    query_id: str | int
    document_id: str | int


Record = RowRecord | PairRecord


class _Counted(msgspec.Struct):
    documents: list[msgspec.Raw]


class _Named(msgspec.Struct):
    id: str | int | None = None
    query_id: str | int | None = None


def find_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    corpus: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    collection: str | os.PathLike[str] | None = None,
) -> Source:
    """Find the files of a job.

    :param path: of a file, or of a directory of files that are read in the order of their names
    :param format: "jsonl", "parquet" or "trec"; what the names end in says so by default
    :param corpus: JSONL of documents, for pairs of ids
    :param queries: JSONL of queries, for pairs of ids
    :param collection: a directory in BEIR's layout that has both
    :raises InputError: an option is unusable, or there is no such file
    """
    if format is not None and format not in get_args(InputFormat):
        known = ", ".join(get_args(InputFormat))
        raise InputError("input_format", f"{format!r} is unknown; choose {known}")
    if collection is not None:
        corpus = corpus or Path(collection) / CORPUS
        queries = queries or Path(collection) / QUERIES
    if (corpus is None) != (queries is None):
        missing = "queries" if queries is None else "corpus"
        raise InputError(missing, "pairs need a corpus and a file of queries; name both")
    files = _files(Path(path), format)
    found = {SUFFIXES.get(file.suffix) if format is None else format for file in files}
    if len(found) > 1 or None in found:
        known = ", ".join(SUFFIXES)
        raise InputError(
            str(path), f"expected files of one format, with names in {known}; or name the format"
        )
    source = Source(
        tuple(files),
        msgspec.convert(found.pop(), InputFormat),
        None if corpus is None else Path(corpus),
        None if queries is None else Path(queries),
    )
    if source.format == "trec" and source.kind == "rows":
        raise InputError(str(path), "a run has ids only; name the collection with their texts")
    for file in source.all_files:
        if not file.is_file():
            raise InputError(str(file), "there is no such file")
    return source


def read_lines_between(path: Path, shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a shard that are not blank, with their numbers.

    :raises InputError: the file cannot be read
    """
    with open_input(path) as file:
        file.seek(shard.start)
        lines = iter(lambda: file.readline() if file.tell() < shard.end else b"", b"")
        numbered = numbered_lines(lines) if shard.start == 0 else _later_lines(lines)
        for number, line in numbered:
            yield shard.number + number - 1, line


def decode_records(
    source: Source, file: str, lines: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, Record | BadRow]]:
    """Decode lines of JSON, or of a run.

    :param file: what bad rows call the file
    """
    kind: Any = RowRecord if source.kind == "rows" else PairRecord
    decode = msgspec.json.Decoder(kind).decode
    for number, line in lines:
        try:
            if source.format == "trec":
                query, document, _, _ = trec.parse_line(line)
                yield number, PairRecord(query, document)
            else:
                yield number, decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            pairs = count_documents(line) if source.kind == "rows" else 1
            yield number, BadRow(file, number, _name_in(line), str(error), pairs)
        except ValueError:
            reason = "expected six fields, query Q0 document rank score tag, and a finite score"
            yield number, BadRow(file, number, None, reason)


def count_documents(line: bytes) -> int:
    """Count the documents of a row with texts; a row that cannot be read counts as one."""
    try:
        return len(msgspec.json.decode(line, type=_Counted).documents)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 1


def checked(
    file: str,
    records: Iterable[tuple[int, Record | BadRow]],
    texts: tuple[Texts, Texts] | None,
) -> Iterator[Row | BadRow]:
    """Make rows of records.

    :param file: what bad rows call the file
    :param texts: queries and documents, for pairs
    """
    queries: dict[str, str] = {}  # of the shard, so that each is read once
    for number, record in records:
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            if isinstance(record, RowRecord):
                yield _row(number, record)
            else:
                assert texts is not None
                yield _pair(number, record, *texts, queries)
        except InputError as error:
            if isinstance(record, RowRecord):
                name, pairs = record.id, len(record.documents)
            else:
                name, pairs = record.query_id, 1
            yield BadRow(file, number, name, str(error), pairs)


def fitting_runs(kind: Kind, file: str, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Set rows aside that a run file cannot have: ids with spaces, documents there before.

    :param rows: all of the queries that they are of
    """
    seen: set[tuple[str | int, str]] = set()
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        group = str(row.id) if kind == "pairs" else row.number
        pairs = [(group, name) for name in row.names]
        odd = [name for name in (str(row.id), *row.names) if not trec.fits(name)]
        repeated = [name for _, name in pairs if (group, name) in seen]
        if odd:
            reason = f"the id {odd[0]!r} is empty or holds a space, which run files cannot"
            yield BadRow(file, row.number, row.id, reason, len(row.texts))
        elif repeated or len(set(pairs)) < len(pairs):
            reason = "a document was there before for the query, which run files cannot have"
            yield BadRow(file, row.number, row.id, reason, len(row.texts))
        else:
            seen.update(pairs)
            yield row


def _files(path: Path, format: str | None) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.iterdir()
        if not file.name.startswith(HIDDEN) and (format is not None or file.suffix in SUFFIXES)
    )
    if not files:
        raise InputError(str(path), f"no file in it has a name in {', '.join(SUFFIXES)}")
    return files


def _later_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number lines that do not begin a file, which alone may have a byte order mark."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _name_in(line: bytes) -> str | int | None:
    """Return the id of a row that is unusable otherwise, if it has one."""
    try:
        named = msgspec.json.decode(line, type=_Named)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return named.id if named.id is not None else named.query_id


def _row(number: int, record: RowRecord) -> Row:
    """:raises InputError: a text is unusable"""
    check_query(record.query)
    texts, names = [], []
    for index, document in enumerate(record.documents):
        name = str(index)
        if isinstance(document, dict):
            fields = {key: value for key, value in document.items() if value is not None}
            fields.pop("metadata", None)
            ids = [fields.pop(key, None) for key in ("id", "_id")]
            name = next((str(each) for each in ids if each is not None), name)
            if not fields:
                raise InputError("documents", 'it has no "text"', index)
            document = fields
        texts.append(document_text(document, index=index))
        names.append(name)
    name_of_row = number if record.id is None else record.id
    return Row(number, name_of_row, record.query, tuple(texts), tuple(names))


def _pair(
    number: int, record: PairRecord, queries: Texts, documents: Texts, read: dict[str, str]
) -> Row:
    """:raises InputError: an id is unknown, or the query is blank"""
    query_id, document_id = str(record.query_id), str(record.document_id)
    query = read.get(query_id)
    if query is None:
        query = queries.get(query_id)
        if query is None:
            raise InputError("query_id", f"{query_id!r} is not in the queries")
        read[query_id] = check_query(query)
    text = documents.get(document_id)
    if text is None:
        raise InputError("document_id", f"{document_id!r} is not in the corpus")
    return Row(number, record.query_id, query, (text,), (document_id,))
