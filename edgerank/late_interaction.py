"""Late interaction: a text has a vector for each token, and all of them make the score.

MaxSim (Khattab and Zaharia, "ColBERT", SIGIR 2020): each token of the query takes its largest
cosine with a token of the document; their sum is the score. Some tokens of a document, such as
punctuation, are read by the model and left out of the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerank.engine import Array
from edgerank.manifest import Scoring
from edgerank.packing import Tokens
from edgerank.prompt import TextKind
from edgerank.scoring import unit_rows


def token_vectors(
    raw: Sequence[Array], texts: Sequence[Tokens], kind: TextKind, scoring: Scoring
) -> list[Array]:
    """Return the vectors of texts to compare: for each text unit rows, float32 [tokens, D].

    :param raw: outputs of the graph for each text, float32 [tokens, D]
    :param kind: "query" or "document"; of documents, the tokens that are not compared are left out
    """
    if kind == "query" or not scoring.skipped_tokens:
        return list(map(unit_rows, raw))
    kept = (np.isin(text.ids, scoring.skipped_tokens, invert=True) for text in texts)
    return [unit_rows(rows[keep]) for rows, keep in zip(raw, kept, strict=True)]


def maxsim(query: Array, documents: Sequence[Array]) -> Array:
    """Add up the largest cosines of a query's tokens: float32 [len(documents)].

    :param query: unit rows, float32 [tokens, D]
    :param documents: likewise; one without a token scores 0
    """
    scores = np.zeros(len(documents), np.float32)
    lengths = np.array([len(document) for document in documents])
    is_filled = lengths > 0
    if is_filled.any():
        cosines = np.concatenate(documents) @ query.T
        starts = np.cumsum(lengths) - lengths
        largest = np.maximum.reduceat(cosines, starts[is_filled])  # [filled, query tokens]
        scores[is_filled] = largest.sum(axis=1)
    return scores
