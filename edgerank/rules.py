"""Scoring rules: how a bundle makes scores of pairs, and vectors of texts.

A rule says which output of the graph is read, which sequences are to be run for some pairs, and how
their results become the pairs' scores. What is equal is computed once: the documents of a query
share a group, and texts that are encoded by themselves are encoded once for all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgerank.documents import Pair
from edgerank.engine import Output, Results
from edgerank.manifest import Scoring
from edgerank.packing import EMPTY, Group, Tokens
from edgerank.prompt import Encoded
from edgerank.ranking import Scores
from edgerank.scoring import (
    ACTIVATIONS,
    Function,
    best_of_each,
    cosines,
    identity,
    sigmoid,
    unit_rows,
)

R = TypeVar("R")
S = TypeVar("S")
Vectors = NDArray[np.float32] | list[NDArray[np.float32]]  # [n, d], or [tokens, d] for each text

# a query and its distinct documents, each with a pair that has it, into tokens
Encode = Callable[[str, Mapping[str, Pair]], Encoded]

SCORES = Output("scores")
EMBEDDINGS = Output("embeddings")
TOKEN_VECTORS = Output("token_vectors", per="token")


@dataclass(frozen=True)
class Prepared(Generic[R]):
    """Sequences to run, and what becomes of their results."""

    groups: Sequence[Group]  # their score ids count from 0
    output: Output  # of the graph
    reduce: Callable[[Results], R]  # results by score id into what the caller gets
    query_tokens: Mapping[str, int] = field(default_factory=dict)  # of each query, before it is cut

    @property
    def num_scores(self) -> int:
        """Results that the groups give."""
        return sum(len(group.sequences) for group in self.groups)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return sum(map(len, self.groups))

    def then(self, function: Callable[[R], S]) -> Prepared[S]:
        """Return the same with a function applied to what the caller gets."""
        return replace(
            cast("Prepared[S]", self), reduce=lambda results: function(self.reduce(results))
        )


@dataclass(frozen=True)
class ScoringRule:
    """How a bundle makes scores of pairs, and vectors of texts."""

    output: Output  # of the graph, that scores are made of
    vectors: Output | None  # of the graph, that texts are encoded by; None if it encodes pairs only
    prepare_pairs: Callable[[Sequence[Pair], Encode], Prepared[Scores]]  # raw scores
    reduce_vectors: Callable[[Results], Vectors]
    activation: Function  # of raw scores
    normalization: Function  # of raw scores, into [0, 1]
    score_range: tuple[float, float]  # least and greatest score
    encodes_apart: bool  # a document is encoded once for all queries

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs that the rule reads."""
        return [output.name for output in (self.output, self.vectors) if output is not None]

    def prepare(
        self, pairs: Sequence[Pair], encode: Encode, *, normalize: bool
    ) -> Prepared[Scores]:
        """Say what to run for pairs; what comes of it is float32 [len(pairs)], in their order.

        :raises InputError: a document is refused
        """
        if not pairs:
            return Prepared([], self.output, lambda results: np.zeros(0, np.float32))
        return self.prepare_pairs(pairs, encode).then(
            self.normalization if normalize else self.activation
        )

    def prepare_texts(self, sequences: Sequence[Tokens]) -> Prepared[Vectors]:
        """Say what to run to encode texts, each by itself; vectors come in their order."""
        assert self.vectors is not None
        group = Group(EMPTY, sequences, range(len(sequences)))
        return Prepared([group], self.vectors, self.reduce_vectors)


def scoring_rule(scoring: Scoring) -> ScoringRule:
    """Build the rule that a manifest describes."""
    if scoring.rule == "cosine":
        return ScoringRule(
            output=EMBEDDINGS,
            vectors=EMBEDDINGS,
            prepare_pairs=_compare_vectors,
            reduce_vectors=_rows,
            activation=identity,
            normalization=lambda raw: (1 + raw) * np.float32(0.5),
            score_range=(-1.0, 1.0),
            encodes_apart=True,
        )
    activation, score_range = ACTIVATIONS[scoring.activation]
    offset = np.float32(scoring.normalize_offset)
    return ScoringRule(
        output=SCORES,
        vectors=TOKEN_VECTORS if scoring.rule == "late_interaction" else None,
        prepare_pairs=_score_sequences,
        reduce_vectors=_unit_vectors,
        activation=activation,
        normalization=lambda raw: sigmoid(raw - offset),
        score_range=score_range,
        encodes_apart=False,
    )


def _score_sequences(pairs: Sequence[Pair], encode: Encode) -> Prepared[Scores]:
    """Run each distinct pair once, the documents of a query in one group."""
    documents_of: dict[str, dict[str, Pair]] = {}
    for pair in pairs:
        documents_of.setdefault(pair.query, {}).setdefault(pair.text, pair)
    groups: list[Group] = []
    document_index: list[int] = []  # for each sequence, the place of its distinct pair
    place_of: dict[tuple[str, str], int] = {}
    query_tokens: dict[str, int] = {}
    for query, documents in documents_of.items():
        encoded = encode(query, documents)
        first = len(place_of)
        place_of.update(((query, text), first + index) for index, text in enumerate(documents))
        score_ids = range(len(document_index), len(document_index) + len(encoded.sequences))
        groups.append(Group(encoded.query, encoded.sequences, score_ids))
        document_index += [first + index for index in encoded.document_index]
        query_tokens[query] = encoded.query_tokens
    places = [place_of[pair.query, pair.text] for pair in pairs]

    def reduce(results: Results) -> Scores:
        best = best_of_each(_rows(results), document_index, len(place_of))
        return best[places]

    return Prepared(groups, SCORES, reduce, query_tokens)


def _compare_vectors(pairs: Sequence[Pair], encode: Encode) -> Prepared[Scores]:
    """Encode each distinct query and each distinct document once, then compare."""
    documents: dict[str, Pair] = {}
    for pair in pairs:
        documents.setdefault(pair.text, pair)
    encoded = encode(pairs[0].query, documents)
    queries = {pairs[0].query: encoded}
    for pair in pairs:
        if pair.query not in queries:
            queries[pair.query] = encode(pair.query, {})
    sequences = [query.query for query in queries.values()] + encoded.sequences
    query_places = {query: place for place, query in enumerate(queries)}
    text_places = {text: place for place, text in enumerate(documents)}
    places = [(query_places[pair.query], text_places[pair.text]) for pair in pairs]

    def reduce(results: Results) -> Scores:
        vectors = _rows(results)
        query_vectors, text_vectors = vectors[: len(queries)], vectors[len(queries) :]
        best = [
            best_of_each(cosines(vector, text_vectors), encoded.document_index, len(documents))
            for vector in query_vectors
        ]
        return np.array([best[query][text] for query, text in places], np.float32)

    query_tokens = {query: tokens.query_tokens for query, tokens in queries.items()}
    group = Group(EMPTY, sequences, range(len(sequences)))
    return Prepared([group], EMBEDDINGS, reduce, query_tokens)


def _rows(results: Results) -> NDArray[np.float32]:
    """Return results that are one array, which those of whole sequences are."""
    assert isinstance(results, np.ndarray)
    return results


def _unit_vectors(results: Results) -> Vectors:
    return list(map(unit_rows, results))
