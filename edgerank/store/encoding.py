"""Encodes queries, and documents for a store."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edgerank.engine import Results
from edgerank.packing import EMPTY, Group
from edgerank.reranker import Reranker
from edgerank.rules import Prepared
from edgerank.store.features import Query, StoreRule
from edgerank.store.segments import QuantizedPart, quantize_part

WORD = re.compile(r"\b\w\w+\b")


def words_of(text: str) -> list[str]:
    """Return the words of a text that BM25 counts: runs of two or more word characters."""
    return WORD.findall(text.lower())


def prepare_query(
    reranker: Reranker, rule: StoreRule, text: str, instruction: str | None = None
) -> Prepared[Query]:
    """Prepare the encoding of a query.

    :raises InputError: the query or the instruction is unusable
    """
    tokens = reranker.tokenize_query(text, instruction)

    def encoded(results: Results) -> Query:
        return rule.query(results[0], tokens)

    group = Group(EMPTY, [tokens], [0])
    return Prepared([group], reranker.vectors_output, encoded, {text: len(tokens)})


def encode_documents(
    reranker: Reranker, rule: StoreRule, texts: Sequence[str]
) -> list[list[QuantizedPart]]:
    """Encode documents; return the parts of each.

    Each micro-batch is rounded before the next one runs, because all vectors in float32 might not
    fit into memory.
    """
    sequences, text_index = reranker.tokenize_documents(texts)
    output = reranker.vectors_output
    parts: list[QuantizedPart | None] = [None] * len(sequences)
    for batch, raw in reranker.steps([Group(EMPTY, sequences, range(len(sequences)))], output):
        ends = np.cumsum(batch.lengths)
        for row, (place, end) in enumerate(zip(batch.score_ids.tolist(), ends, strict=True)):
            if place < 0:
                continue
            tokens = sequences[place]
            rows = raw[end - len(tokens) : end] if output.per == "token" else raw[row]
            parts[place] = quantize_part(rule.part(rows, tokens))
    documents: list[list[QuantizedPart]] = [[] for _ in texts]
    for index, part in zip(text_index, parts, strict=True):
        assert part is not None
        documents[index].append(part)
    return documents
