"""The directory that a job writes to: shards, each written whole, and the job itself.

What is there decides what is left to do: a shard is done when its file is there. Names that begin
with an underscore are no data, as for Spark, Hadoop and pyarrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgerank.batch.job import FORMAT_VERSION, BadRow, Job
from edgerank.batch.settings import differences, job_settings
from edgerank.batch.shards import ShardResult
from edgerank.errors import BatchError
from edgerank.files import write_atomically
from edgerank.lock import writing

JOB_NAME = "_job.json"
LOCK_NAME = "_lock"
INPUT_NAME = "_input.json"  # digests of the input, so that it is not hashed again
BAD_ROWS_NAME = "_bad-rows.jsonl"
BAD_PARTS = "_bad-*.jsonl"
QUERIES_INDEX, CORPUS_INDEX = "_queries.index", "_corpus.index"
# what a job writes, and what it may leave behind if it is killed
PART = re.compile(r"part-\d{5,}\.(jsonl|parquet|trec)|_bad-(\d{5,}|rows)\.jsonl|_input\.json")
SCRAP = re.compile(
    r"_(queries|corpus)\.index|\.(part|_bad|_job|_input|_queries|_corpus)[-.].+\.[0-9a-f]{8}"
)
MAX_NAMED = 8  # differences of jobs in a message


@dataclass(frozen=True)
class Output:
    """A job's directory, whose lock this process has."""

    directory: Path
    job: Job

    def done(self) -> set[int]:
        """Return the numbers of the shards that are done."""
        names = {path.name for path in self.directory.iterdir()}
        return {n for n in range(len(self.job.shards)) if self.job.part(n) in names}

    def waiting(self) -> list[int]:
        """Return the numbers of the shards that are not done, in order."""
        return sorted(set(range(len(self.job.shards))) - self.done())

    def bad_rows(self) -> Iterator[BadRow]:
        """Yield the bad rows of the shards that are done, in order."""
        names = {path.name for path in self.directory.glob(BAD_PARTS)}
        for number in sorted(self.done()):
            name = self.job.bad_part(number)
            if name in names:
                for line in (self.directory / name).read_bytes().splitlines():
                    yield msgspec.json.decode(line, type=BadRow)

    def commit(self, result: ShardResult) -> None:
        """Write a shard; its file comes last.

        :raises BatchError: the disk is full, or not to be written to
        """
        with named_errors(self.directory):
            if result.bad:
                lines = msgspec.json.Encoder().encode_lines(result.bad)
                write_atomically(self.directory / self.job.bad_part(result.number), lines)
            write_atomically(self.directory / self.job.part(result.number), result.content)

    def finish(self) -> Job:
        """Put the bad rows into one file, and say in ``_job.json`` that the job is complete.

        :raises BatchError: the disk is full, or not to be written to
        """
        bad = list(self.bad_rows())
        with named_errors(self.directory):
            if bad:
                lines = msgspec.json.Encoder().encode_lines(bad)
                write_atomically(self.directory / BAD_ROWS_NAME, lines)
            scored_pairs = self.job.pairs - sum(row.pairs for row in bad)
            job = msgspec.structs.replace(
                self.job, is_complete=True, scored_pairs=scored_pairs, bad_rows=len(bad)
            )
            write_job(self.directory, job)
        clean(self.directory, job)
        return job


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Make a directory for a job, and hold its lock.

    :raises BatchError: another process works there, or it cannot be written to
    """
    with named_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with writing(directory / LOCK_NAME, BatchError):
        yield


def read_job(directory: Path) -> Job | None:
    """Read what a directory's job is, None if there is none.

    :raises BatchError: it cannot be read, or is of another format
    """
    path = directory / JOB_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"{path}: {error.strerror or error}") from error
    try:
        version = msgspec.json.decode(content, type=_Versioned).format_version
        if version == FORMAT_VERSION:
            return msgspec.json.decode(content, type=Job)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError(f"{path}: not a job: {error}; choose another output") from error
    raise BatchError(
        f"{path}: a job of format {version}, and this edgerank has format {FORMAT_VERSION}; choose"
        " another output"
    )


def write_job(directory: Path, job: Job) -> None:
    """:raises OSError: the disk is full, or not to be written to"""
    encoded = msgspec.json.format(msgspec.json.encode(job), indent=1)
    write_atomically(directory / JOB_NAME, encoded + b"\n")


def check_same(directory: Path, begun: Job, asked: Job) -> None:
    """Check that what was begun is what is asked for.

    :raises BatchError: it is not; the message says what differs
    """
    found = list(differences(job_settings(begun), job_settings(asked)))
    if found:
        named = [f"{name} was {old} and is {new} now" for name, old, new in found[:MAX_NAMED]]
        more = f"; and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        raise BatchError(
            f"{directory}: it has another job: {'; '.join(named)}{more}; give what was given then"
            " to go on with it, choose another output, or begin anew with --restart"
        )


def check_whole(directory: Path, job: Job) -> None:
    """Check that a job that is complete still has all of its shards.

    :raises BatchError: one is missing
    """
    waiting = Output(directory, job).waiting() if job.is_complete else []
    if waiting:
        raise BatchError(
            f"{directory}: it is complete, but {job.part(waiting[0])} is missing; put it back, or"
            " begin anew with --restart"
        )


def check_is_free(directory: Path) -> None:
    """Check that a directory without a job has nothing else.

    :raises BatchError: it has
    """
    for path in sorted(directory.iterdir()):
        if path.name != LOCK_NAME and SCRAP.fullmatch(path.name) is None:
            raise BatchError(f"{directory}: it has {path.name} and no job; choose another output")


def clean(directory: Path, job: Job | None) -> None:
    """Remove what a process that was killed has left, and what a complete job needs no more."""
    for path in directory.iterdir():
        is_part_of_bad = path.name.startswith("_bad-") and path.name != BAD_ROWS_NAME
        is_over = job is not None and job.is_complete and is_part_of_bad
        is_index = path.name in (QUERIES_INDEX, CORPUS_INDEX)
        is_wanted = is_index and job is not None and not job.is_complete
        if is_over or (SCRAP.fullmatch(path.name) and not is_wanted):
            path.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Remove a job, if there is one, and what it wrote.

    :raises BatchError: a file cannot be removed
    """
    job = directory / JOB_NAME
    if not job.exists():
        return
    with named_errors(directory):
        for path in directory.iterdir():
            if PART.fullmatch(path.name) or SCRAP.fullmatch(path.name):
                path.unlink()
        job.unlink()  # last, so that what is left of it is known as its own


@contextmanager
def named_errors(directory: Path) -> Iterator[None]:
    """Name errors of the disk.

    :raises BatchError: for an OSError within
    """
    try:
        yield
    except OSError as error:
        raise BatchError(
            f"{directory}: it cannot be written: {error.strerror or error}; shards that are done"
            " stay, and the same command goes on with the others"
        ) from error


class _Versioned(msgspec.Struct):
    format_version: int
