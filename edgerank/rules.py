"""Scoring rules: how a bundle scores pairs and encodes texts.

A rule names the output of the graph to read, selects the sequences to run for a list of pairs, and
turns their results into the pairs' scores. No text is computed twice: the documents of a query form
one group, and a rule that encodes texts separately encodes each distinct text once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgerank.documents import Pair
from edgerank.engine import Output, Results
from edgerank.late_interaction import maxsim, token_vectors
from edgerank.manifest import Scoring
from edgerank.packing import EMPTY, Group, Tokens
from edgerank.prompt import Encoded, TextKind
from edgerank.ranking import Scores
from edgerank.scoring import (
    ACTIVATIONS,
    Function,
    best_of_each,
    cosines,
    identity,
    sigmoid,
)

R = TypeVar("R")
S = TypeVar("S")
Vectors = NDArray[np.float32] | list[NDArray[np.float32]]  # [n, d], or [tokens, d] for each text

# tokenizes a query and its distinct documents; each document comes with one of its pairs
Encode = Callable[[str, Mapping[str, Pair]], Encoded]
# scores documents for each query. The arguments are the results of the queries followed by those of
# the documents; the tokens of both; and for each query the indexes of the documents to score
Compare = Callable[[Results, Sequence[Tokens], Sequence[Sequence[int]]], list[Scores]]

SCORES = Output("scores")
EMBEDDINGS = Output("embeddings")
TOKEN_VECTORS = Output("token_vectors", per="token")


@dataclass(frozen=True)
class Prepared(Generic[R]):
    """Sequences to run, and the function that turns their results into the answer."""

    groups: Sequence[Group]  # their score ids count from 0
    output: Output  # of the graph
    reduce: Callable[[Results], R]  # from results in the order of score ids
    query_tokens: Mapping[str, int] = field(default_factory=dict)  # of each query before truncation

    @property
    def num_scores(self) -> int:
        """Number of results that the groups give."""
        return sum(len(group.sequences) for group in self.groups)

    @property
    def num_tokens(self) -> int:
        """Number of tokens to run."""
        return sum(map(len, self.groups))

    def then(self, function: Callable[[R], S]) -> Prepared[S]:
        """Return the same sequences with a function applied to the answer."""
        return replace(
            cast("Prepared[S]", self), reduce=lambda results: function(self.reduce(results))
        )


@dataclass(frozen=True)
class ScoringRule:
    """How a bundle scores pairs and encodes texts."""

    output: Output  # of the graph, for scores
    vectors: Output | None  # of the graph, for encoded texts; None if the model only scores pairs
    prepare_pairs: Callable[[Sequence[Pair], Encode], Prepared[Scores]]  # for raw scores
    reduce_vectors: Callable[[Results, Sequence[Tokens], TextKind], Vectors]
    activation: Function  # from raw scores to scores
    normalization: Function  # from raw scores to scores in [0, 1]
    score_range: tuple[float, float]  # lowest and highest possible score
    encodes_apart: bool  # documents are encoded without the query, so once for all queries
    # for the raw scores that are normalised; None: those of prepare_pairs
    prepare_normalized: Callable[[Sequence[Pair], Encode], Prepared[Scores]] | None = None

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs that the rule reads."""
        return [output.name for output in (self.output, self.vectors) if output is not None]

    def prepare(
        self, pairs: Sequence[Pair], encode: Encode, *, normalize: bool
    ) -> Prepared[Scores]:
        """Return the sequences to run for pairs; the answer is float32 [len(pairs)], in order.

        :raises InputError: a document is refused
        """
        if not pairs:
            return Prepared([], self.output, lambda results: np.zeros(0, np.float32))
        if normalize:
            prepare = self.prepare_normalized or self.prepare_pairs
            return prepare(pairs, encode).then(self.normalization)
        return self.prepare_pairs(pairs, encode).then(self.activation)

    def prepare_texts(self, sequences: Sequence[Tokens], kind: TextKind) -> Prepared[Vectors]:
        """Return the sequences to run to encode texts; the answer is their vectors, in order."""
        assert self.vectors is not None
        group = Group(EMPTY, sequences, range(len(sequences)))
        return Prepared(
            [group], self.vectors, lambda results: self.reduce_vectors(results, sequences, kind)
        )


def scoring_rule(scoring: Scoring) -> ScoringRule:
    """Build the rule that a manifest describes."""
    if scoring.rule == "cosine":
        return ScoringRule(
            output=EMBEDDINGS,
            vectors=EMBEDDINGS,
            prepare_pairs=partial(_compare_apart, EMBEDDINGS, _cosines),
            reduce_vectors=lambda results, sequences, kind: _rows(results),
            activation=identity,
            normalization=_normalized_cosine,
            score_range=(-1.0, 1.0),
            encodes_apart=True,
        )
    if scoring.rule == "maxsim":
        return _maxsim_rule(scoring)
    activation, score_range = ACTIVATIONS[scoring.activation]
    offset = np.float32(scoring.normalize_offset)
    return ScoringRule(
        output=SCORES,
        vectors=TOKEN_VECTORS if scoring.rule == "late_interaction" else None,
        prepare_pairs=_score_sequences,
        reduce_vectors=partial(_token_vectors, scoring),
        activation=activation,
        normalization=lambda raw: sigmoid(raw - offset),
        score_range=score_range,
        encodes_apart=False,
    )


