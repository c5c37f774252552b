"""Vectors of a larger embedding model, whose cosine may replace that of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from edgerank.files import write_atomically
from edgerank.reranker import Reranker
from quantize.errors import QuantizeError
from quantize.training.corpus import CorpusRecord
from quantize.training.mining import embed


@dataclass(frozen=True)
class TeacherVectors:
    """Unit vectors of all records, float16 [records, H]."""

    queries: NDArray[np.float16]
    passages: NDArray[np.float16]

    def cosines(
        self, queries: Sequence[int], passages: Sequence[int], as_queries: int = 0
    ) -> Tensor:
        """Return the cosine of each query with each passage, by the numbers of their records.

        :param as_queries: for this many of the first queries, take the record's passage
        :return: float32 [queries, passages]
        """
        left = np.concatenate(
            [self.passages[list(queries[:as_queries])], self.queries[list(queries[as_queries:])]]
        )
        right = self.passages[list(passages)]
        return torch.from_numpy(left).float() @ torch.from_numpy(right).float().T


def embed_records(records: Sequence[CorpusRecord], embedder: Reranker) -> TeacherVectors:
    """Embed the queries and the passages of all records.

    :raises QuantizeError: the bundle is not an embedding model
    """
    queries = embed(embedder, [record.query for record in records])
    passages = embed(embedder, [record.passage for record in records])
    return TeacherVectors(queries.astype(np.float16), passages.astype(np.float16))


def write_vectors(path: Path, vectors: TeacherVectors) -> None:
    """Write vectors to a safetensors file.

    :raises OSError: it cannot be written
    """
    parts = {"queries": vectors.queries, "passages": vectors.passages}
    write_atomically(path, save({name: torch.from_numpy(part) for name, part in parts.items()}))


def read_vectors(path: Path, num_records: int) -> TeacherVectors:
    """Read vectors that ``write_vectors`` wrote.

    :raises QuantizeError: the file is something else, or its vectors are not of these records
    """
    try:
        tensors = load_file(path)
        found = TeacherVectors(tensors["queries"].numpy(), tensors["passages"].numpy())
    except (OSError, KeyError, SafetensorError) as error:
        raise QuantizeError(f"{path}: not a file that the command embed wrote: {error}") from error
    if {len(found.queries), len(found.passages)} != {num_records}:
        raise QuantizeError(
            f"{path}: it has vectors of {len(found.queries)} records, and there are {num_records};"
            " run embed again"
        )
    return found
