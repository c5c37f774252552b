"""Rows into scores, with a reranker: bounded memory, full micro-batches, bad rows set aside.

for result in score_rows(reranker, rows, Asking()):
    ...  # a Scored or a BadRow for each row; of a window, the bad rows come first
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgerank.batch.job import Asking, BadRow, Row
from edgerank.documents import Pair
from edgerank.engine import Array, gather
from edgerank.errors import EdgerankError, InputError
from edgerank.packing import Batch
from edgerank.ranking import Scores
from edgerank.reranker import Reranker
from edgerank.rules import Prepared

WINDOW_PAIRS = 4096  # that are tokenised and packed together
WINDOW_CHARACTERS = 1 << 22  # of their texts; a token takes some 150 bytes until it is computed

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """A row and its scores."""

    row: Row
    scores: Scores  # float32 [documents], in the order of the row


@dataclass(frozen=True)
class Window:
    """Rows that are computed together: queries share their work, documents go longest first."""

    rows: Sequence[Row]
    bad: Sequence[BadRow]
    prepared: Prepared[Scores]

    @property
    def num_pairs(self) -> int:
        return sum(len(row.texts) for row in self.rows)


def score_rows(
    reranker: Reranker,
    rows: Iterable[Row | BadRow],
    asking: Asking,
    *,
    file: str = "",
    tell: Callable[[int], None] = lambda pairs: None,
) -> Iterator[Scored | BadRow]:
    """Score rows, window by window, while the next window is read and tokenised.

    The scores are those of ``Reranker.score`` for each row, to the bit where the kernels promise
    it: see ``docs/kernels.md``. They depend on the rows and on nothing else, so they have the same
    bits each time.

    :param file: what bad rows call the rows' file
    :param tell: called with the number of pairs that were scored since the last call
    :raises InputError: an option is unusable
    :raises EdgerankError: a score is not finite, or the reranker is closed
    """
    for window in ahead(prepared_windows(reranker, rows, asking, file)):
        yield from window.bad
        yield from compute(reranker, window, tell)


def prepared_windows(
    reranker: Reranker, rows: Iterable[Row | BadRow], asking: Asking, file: str
) -> Iterator[Window]:
    """Yield windows, ready to be computed.

    :raises InputError: an option is unusable
    """
    return (prepare(reranker, window, asking, file) for window in windows(rows))


def windows(rows: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """Cut rows into lists of a bounded size; one row may exceed it."""
    window: list[Row | BadRow] = []
    pairs = characters = 0
    for row in rows:
        num_pairs = num_characters = 1
        if isinstance(row, Row):
            num_pairs = max(1, len(row.texts))
            num_characters = len(row.query) + sum(map(len, row.texts))
        is_full = (
            pairs + num_pairs > WINDOW_PAIRS or characters + num_characters > WINDOW_CHARACTERS
        )
        if window and is_full:
            yield window
            window, pairs, characters = [], 0, 0
        window.append(row)
        pairs += num_pairs
        characters += num_characters
    if window:
        yield window


def compute(reranker: Reranker, window: Window, tell: Callable[[int], None]) -> Iterator[Scored]:
    """Compute a window.

    :raises EdgerankError: a score is not finite, or the reranker is closed
    """
    prepared = window.prepared
    steps = reranker.steps(prepared.groups, prepared.output)
    watched = _watched(steps, prepared.num_scores, window.num_pairs, tell)
    scores = prepared.reduce(gather(watched, prepared.output, prepared.num_scores))
    start = 0
    for row in window.rows:
        own = scores[start : start + len(row.texts)]
        start += len(row.texts)
        if not np.isfinite(own).all():
            raise EdgerankError(f"row {row.number}: a score is not finite; the model is unusable")
        yield Scored(row, own)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, each taken in a thread of its own while the one before is in use."""
    end = object()
    thread = ThreadPoolExecutor(1, "edgerank-ahead")
    try:
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item  # type: ignore[misc]  # the end is no item
    finally:
        thread.shutdown(wait=False)  # what is being taken may wait for something that never comes


def prepare(
    reranker: Reranker, window: Iterable[Row | BadRow], asking: Asking, file: str
) -> Window:
    """Tokenise rows, and set those aside that have a document which is refused.

    :raises InputError: an option is unusable
    """
    rows = [row for row in window if isinstance(row, Row)]
    bad = [row for row in window if isinstance(row, BadRow)]
    try:
        return Window(rows, bad, _tokenised(reranker, rows, asking))
    except InputError as error:
        if error.index is None:  # an option, and no document
            raise
    good = []
    for row in rows:  # at most twice the work, however many are refused
        try:
            _tokenised(reranker, [row], asking)
            good.append(row)
        except InputError as error:
            reason = f"{error.path}: {error.reason}"
            bad.append(BadRow(file, row.number, row.id, reason, len(row.texts)))
    return Window(good, bad, _tokenised(reranker, good, asking))


def _tokenised(reranker: Reranker, rows: Sequence[Row], asking: Asking) -> Prepared[Scores]:
    """:raises InputError: a document is refused; its index is its place in its row"""
    pairs = [Pair(row.query, text, index) for row in rows for index, text in enumerate(row.texts)]
    return reranker.prepare(
        pairs,
        instruction=asking.instruction,
        normalize=asking.normalize,
        long_documents=asking.long_documents,
    )


def _watched(
    steps: Iterable[tuple[Batch, Array]],
    num_scores: int,
    num_pairs: int,
    tell: Callable[[int], None],
) -> Iterator[tuple[Batch, Array]]:
    """Pass micro-batches on, and tell of the pairs that they are worth."""
    finished = told = 0
    for batch, raw in steps:
        yield batch, raw
        finished += int((batch.score_ids >= 0).sum())
        worth = num_pairs * finished // num_scores
        tell(worth - told)
        told = worth
    tell(num_pairs - told)  # of a window without sequences, too
