"""Hits, and the order of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgerank.documents import Document

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A ranked document."""

    index: int  # its index in the input
    score: float
    document: Document | None  # None with return_documents=False


def top(scores: Scores, top_k: int | None) -> list[int]:
    """Return the indices of the best scores, best first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")
    return [int(index) for index in order[:top_k]]
