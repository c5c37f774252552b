"""Ranking quality on a judged collection: candidates, their re-scoring, the usual measures.

    collection = read_collection("collections/scifact")
    candidates = bm25(collection, 100)
    rescored = rescore_with_bundle(collection, candidates, "models/mxbai-large")
    print(evaluate(collection.qrels, rescored.run).means)

Anything that scores (query, document) pairs can stand in for a bundle: see ``rescore``. Needs the
``eval`` extra; nothing else in edgerank imports this package but its command.
"""

from edgerank.evaluation.collection import Collection, Qrels, read_collection
from edgerank.evaluation.first_stage import bm25, read_candidates
from edgerank.evaluation.measures import (
    MEASURES,
    NDCG,
    Measured,
    evaluate,
    randomisation_test,
    recall_at,
)
from edgerank.evaluation.rescoring import Rescored, ScorePairs, rescore, rescore_with_bundle
from edgerank.evaluation.trec import Run, read_run, write_run

__all__ = [
    "MEASURES",
    "NDCG",
    "Collection",
    "Measured",
    "Qrels",
    "Rescored",
    "Run",
    "ScorePairs",
    "bm25",
    "evaluate",
    "randomisation_test",
    "read_candidates",
    "read_collection",
    "read_run",
    "recall_at",
    "rescore",
    "rescore_with_bundle",
    "write_run",
]
