"""The vectors that a store keeps of a document, and the score: one rule for each kind of bundle.

Three features compare a query with a part of a document:

* cosine: of their pooled vectors
* nearest: for each token of the query, its largest cosine with a token of the part; the sum over
  the tokens, weighted by their shares
* exact: for each token of the query, its number in the part, saturating as in BM25; the sum,
  weighted by the shares

The score of an embedding bundle is the cosine. MaxSim is "nearest" with all shares 1. The model in
the package uses all three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgerank.bundle import Bundle
from edgerank.engine import Array
from edgerank.errors import BundleError, StoreError
from edgerank.late_interaction import token_vectors
from edgerank.manifest import Comparison, Scoring
from edgerank.packing import Ids, Tokens
from edgerank.ranking import Scores
from edgerank.scoring import unit_rows

TINY = np.float32(1e-12)
NO_TOKENS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Part:
    """A part of a document, as a store keeps it."""

    vectors: Array  # float32 [n, D], a unit vector for each token that is compared; n may be 0
    token_ids: Ids  # int64 [n], or [0] if the rule does not use them
    pooled: Array  # float32 [D], of length 1


@dataclass(frozen=True)
class Query:
    """An encoded query."""

    vectors: Array  # float32 [n, D], unit rows; n may be 0
    shares: Array  # float32 [n]
    token_ids: Ids  # int64 [n]; -1 matches no token of a document
    pooled: Array  # float32 [D], of length 1


@dataclass(frozen=True)
class Features:
    """The features of a query and some parts: float32 [parts] each."""

    cosine: Scores
    nearest: Scores
    exact: Scores


@dataclass(frozen=True)
class StoreRule:
    """How a store keeps and compares the texts of a bundle."""

    has_tokens: bool  # whether vectors of tokens are kept, besides the pooled one
    has_token_ids: bool
    nearest_of_none: float  # the cosine of a query's token with a part without tokens
    saturation: tuple[float, float]  # of the feature "exact"
    query: Callable[[Array, Tokens], Query]  # from the output of the graph: [tokens, D], or [D]
    part: Callable[[Array, Tokens], Part]
    # raw scores of parts; if the last argument is true, the values to be normalised
    combine: Callable[[Query, Features, bool], Scores]


def store_rule(bundle: Bundle) -> StoreRule:
    """Build the rule that a bundle's manifest describes.

    :raises StoreError: the model reads query and document together
    :raises BundleError: a file of the bundle is not what the manifest says
    """
    scoring = bundle.manifest.scoring
    if scoring.rule == "cosine":
        return StoreRule(False, False, 0.0, (1.0, 0.0), _embedded_query, _embedded, _cosines)
    if scoring.rule == "maxsim":
        return StoreRule(
            has_tokens=True,
            has_token_ids=False,
            nearest_of_none=0.0,
            saturation=(1.0, 0.0),
            query=partial(_maxsim_query, scoring),
            part=partial(_maxsim_part, scoring),
            combine=partial(_sums, scoring.is_mean),
        )
    if scoring.comparison is None:
        raise StoreError(
            f"{bundle.directory}: a model of family {bundle.manifest.family} reads a query and a"
            " document together, or was quantized by an older edgerank; a store takes embedding and"
            " late-interaction models"
        )
    weights = _token_weights(bundle, scoring.comparison)
    return StoreRule(
        has_tokens=True,
        has_token_ids=True,
        nearest_of_none=-1.0,
        saturation=scoring.comparison.saturation,
        query=partial(_weighted_query, weights),
        part=partial(_weighted_part, weights),
        combine=partial(_logits, scoring.comparison),
    )


def _embedded_query(raw: Array, tokens: Tokens) -> Query:
    pooled = _pooled(raw)
    return Query(np.zeros((0, len(pooled)), np.float32), np.zeros(0, np.float32), NO_TOKENS, pooled)


def _embedded(raw: Array, tokens: Tokens) -> Part:
    pooled = _pooled(raw)
    return Part(np.zeros((0, len(pooled)), np.float32), NO_TOKENS, pooled)


def _cosines(query: Query, features: Features, normalize: bool) -> Scores:
    scores: Scores = np.clip(features.cosine, -1, 1)
    return scores


def _maxsim_query(scoring: Scoring, raw: Array, tokens: Tokens) -> Query:
    [vectors] = token_vectors([raw], [tokens], "query", scoring)
    shares = np.ones(len(vectors), np.float32)
    return Query(vectors, shares, np.full(len(vectors), -1), _pooled(vectors.mean(axis=0)))


def _maxsim_part(scoring: Scoring, raw: Array, tokens: Tokens) -> Part:
    [vectors] = token_vectors([raw], [tokens], "document", scoring)
    pooled = vectors.sum(axis=0, dtype=np.float32)  # of none, zeros
    return Part(vectors, NO_TOKENS, _pooled(pooled))


def _sums(is_mean: bool, query: Query, features: Features, normalize: bool) -> Scores:
    if not (is_mean or normalize):
        return features.nearest
    means: Scores = np.clip(features.nearest / np.float32(len(query.shares)), -1, 1)
    return means


def _weighted_query(weights: Array, raw: Array, tokens: Tokens) -> Query:
    found = weights[tokens.ids]
    kept = found > 0  # no other has a share
    shares = found[kept] / max(found.sum(), TINY)
    return Query(unit_rows(raw[kept]), shares, tokens.ids[kept], _pooled(raw.mean(axis=0)))


def _weighted_part(weights: Array, raw: Array, tokens: Tokens) -> Part:
    is_word = weights[tokens.ids] > 0  # no other is compared
    return Part(unit_rows(raw[is_word]), tokens.ids[is_word], _pooled(raw.mean(axis=0)))


def _logits(comparison: Comparison, query: Query, features: Features, normalize: bool) -> Scores:
    logits: Scores = (
        np.float32(comparison.cosine) * features.cosine
        + np.float32(comparison.nearest) * features.nearest
        + np.float32(comparison.exact) * features.exact
        + np.float32(comparison.bias)
    )
    return logits


def _pooled(vector: Array) -> Array:
    """Return a vector at length 1; zeros stay."""
    unit: Array = unit_rows(vector[None])[0]
    return unit


def _token_weights(bundle: Bundle, comparison: Comparison) -> Array:
    """Read the weight of each token: float32 [vocabulary]."""
    path = bundle.directory / comparison.token_weights
    try:
        weights: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: it cannot be read: {error}") from error
    if weights.ndim != 1 or weights.dtype != np.float32:
        raise BundleError(f"{path}: not float32 [vocabulary]")
    return weights
