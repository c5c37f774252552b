"""``run_batch``: a job from beginning to end, on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import msgspec
from tqdm import tqdm

from edgerank.batch.inputs import find_source
from edgerank.batch.job import (
    FORMAT_VERSION,
    MAX_BAD_ROWS,
    SHARD_PAIRS,
    Asking,
    InputFile,
    Job,
    OutputFormat,
    Scorer,
    Source,
)
from edgerank.batch.opening import Opening, describe_scorer
from edgerank.batch.output import (
    CORPUS_INDEX,
    QUERIES_INDEX,
    Output,
    check_is_free,
    check_same,
    clean,
    holding,
    named_errors,
    read_job,
    remove,
    write_job,
)
from edgerank.batch.plan import plan_shards
from edgerank.batch.reading import Indexes, Reader
from edgerank.batch.shards import ShardResult, score_shards
from edgerank.batch.texts import Texts, index_texts
from edgerank.batch.workers import Task, score_in_processes
from edgerank.bundle import DEFAULT_BUNDLE, sha256_of
from edgerank.cpu import physical_cores
from edgerank.documents import LongDocuments, check_integer, check_long_documents
from edgerank.errors import BatchError, InputError
from edgerank.files import write_atomically

# results of shards in any order, and between them numbers of pairs that were scored meanwhile
Results = Iterator[ShardResult | int]


@dataclass(frozen=True)
class Summary:
    """What a job came to."""

    pairs: int  # of the whole job
    shards: int
    bad_rows: int
    scored_shards: int  # by this call; the others were there


@dataclass(frozen=True)
class Begun:
    """A job that can be scored."""

    output: Output
    source: Source
    indexes: Indexes | None
    check_unchanged: Callable[[], None]  # raises BatchError if the input was changed meanwhile


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
    processes: int = 1,
    threads: int | None = None,
    shard_pairs: int = SHARD_PAIRS,
    max_bad_rows: int = MAX_BAD_ROWS,
    restart: bool = False,
    show_progress: bool = False,
) -> Summary:
    """Score all rows of files into a directory of shards, or go on where that was broken off.

    With several processes, a program calls this under ``if __name__ == "__main__":``.

    :param input: a JSONL, Parquet or run file, or a directory of such files
    :param output: the directory; what is done in it already is not done again
    :param input_format: "jsonl", "parquet" or "trec"; what names end in says so by default
    :param format: of the output; the input's by default
    :param corpus: JSONL of documents, if rows are pairs of ids
    :param queries: JSONL of queries, if rows are pairs of ids
    :param collection: a directory in BEIR's layout, instead of these two
    :param processes: that score, each with a model of its own
    :param threads: of each process; by default they share the physical cores
    :param shard_pairs: pairs of a query and a document in a shard, at most
    :param max_bad_rows: rows without scores, more of which end the job
    :param restart: remove what another job, or the same one, has left in the directory
    :param show_progress: draw a progress bar on stderr

    The other parameters are those of ``Reranker`` and ``Reranker.score``.

    :raises InputError: an option or a file is unusable
    :raises BatchError: the directory has another job, or is in use, or cannot be written to; there
        are too many bad rows; a process was killed. What is done stays.
    :raises EdgerankError: as raised by ``Reranker``
    """
    for name, value, least in (
        ("processes", processes, 1),
        ("shard_pairs", shard_pairs, 1),
        ("max_bad_rows", max_bad_rows, 0),
    ):
        check_integer(name, value, least)
    check_long_documents(long_documents)
    source = find_source(
        input, format=input_format, corpus=corpus, queries=queries, collection=collection
    )
    if format is not None and format not in get_args(OutputFormat):
        raise InputError(
            "format", f"{format!r} is unknown; choose {', '.join(get_args(OutputFormat))}"
        )
    if threads is None:
        threads = max(1, physical_cores() // processes)
    opening = Opening(bundle, threads, variant, kernels, max_length, max_batch_tokens, trust)
    asking = Asking(instruction, normalize, long_documents)
    with opening.open() as reranker:
        list(_asked(reranker, asking))
        scorer = describe_scorer(reranker, asking)
        with begin(
            source, Path(output), scorer, format or source.format, shard_pairs, restart
        ) as begun:
            waiting = begun.output.waiting()
            job = begun.output.job
            if processes > 1:
                reranker.close()
                task = Task(job, source, begun.indexes, opening)
                results: Results = score_in_processes(task, waiting, min(processes, len(waiting)))
            ...
    raise NotImplementedError
