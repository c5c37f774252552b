"""Functions on arrays of scores and vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgerank.manifest import Activation
from edgerank.ranking import Scores

Function = Callable[[Scores], Scores]  # elementwise


def sigmoid(x: Scores) -> Scores:
    """1 / (1 + exp(-x))"""
    with np.errstate(over="ignore"):  # exp overflows to infinity, the quotient is 0
        probabilities: Scores = np.float32(1) / (np.float32(1) + np.exp(-x))
    return probabilities


def identity(x: Scores) -> Scores:
    """Return x."""
    return x


# each activation, and the range of its values
ACTIVATIONS: dict[Activation, tuple[Function, tuple[float, float]]] = {
    "identity": (identity, (-np.inf, np.inf)),
    "sigmoid": (sigmoid, (0.0, 1.0)),
    "tanh": (np.tanh, (-1.0, 1.0)),
}


def cosines(query: Scores, documents: Scores) -> Scores:
    """Return the cosines of a unit vector [D] with unit vectors [N, D]: float32 [N]."""
    # not with BLAS, whose sums depend on the number of rows
    found: Scores = np.clip((documents * query).sum(axis=1), -1, 1)
    return found


def unit_rows(vectors: Scores) -> Scores:
    """Divide each row of [N, D] by its length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Scores = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return rows


def best_of_each(raw: Scores, document_index: Sequence[int], num_documents: int) -> Scores:
    """Give a document the best of its sequences' scores: float32 [num_documents].

    :param document_index: for each sequence, the index of its document
    """
    best = np.full(num_documents, -np.inf, np.float32)
    np.maximum.at(best, np.asarray(document_index), raw)
    return best
