"""Shards into the contents of their files, one after the other, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgerank.batch.formats import encode
from edgerank.batch.job import BadRow, Job
from edgerank.batch.reading import Reader
from edgerank.batch.scoring import Scored, Window, ahead, compute, prepared_windows
from edgerank.reranker import Reranker


@dataclass(frozen=True)
class ShardResult:
    """A shard that is done, and not yet written."""

    number: int
    content: bytes  # of its file
    bad: tuple[BadRow, ...]


def score_shards(
    reranker: Reranker,
    reader: Reader,
    job: Job,
    numbers: Iterable[int],
    *,
    tell: Callable[[int], None] = lambda pairs: None,
) -> Iterator[ShardResult]:
    """Score shards; while one window of rows is computed, the next is read and tokenised.

    A shard's result depends on the job and the content of its input, and on nothing else.

    :param numbers: of the shards; it is asked for the next before the result of one is there
    :param tell: told of pairs as they are scored
    :raises InputError: a file cannot be read, or an option is unusable
    :raises EdgerankError: a score is not finite
    """

    def prepared() -> Iterator[tuple[int, Window]]:
        for number in numbers:
            shard = job.shards[number]
            rows, name = reader.rows(shard), job.inputs[shard.file].name
            for window in prepared_windows(reranker, rows, job.scorer.asking, name):
                yield number, window

    scored: list[Scored] = []
    bad: list[BadRow] = []
    for number, window in ahead(prepared()):
        bad += window.bad
        scored += compute(reranker, window, tell)
        if window.is_last:
            bad.sort(key=lambda row: row.row)
            yield ShardResult(number, encode(job, scored), tuple(bad))
            scored, bad = [], []
