"""Find hard negatives: passages that seem to answer a query and do not.

BM25 and an embedding model each search the passages of all sources. Passages of the page that the
query is from are left out, because they may answer it.
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

POOL = 24  # passages that BM25 finds for a query, and that the embedding model finds
QUERIES_AT_ONCE = 512


class Candidates(msgspec.Struct, frozen=True):
    """A query and the indexes of its passages among the records; the first one answers it."""

    source: str
    query: str
    passages: list[int]


def read_records(path: Path) -> list[CorpusRecord]:
    """Read records that ``write_lines`` wrote.

    :raises InputError: the file cannot be read, or a line is not a record
    """
    return [record for _, record in read_jsonl(path, CorpusRecord)]


def read_candidates(path: Path) -> list[Candidates]:
    """Read candidates that ``write_lines`` wrote.

    :raises InputError: the file cannot be read, or a line is not a query with candidates
    """
    return [found for _, found in read_jsonl(path, Candidates)]


def write_lines(path: Path, items: Sequence[Any]) -> None:
    """Write items to a JSON Lines file.

    :raises OSError: the file cannot be written
    """
    write_atomically(path, b"".join(msgspec.json.encode(item) + b"\n" for item in items))


def mine(
    records: Sequence[CorpusRecord],
    pool: Sequence[int],
    wanted: Sequence[int],
    embedder: Reranker,
    size: int,
    seed: int = 0,
) -> Iterator[Candidates]:
    """Make lists of ``size`` passages; queries with too few hard negatives get none.

    :param pool: indexes of the records whose passages are searched
    :param wanted: indexes of the records whose queries get lists
    :raises QuantizeError: ``embedder`` is not an embedding model
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

    :raises QuantizeError: the bundle is not an embedding model
    """
    vectors = embedder.encode(texts)
    if isinstance(vectors, list):
        raise QuantizeError(f"{embedder.bundle.directory}: not an embedding model")
    return vectors


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    count = min(count, scores.shape[1])
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