def _maxsim_rule(scoring: Scoring) -> ScoringRule:
    """Build the rule of late interaction: token vectors, compared outside the graph.

    A score is a sum of cosines, one for each token of the query. Normalised scores use their mean.
    """

    def sums(
        results: Results, sequences: Sequence[Tokens], compared: Sequence[Sequence[int]]
    ) -> list[Scores]:
        raw, n = _ragged(results), len(compared)
        queries = token_vectors(raw[:n], sequences[:n], "query", scoring)
        documents = token_vectors(raw[n:], sequences[n:], "document", scoring)
        return [
            maxsim(query, [documents[place] for place in places])
            for query, places in zip(queries, compared, strict=True)
        ]

    def means(
        results: Results, sequences: Sequence[Tokens], compared: Sequence[Sequence[int]]
    ) -> list[Scores]:
        found = sums(results, sequences, compared)
        return [
            np.clip(scores / np.float32(len(query)), -1, 1)
            for scores, query in zip(found, results, strict=False)
        ]

    return ScoringRule(
        output=TOKEN_VECTORS,
        vectors=TOKEN_VECTORS,
        prepare_pairs=partial(_compare_apart, TOKEN_VECTORS, means if scoring.is_mean else sums),
        reduce_vectors=partial(_token_vectors, scoring),
        activation=identity,
        normalization=_normalized_cosine,
        score_range=(-1.0, 1.0) if scoring.is_mean else (-np.inf, np.inf),
        encodes_apart=True,
        prepare_normalized=partial(_compare_apart, TOKEN_VECTORS, means),
    )


def _score_sequences(pairs: Sequence[Pair], encode: Encode) -> Prepared[Scores]:
    """Run each distinct pair once, with the documents of a query in one group."""
    documents_of: dict[str, dict[str, Pair]] = {}
    for pair in pairs:
        documents_of.setdefault(pair.query, {}).setdefault(pair.text, pair)
    groups: list[Group] = []
    document_index: list[int] = []  # for each sequence, the index of its distinct pair
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


def _compare_apart(
    output: Output, compare: Compare, pairs: Sequence[Pair], encode: Encode
) -> Prepared[Scores]:
    """Encode each distinct query and document once, then compare those of each pair."""
    documents: dict[str, Pair] = {}
    documents_of: dict[str, dict[str, int]] = {}  # and their indexes among the query's own
    for pair in pairs:
        documents.setdefault(pair.text, pair)
        own = documents_of.setdefault(pair.query, {})
        own.setdefault(pair.text, len(own))
    encoded = encode(pairs[0].query, documents)
    queries = {pairs[0].query: encoded}
    for query in documents_of:
        if query not in queries:
            queries[query] = encode(query, {})
    sequences = [query.query for query in queries.values()] + encoded.sequences
    sequences_of: dict[str, list[int]] = {text: [] for text in documents}
    texts = list(documents)
    for place, index in enumerate(encoded.document_index):
        sequences_of[texts[index]].append(place)
    compared = [
        [place for text in own for place in sequences_of[text]] for own in documents_of.values()
    ]

    def reduce(results: Results) -> Scores:
        best: dict[str, Scores] = {}
        found = compare(results, sequences, compared)
        for (query, own), scores in zip(documents_of.items(), found, strict=True):
            owners = [place for text, place in own.items() for _ in sequences_of[text]]
            best[query] = best_of_each(scores, owners, len(own))
        scores_of_pairs = [best[pair.query][documents_of[pair.query][pair.text]] for pair in pairs]
        return np.array(scores_of_pairs, np.float32)

    query_tokens = {query: tokens.query_tokens for query, tokens in queries.items()}
    group = Group(EMPTY, sequences, range(len(sequences)))
    return Prepared([group], output, reduce, query_tokens)


def _normalized_cosine(raw: Scores) -> Scores:
    normalized: Scores = (1 + raw) * np.float32(0.5)
    return normalized


def _cosines(
    results: Results, sequences: Sequence[Tokens], compared: Sequence[Sequence[int]]
) -> list[Scores]:
    vectors, n = _rows(results), len(compared)
    return [
        cosines(query, vectors[n:][places])
        for query, places in zip(vectors[:n], compared, strict=True)
    ]


def _token_vectors(
    scoring: Scoring, results: Results, sequences: Sequence[Tokens], kind: TextKind
) -> Vectors:
    return token_vectors(_ragged(results), sequences, kind, scoring)


def _ragged(results: Results) -> list[Scores]:
    """Return the results of an output per token: one array for each sequence."""
    assert isinstance(results, list)
    return results


def _rows(results: Results) -> NDArray[np.float32]:
    """Return the results of an output per sequence: one array for all sequences."""
    assert isinstance(results, np.ndarray)
    return results
