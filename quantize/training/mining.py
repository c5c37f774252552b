"""Pairs into lists: each query with its passage, and with others that look right and are not.

They are looked for in two ways, by BM25 and by an embedding model, among the passages of all
sources; those of the query's own page are left out, as they may answer it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import bm25s
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerank.files import read_jsonl, write_atomically
from edgerank.reranker import Reranker
from quantize.errors import QuantizeError
from quantize.training.corpus import CorpusRecord

POOL = 24  # passages that each of the two finds for a query
QUERIES_AT_ONCE = 512


class Candidates(msgspec.Struct, frozen=True):
    """A query and the places of its passages among the records, the right one first."""

    source: str
    query: str
    passages: list[int]


def read_records(path: Path) -> list[CorpusRecord]:
    """Read what ``write_lines`` wrote of records.

    :raises InputError: it cannot be read, or is something else
    """
    return [record for _, record in read_jsonl(path, CorpusRecord)]


def read_candidates(path: Path) -> list[Candidates]:
    """Read what ``write_lines`` wrote of candidates.

    :raises InputError: it cannot be read, or is something else
    """
    return [found for _, found in read_jsonl(path, Candidates)]


def write_lines(path: Path, items: Sequence[Any]) -> None:
    """Write JSON Lines."""
    write_atomically(path, b"".join(msgspec.json.encode(item) + b"\n" for item in items))


def mine(
    records: Sequence[CorpusRecord],
    pool: Sequence[int],
    wanted: Sequence[int],
    embedder: Reranker,
    size: int,
    seed: int = 0,
) -> Iterator[Candidates]:
    """Make lists of ``size`` passages, for the queries of the records at the places ``wanted``.

    :param pool: the places of the records among whose passages to look
    """
    random = Random(seed)
    texts = [records[place].passage for place in pool]
    queries = [records[place].query for place in wanted]
    words = bm25s.tokenize(texts, show_progress=False)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    query_words = bm25s.tokenize(queries, return_ids=False, show_progress=False)
    vectors, query_vectors = embed(embedder, texts), embed(embedder, queries)
    for start in range(0, len(wanted), QUERIES_AT_ONCE):
        chunk = slice(start, start + QUERIES_AT_ONCE)
        by_words = index.retrieve(query_words[chunk], k=min(POOL, len(pool)), show_progress=False)[
            0
        ]
        by_vectors = _best(query_vectors[chunk] @ vectors.T, POOL)
        for place, *found in zip(wanted[chunk], by_words, by_vectors, strict=True):
            own = records[place]
            others = sorted({pool[int(other)] for row in found for other in row})
            others = [
                other
                for other in others
                if (records[other].source, records[other].page) != (own.source, own.page)
            ]
            random.shuffle(others)
            if len(others) >= size - 1:
                yield Candidates(own.source, own.query, [place, *others[: size - 1]])


def embed(embedder: Reranker, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts as an embedding model's documents: unit vectors, float32 [len(texts), H].

    :raises QuantizeError: the bundle is of another kind
    """
    vectors = embedder.encode(texts)
    if isinstance(vectors, list):
        raise QuantizeError(f"{embedder.bundle.directory}: not an embedding model")
    return vectors


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    count = min(count, scores.shape[1])
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
