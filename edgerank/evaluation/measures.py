"""Measures of a run for each query, and a test of the difference between two runs."""

from __future__ import annotations

from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from scipy.stats import permutation_test

from edgerank.evaluation.collection import Qrels
from edgerank.evaluation.trec import Run

CUTOFF = 10
NDCG = f"nDCG@{CUTOFF}"
MEASURES = (NDCG, f"MRR@{CUTOFF}", f"Recall@{CUTOFF}")
PERMUTATIONS = 10_000
BATCH = 100  # permutations drawn at once, to bound memory


@dataclass(frozen=True)
class Measured:
    """The measures of a run, for every query with judgements."""

    per_query: dict[str, dict[str, float]]  # by measure, then query id

    @property
    def means(self) -> dict[str, float]:
        """Means over all queries with judgements, by measure."""
        return {name: sum(values.values()) / len(values) for name, values in self.per_query.items()}


def evaluate(qrels: Qrels, run: Run) -> Measured:
    """Compute nDCG@10, MRR@10 and Recall@10 as trec_eval does.

    A document is relevant if its relevance is 1 or more; its gain is its relevance. Documents with
    equal scores are in trec_eval's order, not in the run's. A query that is not in the run has 0.
    """
    ndcg, rr, recall = nDCG @ CUTOFF, RR, R @ CUTOFF
    found = _calculate([ndcg, rr, recall], qrels, run)
    # trec_eval has no cutoff for the reciprocal rank, and ir_measures' own implementation breaks
    # ties in another order
    cut = {query: value if value >= 1 / CUTOFF else 0.0 for query, value in found[rr].items()}
    return Measured(dict(zip(MEASURES, (found[ndcg], cut, found[recall]), strict=True)))


def recall_at(cutoff: int, qrels: Qrels, run: Run) -> float:
    """Compute the mean share of the relevant documents that are among the first ``cutoff``."""
    values = _calculate([R @ cutoff], qrels, run)[R @ cutoff]
    return sum(values.values()) / len(values)


def randomisation_test(values: dict[str, float], baseline: dict[str, float]) -> float:
    """Test whether two systems differ on the same queries: a two-sided p.

    The paired randomisation test of Smucker et al., "A Comparison of Statistical Significance Tests
    for Information Retrieval Evaluation" (CIKM 2007): how often does swapping the two systems on
    random queries give a mean difference at least as large?
    """
    differences = np.array([value - baseline[query] for query, value in values.items()])
    if len(differences) < 2:
        return 1.0  # swapping changes only the sign
    tested = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        batch=BATCH,
        random_state=0,
    )
    return float(tested.pvalue)


def _calculate(
    measures: list[ir_measures.Measure], qrels: Qrels, run: Run
) -> dict[ir_measures.Measure, dict[str, float]]:
    """Compute values by measure, then query; a query that is not in the run has 0."""
    found: dict[ir_measures.Measure, dict[str, float]] = {measure: {} for measure in measures}
    for metric in ir_measures.pytrec_eval.iter_calc(measures, qrels, run):
        found[metric.measure][metric.query_id] = metric.value
    return {
        measure: {query: float(values[query]) for query in qrels}
        for measure, values in found.items()
    }
