"""Measures ranking quality on a collection with relevance judgements.

    found = evaluate_bundles("collections/scifact", ["models/mxbai-large"])
    for run in found.runs:
        print(run.name, run.means)

``edgerank eval`` calls ``evaluate_bundles``. Its parts are public too, for other protocols: with
``rescore``, any function that scores (query, document) pairs can take the place of a bundle. This
package needs the extra ``eval``.
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
from edgerank.evaluation.protocol import EvaluatedRun, Evaluation, evaluate_bundles
from edgerank.evaluation.rescoring import Rescored, ScorePairs, rescore, rescore_with_bundle
from edgerank.evaluation.trec import Run, read_run, write_run

__all__ = [
    "MEASURES",
    "NDCG",
    "Collection",
    "EvaluatedRun",
    "Evaluation",
    "Measured",
    "Qrels",
    "Rescored",
    "Run",
    "ScorePairs",
    "bm25",
    "evaluate",
    "evaluate_bundles",
    "randomisation_test",
    "read_candidates",
    "read_collection",
    "read_run",
    "recall_at",
    "rescore",
    "rescore_with_bundle",
    "write_run",
]
