"""A segment: documents that were written together. They never change, but can be deleted.

The sizes are N documents, P parts, T tokens, dimension D, V words and W pairs of word and document:

    names, name_ends          the documents' ids, concatenated UTF-8; int64 [N + 1]
    document_parts            int64 [N + 1], the parts of each document
    pooled, pooled_scales     int16 [P, D], float32 [P], the pooled vector of each part
    part_tokens               int64 [P + 1], the tokens of each part that are compared
    vectors, scales           int8 [T, D], float32 [T]
    token_ids                 int32 [T], if the rule uses them
    words, word_ends          the sorted words, concatenated UTF-8; int64 [V + 1]
    word_starts               int64 [V + 1], the first pair of each word
    word_documents            int32 [W], the document of each pair
    word_counts               uint16 [W], how often the document has the word
    document_words            int32 [N], the number of words of each document
    deleted                   int32, the indices of deleted documents
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerank.engine import Array
from edgerank.errors import StoreError
from edgerank.manifest import File
from edgerank.store.arrays import ArrayFile, map_array, map_offsets, write_array
from edgerank.store.features import Part, StoreRule
from edgerank.store.format import Binding, SegmentInfo, new_name

INT8_MAX, INT16_MAX = 127, 32767
STREAMED = ("names", "pooled", "pooled_scales", "vectors", "scales", "token_ids")
MAX_COUNT = 65535

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """An index of the words of documents, for BM25."""

    spellings: Any  # bytes-like
    ends: Offsets
    starts: Offsets
    documents: NDArray[np.int32]
    counts: NDArray[np.uint16]
    lengths: NDArray[np.int32]  # [N]

    def find(self, word: str) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """Return the documents that have a word, and its number in each."""
        wanted = word.encode()
        low, high = 0, len(self.ends) - 1
        while low < high:
            middle = (low + high) // 2
            found = bytes(self.spellings[self.ends[middle] : self.ends[middle + 1]])
            if found == wanted:
                places = slice(self.starts[middle], self.starts[middle + 1])
                return self.documents[places], self.counts[places]
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return self.documents[:0], self.counts[:0]


@dataclass(frozen=True)
class Segment:
    """The mapped arrays of a segment: see above."""

    info: SegmentInfo
    names: list[str]
    document_parts: Offsets
    part_tokens: Offsets
    pooled: NDArray[np.int16]
    pooled_scales: Array
    vectors: NDArray[np.int8]
    scales: Array
    token_ids: NDArray[np.int32]
    words: Words
    is_deleted: NDArray[np.bool_]  # [N]


def open_segment(directory: Path, info: SegmentInfo, binding: Binding, rule: StoreRule) -> Segment:
    """Map the files of a segment, and check all indices and offsets in them.

    :raises StoreError: a file is missing, or does not fit the others
    """

    def array(name: str, dtype: Any, *shape: int) -> NDArray[Any]:
        return map_array(directory / f"{info.name}.{name}", dtype, shape)

    def offsets(name: str, count: int, total: int, least: int = 0) -> Offsets:
        return map_offsets(directory / f"{info.name}.{name}", count, total, least=least)

    count, parts, tokens, width = info.documents, info.parts, info.tokens, binding.dimension
    kept = tokens if rule.has_tokens else 0
    spellings = array("words", np.uint8, -1)
    word_ends = map_array(directory / f"{info.name}.word_ends", np.int64, (-1,))
    num_words = max(len(word_ends) - 1, 0)
    word_documents = array("word_documents", np.int32, -1)
    words = Words(
        spellings,
        offsets("word_ends", num_words, len(spellings)),
        offsets("word_starts", num_words, len(word_documents)),
        _indices(directory, f"{info.name}.word_documents", word_documents, count),
        array("word_counts", np.uint16, len(word_documents)),
        array("document_words", np.int32, count),
    )
    is_deleted = np.zeros(count, bool)
    if info.deleted is not None:
        places = map_array(directory / info.deleted, np.int32, (info.num_deleted,))
        is_deleted[_indices(directory, info.deleted, places, count)] = True
    names = array("names", np.uint8, -1)
    return Segment(
        info=info,
        names=_names(directory, info, names.tobytes(), offsets("name_ends", count, len(names))),
        document_parts=offsets("document_parts", count, parts, least=1),
        part_tokens=offsets("part_tokens", parts, kept),
        pooled=array("pooled", np.int16, parts, width),
        pooled_scales=array("pooled_scales", np.float32, parts),
        vectors=array("vectors", np.int8, kept, width),
        scales=array("scales", np.float32, kept),
        token_ids=array("token_ids", np.int32, kept if rule.has_token_ids else 0),
        words=words,
        is_deleted=is_deleted,
    )


def _indices(directory: Path, name: str, indices: NDArray[Any], count: int) -> NDArray[Any]:
    if len(indices) and not (indices.min() >= 0 and indices.max() < count):
        raise StoreError(f"{directory / name}: altered: it names documents that are not there")
    return indices


def _names(directory: Path, info: SegmentInfo, content: bytes, ends: Offsets) -> list[str]:
    bounds = ends.tolist()
    try:
        return [content[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise StoreError(f"{directory / info.name}.names: altered: not UTF-8") from error


class SegmentWriter:
    """Writes a segment, document by document; nothing of it counts until its store names it."""

    def __init__(self, directory: Path, rule: StoreRule) -> None:
        """:raises OSError: the files cannot be written"""
        self.name = new_name()
        self._directory, self._rule = directory, rule
        self._stack = ExitStack()
        self._files: dict[str, ArrayFile] = {}
        for name in STREAMED:
            self._files[name] = self._stack.enter_context(ArrayFile(self._path(name)))
        self._name_ends, self._document_parts, self._part_tokens = [0], [0], [0]
        self._word_lengths: list[int] = []
        self._places: dict[str, tuple[list[int], list[int]]] = {}  # of each word: documents, counts

    @property
    def num_documents(self) -> int:
        return len(self._word_lengths)

    def add(self, name: str, words: Sequence[str], parts: Sequence[QuantizedPart]) -> None:
        """Append a document.

        :param words: the words of its text, with repetitions
        :raises OSError: it cannot be written
        """
        encoded = name.encode()
        self._files["names"].write(encoded)
        self._name_ends.append(self._name_ends[-1] + len(encoded))
        for part in parts:
            self._files["pooled"].write(part.pooled)
            self._files["pooled_scales"].write(part.pooled_scale)
            self._files["vectors"].write(part.vectors)
            self._files["scales"].write(part.scales)
            self._files["token_ids"].write(part.token_ids)
            self._part_tokens.append(self._part_tokens[-1] + len(part.vectors))
        self._document_parts.append(self._document_parts[-1] + len(parts))
        place = len(self._word_lengths)
        for word, count in Counter(words).items():
            documents, counts = self._places.setdefault(word, ([], []))
            documents.append(place)
            counts.append(min(count, MAX_COUNT))
        self._word_lengths.append(len(words))

    def finish(self) -> tuple[SegmentInfo, dict[str, File]]:
        """Sync all files to the disk; return their description for store.json.

        :raises OSError: it cannot be written
        """
        files = {f"{self.name}.{name}": file.finish() for name, file in self._files.items()}
        for name, rows in self._rest().items():
            files[f"{self.name}.{name}"] = write_array(self._path(name), rows)
        info = SegmentInfo(
            self.name,
            documents=self.num_documents,
            parts=self._document_parts[-1],
            tokens=self._part_tokens[-1],
        )
        return info, files

    def close(self) -> None:
        """Close the files that are open."""
        self._stack.close()

    def _path(self, name: str) -> Path:
        return self._directory / f"{self.name}.{name}"

    def _rest(self) -> dict[str, NDArray[Any] | bytes]:
        """Return the arrays that are written at the end."""
        words = sorted((word.encode(), places) for word, places in self._places.items())
        documents = [document for _, (documents, _) in words for document in documents]
        counts = [count for _, (_, counts) in words for count in counts]
        return {
            "name_ends": np.array(self._name_ends, np.int64),
            "document_parts": np.array(self._document_parts, np.int64),
            "part_tokens": np.array(self._part_tokens, np.int64),
            "words": b"".join(word for word, _ in words),
            "word_ends": _ends([len(word) for word, _ in words]),
            "word_starts": _ends([len(documents) for _, (documents, _) in words]),
            "word_documents": np.array(documents, np.int32),
            "word_counts": np.array(counts, np.uint16),
            "document_words": np.array(self._word_lengths, np.int32),
        }


@dataclass(frozen=True)
class QuantizedPart:
    """A part of a document, rounded to integers with a scale for each row."""

    vectors: NDArray[np.int8]
    scales: Array
    token_ids: NDArray[np.int32]
    pooled: NDArray[np.int16]
    pooled_scale: Array  # [1]


def quantize_part(part: Part) -> QuantizedPart:
    """Round a part's vectors."""
    vectors, scales = _rounded(part.vectors, INT8_MAX)
    pooled, pooled_scale = _rounded(part.pooled[None], INT16_MAX)
    return QuantizedPart(
        vectors.astype(np.int8),
        scales,
        part.token_ids.astype(np.int32),
        pooled[0].astype(np.int16),
        pooled_scale,
    )


def _rounded(rows: Array, most: int) -> tuple[Array, Array]:
    """Round each row of [n, D] to integers up to ``most``, and float32 [n] times these.

    The scales are those of least squares: the error has no part along the row, where it would count
    most, because a query's nearest tokens point the same way.
    """
    steps = np.abs(rows).max(axis=1, initial=0) / np.float32(most)
    integers = np.rint(rows / np.where(steps > 0, steps, np.float32(1))[:, None])
    squares = np.einsum("nd,nd->n", integers, integers)
    products = np.einsum("nd,nd->n", integers, rows)
    scales = products / np.where(squares > 0, squares, np.float32(1))
    return integers, scales.astype(np.float32)


def _ends(lengths: Sequence[int]) -> Offsets:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
