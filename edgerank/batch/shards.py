"""Shards into the contents of their files, one after the other, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgerank.batch.formats import encode
from edgerank.batch.job import BadRow, Job, Row
from edgerank.batch.reading import Reader
from edgerank.batch.scoring import Scored, Window, ahead, compute, prepare, windows
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
    :param tell: called with the number of pairs that were scored, or set aside with their rows,
        since the last call
    :raises InputError: a file cannot be read, or an option is unusable
    :raises EdgerankError: a score is not finite
    """

    def prepared() -> Iterator[tuple[int, Window, bool]]:  # and whether it ends the shard
        for number in numbers:
            shard = job.shards[number]
            name = job.inputs[shard.file].name
            for rows, is_last in _with_last(windows(reader.rows(shard))):
                yield number, prepare(reranker, rows, job.scorer.asking, name), is_last

    scored: list[Scored] = []
    bad: list[BadRow] = []
    for number, window, is_last in ahead(prepared()):
        bad += window.bad
        scored += compute(reranker, window, tell)
        tell(sum(row.pairs for row in window.bad))
        if is_last:
            bad.sort(key=lambda row: row.row)
            yield ShardResult(number, encode(job, scored), tuple(bad))
            scored, bad = [], []


def _with_last(found: Iterable[list[Row | BadRow]]) -> Iterator[tuple[list[Row | BadRow], bool]]:
    """Yield windows, and whether each is the last one; there is one at least."""
    before: list[Row | BadRow] | None = None
    for window in found:
        if before is not None:
            yield before, False
        before = window
    yield before or [], True
