"""``run_batch``: a job from beginning to end, on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from edgerank.batch.begin import Begun, begin
from edgerank.batch.inputs import find_source
from edgerank.batch.job import (
    MAX_BAD_ROWS,
    PROCESSES,
    SHARD_PAIRS,
    Asking,
    BadRow,
    Cluster,
    Job,
    OutputFormat,
)
from edgerank.batch.opening import Opening, describe_scorer
from edgerank.batch.output import BAD_PARTS, BAD_ROWS_NAME
from edgerank.batch.reading import Reader
from edgerank.batch.shards import ShardResult, score_shards
from edgerank.batch.workers import Task, score_in_processes
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cpu import default_threads, physical_cores
from edgerank.documents import LongDocuments, check_integer, make_pairs
from edgerank.errors import BatchError, InputError
from edgerank.extras import needs_extra
from edgerank.reranker import Reranker


@dataclass(frozen=True)
class Summary:
    """What a job came to."""

    pairs: int  # that have scores, of the whole job
    shards: int
    bad_rows: int
    scored_shards: int  # by this call; the others were done before


def run_batch(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
    input_format: str | None = None,
    format: OutputFormat | None = None,
    corpus: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    collection: str | os.PathLike[str] | None = None,
    instruction: str | None = None,
    normalize: bool = False,
    long_documents: LongDocuments | None = None,
    max_length: int | None = None,
    max_batch_tokens: int | None = None,
    variant: str | None = None,
    kernels: str | None = None,
    trust: str | os.PathLike[str] | None = None,
    processes: int = PROCESSES,
    threads: int | None = None,
    cluster: Cluster | None = None,
    shard_pairs: int = SHARD_PAIRS,
    max_bad_rows: int = MAX_BAD_ROWS,
    restart: bool = False,
    show_progress: bool = False,
) -> Summary:
    """Score all rows of files into a directory of shards, or go on where that was broken off.

    With several processes, a program calls this under ``if __name__ == "__main__":``.

    :param input: a JSONL, Parquet or run file, or a directory of such files
    :param output: the directory; what is done in it is not done again
    :param input_format: "jsonl", "parquet" or "trec"; the ends of names say so by default
    :param format: of the output; the input's by default
    :param corpus: JSONL of documents, if rows are pairs of ids
    :param queries: JSONL of queries, if rows are pairs of ids
    :param collection: a directory in BEIR's layout, instead of these two
    :param processes: that score, each with a model of its own
    :param threads: of each process; by default they share the physical cores
    :param cluster: of Ray, whose actors score instead of processes; each node reads the input and
        the bundle from the same paths
    :param shard_pairs: pairs of a query and a document in a shard, at most
    :param max_bad_rows: rows that get no scores; more of them end the job
    :param restart: remove what another job, or the same one, has left in the directory
    :param show_progress: draw progress bars on stderr

    The other parameters are those of ``Reranker`` and ``Reranker.score``.

    :raises InputError: an option or a file is unusable
    :raises BatchError: the directory has another job, or is in use, or cannot be written to; there
        are too many bad rows; a process was killed. What is done stays.
    :raises EdgerankError: as raised by ``Reranker``
    """
    check_integer("processes", processes, 1)
    check_integer("shard_pairs", shard_pairs, 1)
    check_integer("max_bad_rows", max_bad_rows, 0)
    if format is not None and format not in get_args(OutputFormat):
        known = ", ".join(get_args(OutputFormat))
        raise InputError("format", f"{format!r} is unknown; choose {known}")
    source = find_source(
        input, format=input_format, corpus=corpus, queries=queries, collection=collection
    )
    if "parquet" in (source.format, format):
        with needs_extra("reading and writing Parquet", "batch"):
            import pyarrow.parquet  # noqa: F401  # an error before anything is written
    if cluster is not None:
        check_integer("cluster.actor_cpus", cluster.actor_cpus, 1)
        with needs_extra("scoring on Ray", "ray"):
            from edgerank.batch.on_ray import score_on_ray
    opening = Opening(bundle, threads, variant, kernels, max_length, max_batch_tokens, trust)
    if threads is None and cluster is None:
        share = max(1, physical_cores() // processes)
        opening = replace(opening, threads=min(default_threads(), share))
    asking = Asking(instruction, normalize, long_documents)
    with opening.open() as reranker:
        _check_options(reranker, asking)
        with begin(
            source,
            Path(output),
            describe_scorer(reranker, asking),
            format=format or source.format,
            shard_pairs=shard_pairs,
            restart=restart,
            show_progress=show_progress,
        ) as begun:
            job = begun.output.job
            waiting = begun.output.waiting()
            with _progress(job, waiting, show_progress) as tell:
                if cluster is not None and waiting:
                    reranker.close()
                    task = Task(job, source, begun.indexes, opening)
                    results = score_on_ray(task, waiting, cluster, tell)
                elif processes == 1 or not waiting:
                    results = _score_here(reranker, begun, waiting, tell)
                else:
                    reranker.close()
                    task = Task(job, source, begun.indexes, opening)
                    processes = min(processes, len(waiting))
                    results = score_in_processes(task, waiting, processes, tell)
                with closing(results):
                    return keep(begun, results, max_bad_rows)


def keep(begun: Begun, results: Iterable[ShardResult], max_bad_rows: int) -> Summary:
    """Write results as they come, in any order, and finish the job.

    :raises BatchError: there are too many bad rows, or no others; the input was changed meanwhile;
        or the directory cannot be written to
    """
    output = begun.output
    job = output.job
    scored_shards = 0
    if not job.is_complete:
        bad = list(output.bad_rows())
        _check_limit(begun, bad, max_bad_rows)
        for result in results:
            begun.check_unchanged()
            output.commit(result)
            scored_shards += 1
            bad += result.bad
            _check_limit(begun, bad, max_bad_rows)
        job = output.finish()
    assert job.scored_pairs is not None and job.bad_rows is not None
    if job.bad_rows and not job.scored_pairs:
        raise BatchError(
            f"{output.directory}: all rows are bad; {BAD_ROWS_NAME} says why; correct the input and"
            " begin anew with --restart"
        )
    return Summary(job.scored_pairs, len(job.shards), job.bad_rows, scored_shards)


def _check_limit(begun: Begun, bad: Sequence[BadRow], max_bad_rows: int) -> None:
    """:raises BatchError: there are too many bad rows"""
    if len(bad) > max_bad_rows:
        first = bad[0]
        raise BatchError(
            f"{begun.output.directory}: bad rows: {len(bad):,}, and the limit (--max-bad-rows) is"
            f" {max_bad_rows:,}; row {first.row} of {first.file}: {first.reason}; {BAD_PARTS} in"
            " the output have all of them; go on with a higher limit, or correct the input and"
            " begin anew with --restart"
        )


def _check_options(reranker: Reranker, asking: Asking) -> None:
    """Check the options of scoring before anything is written.

    :raises InputError: one is unusable
    """
    reranker.prepare(
        make_pairs("a", ["a"]),
        instruction=asking.instruction,
        normalize=asking.normalize,
        long_documents=asking.long_documents,
    )


def _score_here(
    reranker: Reranker, begun: Begun, numbers: Sequence[int], tell: Callable[[int], None]
) -> Generator[ShardResult, None, None]:
    output = begun.output
    with Reader(begun.source, output.job.format, begun.indexes) as reader:
        yield from score_shards(reranker, reader, output.job, numbers, tell=tell)


@contextmanager
def _progress(
    job: Job, waiting: Sequence[int], show_progress: bool
) -> Iterator[Callable[[int], None]]:
    """Draw a bar of pairs, with their rate and the time that is left."""
    left = sum(job.shards[number].pairs for number in waiting)
    with tqdm(
        total=job.pairs,
        initial=job.pairs - left,
        unit=" pairs",
        desc="batch",
        disable=not show_progress,
    ) as bar:
        yield bar.update
