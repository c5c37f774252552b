"""A job begun, or gone on with: its lock, what it is bound to, its shards, its indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgerank.batch.job import (
    FORMAT_VERSION,
    InputFile,
    Job,
    OutputFormat,
    Scorer,
    Shard,
    Source,
)
from edgerank.batch.output import (
    CORPUS_INDEX,
    QUERIES_INDEX,
    Output,
    check_is_free,
    check_same,
    check_whole,
    clean,
    holding,
    named_errors,
    read_job,
    remove,
    write_job,
)
from edgerank.batch.plan import plan_shards
from edgerank.batch.reading import Indexes
from edgerank.batch.texts import Texts, index_texts
from edgerank.bundle import sha256_of
from edgerank.errors import BatchError, InputError
from edgerank.files import write_atomically

Stamps = dict[Path, tuple[int, int]]  # size and time of change of each file


@dataclass(frozen=True)
class Begun:
    """A job that can be scored."""

    output: Output
    source: Source
    indexes: Indexes | None  # None for rows that have their texts, and once the job is complete
    stamps: Stamps  # of the input when its content was hashed

    def check_unchanged(self) -> None:
        """Check that the input is what it was when the job began, or was gone on with.

        :raises BatchError: a file was changed
        """
        for path, stamp in _stamps(self.source).items():
            if stamp != self.stamps[path]:
                raise BatchError(
                    f"{path}: it was changed while it was read; begin anew with --restart"
                )


@contextmanager
def begin(
    source: Source,
    directory: Path,
    scorer: Scorer,
    *,
    format: OutputFormat,
    shard_pairs: int,
    restart: bool = False,
) -> Iterator[Begun]:
    """Hold a job's directory, and find out what is done and what is left.

    The content of all input is hashed each time, which takes seconds a gigabyte: a job goes on with
    a copy of its input, and never with another.

    :param restart: remove what another job, or the same one, has left in the directory
    :raises InputError: a file of the input is unusable
    :raises BatchError: the directory is in use, has another job, or cannot be written to
    """
    with holding(directory):
        if restart:
            remove(directory)
        found = read_job(directory)
        if found is None:
            check_is_free(directory)
        stamps = _stamps(source)
        asked = describe_job(source, scorer, format, shard_pairs)
        if found is not None and Output(directory, found).done():
            check_same(directory, found, asked)
            check_whole(directory, found)
        elif found is not None:  # nothing of it is worth keeping
            found = None
            remove(directory)
        clean(directory, found)
        indexes = None
        if source.kind == "pairs" and (found is None or not found.is_complete):
            indexes = _indexed(source, directory)
        if found is None:
            shards = tuple(_planned(source, asked, indexes))
            found = msgspec.structs.replace(asked, shards=shards)
            with named_errors(directory):
                write_job(directory, found)
        begun = Begun(Output(directory, found), source, indexes, stamps)
        begun.check_unchanged()
        yield begun


def describe_job(source: Source, scorer: Scorer, format: OutputFormat, shard_pairs: int) -> Job:
    """Describe a job up to its shards.

    :raises InputError: a file cannot be read
    """
    integer_ids = False
    if format == source.format == "parquet":
        from edgerank.batch.parquet import has_integer_ids

        integer_ids = has_integer_ids(source.files, source.kind)
    return Job(
        format_version=FORMAT_VERSION,
        kind=source.kind,
        input_format=source.format,
        inputs=tuple(_described(path) for path in source.files),
        corpus=None if source.corpus is None else _described(source.corpus),
        queries=None if source.queries is None else _described(source.queries),
        scorer=scorer,
        format=format,
        integer_ids=integer_ids,
        shard_pairs=shard_pairs,
    )


def _described(path: Path) -> InputFile:
    """:raises InputError: the file cannot be read"""
    try:
        return InputFile(path.name, path.stat().st_size, sha256_of(path))
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error


def _stamps(source: Source) -> Stamps:
    """:raises InputError: a file is not there any more"""
    stamps = {}
    for path in source.all_files:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(str(path), error.strerror or str(error)) from error
        stamps[path] = status.st_size, status.st_mtime_ns
    return stamps


def _indexed(source: Source, directory: Path) -> Indexes:
    """Index the texts of pairs, unless the job has done that before."""
    assert source.queries is not None and source.corpus is not None
    indexes = Indexes(directory / QUERIES_INDEX, directory / CORPUS_INDEX)
    for path, index in ((source.queries, indexes.queries), (source.corpus, indexes.corpus)):
        if not index.exists():
            with named_errors(directory):
                write_atomically(index, index_texts(path))
    return indexes


def _planned(source: Source, asked: Job, indexes: Indexes | None) -> Iterator[Shard]:
    with ExitStack() as stack:
        queries = None
        if indexes is not None and source.queries is not None:
            queries = stack.enter_context(Texts(source.queries, indexes.queries))
        yield from plan_shards(source, asked.format, asked.shard_pairs, queries)
