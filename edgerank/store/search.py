"""Candidates of a search: the best by BM25, and the best by the pooled vectors.

BM25 is Lucene's (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
2009), with k1 = 1.5 and b = 0.75. Segments keep counts only. The rarity of a word and the average
length of documents are computed over all segments, so scores do not depend on the segment of a
document. Deleted documents count until their segment is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store.segments import Segment

K1, B = np.float32(1.5), np.float32(0.75)


def bm25(segments: Sequence[Segment], words: Sequence[str]) -> list[Scores]:
    """Score all documents by the words of a query: float32 [N] for each segment."""
    lengths = [segment.words.lengths for segment in segments]
    num_documents = sum(map(len, lengths))
    average = np.float32(sum(int(each.sum()) for each in lengths) / max(num_documents, 1))
    scores = [np.zeros(len(each), np.float32) for each in lengths]
    for word in words:
        found = [segment.words.find(word) for segment in segments]
        having = sum(len(documents) for documents, _ in found)
        if not having:
            continue
        rarity = np.float32(math.log1p((num_documents - having + 0.5) / (having + 0.5)))
        for (documents, counts), own, length in zip(found, scores, lengths, strict=True):
            frequency = counts.astype(np.float32)
            damping = K1 * (1 - B + B * length[documents] / average)
            own[documents] += rarity * frequency / (frequency + damping)
    return scores


def best_places(scores: Scores, count: int) -> Ids:
    """Return the indices of the best scores, unordered, without those of -inf."""
    count = min(count, int((scores > -np.inf).sum()))
    if count == 0:
        return np.zeros(0, np.int64)
    return np.argpartition(-scores, count - 1)[:count]
