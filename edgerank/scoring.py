"""Raw scores into scores, and scores into a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgerank.bundle import Scoring

Scores = NDArray[np.float32]


def activate(raw: Scores, scoring: Scoring, *, normalize: bool) -> Scores:
    """Turn the graph's logits or cosines into scores, elementwise.

    :param normalize: return scores in [0, 1]: sigmoid(logit - offset), or (1 + cosine) / 2
    """
    if scoring.rule == "similarity":
        return (1 + raw) * np.float32(0.5) if normalize else raw
    if normalize:
        return _sigmoid(raw - np.float32(scoring.normalize_offset))
    if scoring.activation == "tanh":
        return np.tanh(raw)
    return _sigmoid(raw) if scoring.activation == "sigmoid" else raw


def similarities(query: Scores, documents: Scores) -> Scores:
    """Return the cosines of a unit vector [D] with unit vectors [N, D]: float32 [N]."""
    cosines: Scores = np.clip(documents @ query, -1, 1)
    return cosines


def best_of_each(raw: Scores, owners: Sequence[int], num_documents: int) -> Scores:
    """Give a document the best of its sequences' scores: float32 [num_documents]."""
    best = np.full(num_documents, -np.inf, np.float32)
    np.maximum.at(best, np.asarray(owners), raw)
    return best


def top(scores: Scores, top_k: int | None) -> list[int]:
    """Return the indices of the best scores, best first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")
    return [int(index) for index in order[:top_k]]


def _sigmoid(x: Scores) -> Scores:
    with np.errstate(over="ignore"):  # exp overflows to infinity, the quotient is 0
        probabilities: Scores = np.float32(1) / (np.float32(1) + np.exp(-x))
    return probabilities
