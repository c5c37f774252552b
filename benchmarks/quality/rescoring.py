"""Collections re-ranked, for benchmarks of ranking quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.common.record import Figure
from edgerank.evaluation import NDCG, Collection, Run, evaluate, rescore
from edgerank.evaluation.rescoring import QUERIES_AT_ONCE, Rescored

Scorer = Callable[[Sequence[tuple[str, str]]], np.ndarray]


def rescored(collection: Collection, candidates: Run, score: Scorer) -> Rescored:
    """Score all candidates, with a progress bar."""
    return rescore(
        collection, candidates, score, queries_at_once=QUERIES_AT_ONCE, show_progress=True
    )


def ndcg(collection: Collection, run: Run) -> Figure:
    return Figure(evaluate(collection.qrels, run).means[NDCG])
