"""How a model's features add up to a probability, fitted on lists that it was not trained on.

Two questions are fitted one after the other, as they have answers of different kinds: in which
proportion features rank best, by cross-entropy over each list, and how sure a score may be, by a
scale and an offset (Platt, "Probabilistic Outputs for Support Vector Machines", 1999).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from edgerank.documents import make_pairs
from edgerank.engine import Output, gather
from edgerank.reranker import Reranker
from quantize.architectures.late_interaction import FEATURES_OUTPUT
from quantize.training.corpus import CorpusRecord
from quantize.training.mining import Candidates
from quantize.training.model import BertForLateInteraction

Doubles = NDArray[np.float64]
BINS = 10
FEATURES = Output(FEATURES_OUTPUT)


def features_of(
    bundle: Path,
    records: Sequence[CorpusRecord],
    lists: Sequence[Candidates],
    threads: int | None = None,
) -> Doubles:
    """Return the features of lists of one length: [lists, size, features], right ones first.

    :param bundle: of a late-interaction checkpoint, rounded as it is to be used
    """
    reranker = Reranker(bundle, threads=threads)
    found = []
    for item in lists:
        passages = [records[place].passage for place in item.passages]
        prepared = reranker.prepare(make_pairs(item.query, passages), long_documents="truncate")
        rows = reranker.steps(prepared.groups, FEATURES)
        distinct = {text: row for row, text in enumerate(dict.fromkeys(passages))}
        features = gather(rows, FEATURES, len(distinct))
        assert isinstance(features, np.ndarray)
        found.append(features[[distinct[text] for text in passages]])
    return np.stack(found).astype(np.float64)


def fit(model: BertForLateInteraction, features: Doubles) -> dict[str, Any]:
    """Set the model's last layer; return what it is and how reliable its scores are.

    Every other list is fitted on, the rest is measured on.
    """
    fitted, measured = features[::2], features[1::2]
    weights = fit_proportions(fitted)
    scale, offset = fit_scale(fitted @ weights)
    with torch.no_grad():
        model.head.weight[0] = torch.tensor(weights * scale)
        model.head.bias[0] = offset
    probabilities = 1 / (1 + np.exp(-(measured @ weights * scale + offset)))
    return {
        "weights": (weights * scale).tolist(),
        "bias": float(offset),
        "lists": len(measured),
        "mrr": _mrr(measured @ weights),
        "mrr_by_feature": [_mrr(measured[..., i]) for i in range(features.shape[2])],
        "auc": separation(probabilities),
        "reliability": reliability(probabilities),
    }


def fit_proportions(features: Doubles) -> Doubles:
    """Weigh features, none below zero, so that the first of each list scores best."""

    def loss(weights: Doubles) -> float:
        logits = features @ weights
        peak = logits.max(axis=1, keepdims=True)
        sums = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
        return float((sums - logits[:, 0]).mean())

    num = features.shape[2]
    found = minimize(loss, np.full(num, 5.0), method="L-BFGS-B", bounds=[(0, None)] * num)
    weights: Doubles = found.x
    return weights


def fit_scale(scores: Doubles) -> tuple[float, float]:
    """Fit sigmoid(scale * score + offset) to being the first of a list [lists, size]."""
    is_right = np.zeros(scores.shape)
    is_right[:, 0] = 1

    def loss(parameters: Doubles) -> float:
        logits = scores * parameters[0] + parameters[1]
        return float((np.logaddexp(0, logits) - is_right * logits).mean())

    scale, offset = minimize(loss, np.array([1.0, -scores.mean()]), method="L-BFGS-B").x
    return float(scale), float(offset)


def reliability(probabilities: Doubles) -> list[dict[str, float]]:
    """Compare probabilities [lists, size] with how often they came true, in tenths."""
    is_right = np.zeros(probabilities.shape, bool)
    is_right[:, 0] = True
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        {
            "from": number / BINS,
            "pairs": int((bins == number).sum()),
            "mean_score": float(probabilities[bins == number].mean()),
            "share_right": float(is_right[bins == number].mean()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]


def separation(scores: Doubles) -> float:
    """Return how often a right one of scores [lists, size] is above a wrong one, of all pairs."""
    right, wrong = scores[:, 0], scores[:, 1:].ravel()
    found = mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    return float(found)


def write_report(directory: Path, found: dict[str, Any]) -> None:
    """Write what ``fit`` found as calibration.json, and a reliability diagram, calibration.svg."""
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "calibration.json").write_text(json.dumps(found, indent=1) + "\n")
    bins = found["reliability"]
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    scores, shares = ([one[key] for one in bins] for key in ("mean_score", "share_right"))
    axes.plot(scores, shares, marker="o")
    for one in bins:
        place = one["mean_score"], one["share_right"]
        axes.annotate(
            f"{one['pairs']:,}", place, textcoords="offset points", xytext=(6, -10), fontsize=7
        )
    axes.set(xlabel="mean score", ylabel="share of right passages", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{found['lists']:,} lists, pairs in each tenth; AUC {found['auc']:.3f}")
    figure.savefig(directory / "calibration.svg", metadata={"Date": None})


def _mrr(scores: Doubles) -> float:
    ranks = 1 + (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    return float((1 / ranks).mean())
