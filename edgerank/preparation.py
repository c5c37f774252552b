"""Pairs of texts into groups for the engine, and the engine's raw scores into the pairs' scores.

What is equal is computed once: the documents of a query share a group, an embedding model's texts
are embedded by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

from edgerank.errors import InputError
from edgerank.packing import EMPTY, Group
from edgerank.prompt import Document, Encoded, check_text, document_text
from edgerank.scoring import Scores, best_of_each, similarities

Encode = Callable[[str, Mapping[str, str]], Encoded]


@dataclass(frozen=True)
class Pair:
    """A query and a document's text, both checked."""

    query: str
    text: str
    name: str  # of the document, for errors


@dataclass(frozen=True)
class Prepared:
    """Pairs as tokens, and the way back."""

    groups: Sequence[Group]  # their score ids count from 0
    finish: Callable[[Scores], Scores]  # raw scores by score id to one score a pair

    @property
    def num_scores(self) -> int:
        """Raw scores that the groups give."""
        return sum(len(group.sequences) for group in self.groups)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return sum(map(len, self.groups))


def pairs_of(query: str, documents: Iterable[Document]) -> list[Pair]:
    """Check a query and its documents.

    :raises InputError: one is unusable
    """
    check_text(query, "query")
    names = (f"documents[{index}]" for index in count())
    return [
        Pair(query, document_text(document, name), name)
        for document, name in zip(listed(documents), names, strict=False)
    ]


def checked_pairs(pairs: Iterable[tuple[str, Document]]) -> list[Pair]:
    """Check pairs of a query and a document.

    :raises InputError: one is unusable
    """
    if not isinstance(pairs, Iterable):
        raise InputError(f"pairs: expected a list of pairs, got {type(pairs).__name__}")
    checked = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"pairs[{index}]: expected a (query, document) pair")
        query = check_text(pair[0], f"pairs[{index}] query")
        name = f"pairs[{index}] document"
        checked.append(Pair(query, document_text(pair[1], name), name))
    return checked


def listed(documents: Iterable[Document]) -> Iterable[Document]:
    """Refuse a lone string, whose characters would be taken for documents.

    :raises InputError: it is one, or no iterable
    """
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        raise InputError(f"documents: expected a list of documents, got {type(documents).__name__}")
    return documents


def prepare(
    pairs: Sequence[Pair], encode: Encode, rule: Literal["logit", "similarity"]
) -> Prepared:
    """Turn pairs into groups; scores come back without an activation.

    :raises InputError: a document is refused
    """
    if not pairs:
        return Prepared([], lambda raw: np.zeros(0, np.float32))
    return _by_logit(pairs, encode) if rule == "logit" else _by_similarity(pairs, encode)


def _by_logit(pairs: Sequence[Pair], encode: Encode) -> Prepared:
    """Run each distinct pair once, the documents of a query in one group."""
    texts_of: dict[str, dict[str, str]] = {}
    for pair in pairs:
        texts_of.setdefault(pair.query, {}).setdefault(pair.text, pair.name)
    groups: list[Group] = []
    owners: list[int] = []  # for each sequence, the place of its pair
    place_of: dict[tuple[str, str], int] = {}
    for query, texts in texts_of.items():
        encoded = encode(query, texts)
        first = len(place_of)
        place_of.update(((query, text), first + index) for index, text in enumerate(texts))
        score_ids = range(len(owners), len(owners) + len(encoded.sequences))
        groups.append(Group(encoded.query, encoded.sequences, score_ids))
        owners += [first + owner for owner in encoded.owners]
    places = [place_of[pair.query, pair.text] for pair in pairs]
    num_places = len(place_of)

    def finish(raw: Scores) -> Scores:
        return best_of_each(raw, owners, num_places)[places]

    return Prepared(groups, finish)


def _by_similarity(pairs: Sequence[Pair], encode: Encode) -> Prepared:
    """Embed each distinct query and each distinct document once, then compare."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    texts: dict[str, str] = {}
    for pair in pairs:
        texts.setdefault(pair.text, pair.name)
    encoded = encode(queries[0], texts)
    sequences = [encode(query, {}).query for query in queries] + encoded.sequences
    query_places = {query: place for place, query in enumerate(queries)}
    text_places = {text: place for place, text in enumerate(texts)}
    places = [(query_places[pair.query], text_places[pair.text]) for pair in pairs]

    def finish(vectors: Scores) -> Scores:
        query_vectors, text_vectors = vectors[: len(queries)], vectors[len(queries) :]
        best = [
            best_of_each(similarities(vector, text_vectors), encoded.owners, len(text_places))
            for vector in query_vectors
        ]
        return np.array([best[query][text] for query, text in places], np.float32)

    return Prepared([Group(EMPTY, sequences, range(len(sequences)))], finish)
