"""How far scores and rankings agree with float32's, on pairs that BM25 finds in collections."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from benchmarks.common.record import Figure
from benchmarks.peers.workers.worker import RELEVANCE
from edgerank.evaluation import bm25, read_collection

TOP = 10
DOCUMENTS_AT_ONCE = 50
MAX_LENGTH = 1024  # tokens of a prompt; no document here is cut

Pair = tuple[str, str]  # query, document
Scores = NDArray[np.float64]


def pairs_of(
    collections: Sequence[Path], num_queries: int, num_candidates: int
) -> list[list[Pair]]:
    """Return each collection's first queries with the documents that BM25 finds for each."""
    pairs = []
    for directory in collections:
        collection = read_collection(directory)
        run = bm25(collection, num_candidates)
        for query, found in itertools.islice(run.items(), num_queries):
            text = collection.queries[query]
            pairs.append([(text, collection.documents[document]) for document in found])
    return pairs


def write_template(path: Path) -> Path:
    """Write the relevance prompt as a template of ``quantize``."""
    prompt = {
        "query": [{"text": piece} for piece in RELEVANCE.query],
        "document": [{"text": piece} for piece in RELEVANCE.document],
    }
    score = {RELEVANCE.yes: 1.0, RELEVANCE.no: -1.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prompt": prompt, "score": score, "max_length": MAX_LENGTH}))
    return path


def compare(found: Scores, expected: Scores, pairs: Sequence[Sequence[Pair]]) -> dict[str, Figure]:
    """Compare scores, and rankings of each query's documents, with float32's.

    :param found: scores of all pairs, float64 [pairs]
    """
    errors, spread = found - expected, spread_of(expected, pairs)
    both = list(zip(by_query(found, pairs), by_query(expected, pairs), strict=True))
    return {
        "rms error / spread": Figure(float(np.sqrt(np.square(errors).mean()) / spread)),
        "largest error / spread": Figure(float(np.abs(errors).max() / spread)),
        "rho, all pairs": Figure(float(spearmanr(found, expected).statistic)),
        "rho of a query": Figure(float(np.mean([spearmanr(a, b).statistic for a, b in both]))),
        "tau of a query": Figure(float(np.mean([kendalltau(a, b).statistic for a, b in both]))),
        f"top {TOP} in common, %": Figure(float(100 * np.mean([_in_common(*b) for b in both]))),
    }


def by_query(scores: Scores, pairs: Sequence[Sequence[Pair]]) -> list[Scores]:
    return np.split(scores, np.cumsum([len(of_query) for of_query in pairs])[:-1])


def spread_of(scores: Scores, pairs: Sequence[Sequence[Pair]]) -> float:
    """Return the mean over queries of the standard deviation of scores."""
    return float(np.mean([of_query.std() for of_query in by_query(scores, pairs)]))


def _in_common(found: Scores, expected: Scores) -> float:
    best, theirs = (set(np.argsort(-scores)[:TOP].tolist()) for scores in (found, expected))
    return len(best & theirs) / len(theirs)
