"""A job begun, or gone on with: its lock, what it is bound to, its shards, its indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import msgspec
from tqdm import tqdm

from edgerank.batch.digests import (
    Hashed,
    hash_files,
    read_digests,
    stamp_of,
    write_digests,
)
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
    INPUT_NAME,
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
from edgerank.errors import BatchError
from edgerank.files import write_atomically

Files = Mapping[Path, Hashed]


@dataclass(frozen=True)
class Begun:
    """A job whose shards can be scored: its directory is held, and its input is known."""

    output: Output
    source: Source
    indexes: Indexes | None  # None for rows that have their texts, and once the job is complete
    files: Files  # of the input, as they were when the job began, or was gone on with

    def check_unchanged(self) -> None:
        """Check that the input is what it was when the job began, or was gone on with.

        :raises BatchError: a file was changed
        :raises InputError: a file is not there any more
        """
        for path, file in self.files.items():
            before, now = file.digest.stamp, stamp_of(path)
            if (now.size, now.modified) != (before.size, before.modified):
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
    show_progress: bool = False,
) -> Iterator[Begun]:
    """Hold a job's directory, and find out what is done and what is left.

    All input is hashed, which takes seconds a gigabyte, but for files that this job has hashed
    before and whose stamps are the same. So a job goes on with a copy of its input, and never with
    another.

    :param restart: remove what another job, or the same one, has left in the directory
    :param show_progress: draw progress bars on stderr while input is hashed, while texts are
        indexed, and while the input is cut into shards
    :raises InputError: a file of the input is unusable
    :raises BatchError: the directory is in use, has another job, or cannot be written to
    """
    with holding(directory):
        if restart:
            remove(directory)
        found = read_job(directory)
        if found is None:
            check_is_free(directory)
        known = read_digests(directory / INPUT_NAME)
        files = hash_files(source.all_files, known, show_progress=show_progress)
        asked = describe_job(source, files, scorer, format, shard_pairs)
        if found is not None and Output(directory, found).done():
            check_same(directory, found, asked)
            check_whole(directory, found)
        elif found is not None:  # no shard is done, so the job may be another one from now on
            found = None
            remove(directory)
        clean(directory, found)
        indexes = None
        if source.kind == "pairs" and (found is None or not found.is_complete):
            indexes = _indexed(source, directory, asked, show_progress)
        if found is None:
            shards = tuple(_planned(source, asked, indexes, show_progress))
            found = msgspec.structs.replace(asked, shards=shards)
            with named_errors(directory):
                write_job(directory, found)
        with named_errors(directory):
            write_digests(directory / INPUT_NAME, list(files.values()))
        begun = Begun(Output(directory, found), source, indexes, files)
        begun.check_unchanged()
        yield begun


def describe_job(
    source: Source, files: Files, scorer: Scorer, format: OutputFormat, shard_pairs: int
) -> Job:
    """Describe a job up to its shards.

    :param files: all of the source
    :raises InputError: a file cannot be read
    """

    def described(path: Path) -> InputFile:
        digest = files[path].digest
        return InputFile(path.name, digest.stamp.size, digest.sha256)

    integer_ids = False
    if format == source.format == "parquet":
        from edgerank.batch.parquet import has_integer_ids

        integer_ids = has_integer_ids(source.files, source.kind)
    return Job(
        format_version=FORMAT_VERSION,
        kind=source.kind,
        input_format=source.format,
        inputs=tuple(map(described, source.files)),
        corpus=None if source.corpus is None else described(source.corpus),
        queries=None if source.queries is None else described(source.queries),
        scorer=scorer,
        format=format,
        integer_ids=integer_ids,
        shard_pairs=shard_pairs,
    )


def _indexed(source: Source, directory: Path, asked: Job, show_progress: bool) -> Indexes:
    """Index the texts of pairs, unless the job has done that before."""
    assert source.queries is not None and source.corpus is not None
    assert asked.queries is not None and asked.corpus is not None
    indexes = Indexes(directory / QUERIES_INDEX, directory / CORPUS_INDEX)
    texts = (
        (source.queries, asked.queries.size, indexes.queries),
        (source.corpus, asked.corpus.size, indexes.corpus),
    )
    missing = [(path, size, index) for path, size, index in texts if not index.exists()]
    with tqdm(
        total=sum(size for _, size, _ in missing),
        unit="B",
        unit_scale=True,
        desc="index texts",
        disable=not (show_progress and missing),
    ) as bar:
        for path, _, index in missing:
            with named_errors(directory):
                write_atomically(index, index_texts(path, tell=bar.update))
    return indexes


def _planned(
    source: Source, asked: Job, indexes: Indexes | None, show_progress: bool
) -> Iterator[Shard]:
    with ExitStack() as stack:
        queries = None
        if indexes is not None and source.queries is not None:
            queries = stack.enter_context(Texts(source.queries, indexes.queries))
        shards = plan_shards(source, asked.format, asked.shard_pairs, queries)
        yield from _shown(shards, source, asked) if show_progress else shards


def _shown(shards: Iterable[Shard], source: Source, asked: Job) -> Iterator[Shard]:
    """Pass shards on, and show on a progress bar how much of the input they cover."""
    unit, sizes = "B", [file.size for file in asked.inputs]
    if source.format == "parquet":
        from edgerank.batch.parquet import num_rows

        unit, sizes = " rows", [num_rows(path, source.kind) for path in source.files]
    begins = [0, *accumulate(sizes)]  # of each file, and the end of the last one
    with tqdm(total=begins[-1], unit=unit, unit_scale=unit == "B", desc="plan shards") as bar:
        for shard in shards:
            bar.update(begins[shard.file] + shard.end - bar.n)
            yield shard
        bar.update(begins[-1] - bar.n)  # files may end in blank lines
