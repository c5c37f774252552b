"""Collections re-ranked, for benchmarks of ranking quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

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


def part_of(collection: Collection, queries: Iterable[str]) -> Collection:
    """Return a collection of the same documents with some of its queries."""
    kept = list(queries)
    return Collection(
        name=collection.name,
        documents=collection.documents,
        queries={query: collection.queries[query] for query in kept},
        qrels={query: collection.qrels[query] for query in kept},
    )


def draw(candidates: Run, num_queries: int) -> Run:
    """Draw so many queries at most, always the same ones."""
    drawn = Random(0).sample(sorted(candidates), min(num_queries, len(candidates)))
    return {query: candidates[query] for query in drawn}
