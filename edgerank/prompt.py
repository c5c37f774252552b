"""Turns text into tokens.

Pieces of the prompt are tokenised one by one and concatenated as ids, never as strings: at a seam
a tokenizer may merge characters of two pieces into one token, and the references do not.
Text that spells a special token, such as "<|im_end|>", becomes that token, as in the references.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from edgerank.documents import LongDocuments, Pair
from edgerank.errors import BundleError, InputError, Remedy
from edgerank.manifest import Piece, Prompt, Truncation
from edgerank.packing import EMPTY, Ids, Tokens

TextKind = Literal["query", "document"]


@dataclass(frozen=True)
class Encoded:
    """A query and its documents as tokens."""

    query: Tokens  # the shared prefix or the query's sequence; empty if each sequence has the query
    sequences: list[Tokens]  # one or more a document
    document_index: list[int]  # for each sequence, the index of its document
    query_tokens: int  # tokens of the query with its instruction, before it is cut


class PromptEncoder:
    """A prompt with its tokenizer; several threads may use it."""

    def __init__(
        self, prompt: Prompt, truncation: Truncation, tokenizer: Tokenizer, max_length: int
    ) -> None:
        """Tokenise the pieces that never change.

        :param tokenizer: as ``open_tokenizer`` opens it
        :param max_length: tokens, as the truncation rule counts them
        :raises BundleError: the tokenizer lacks a token that the prompt names
        """
        self._prompt = prompt
        self._truncation = truncation
        self._tokenizer = tokenizer
        self._max_length = max_length
        pieces = [piece for piece in prompt.query + prompt.document if piece.is_fixed]
        self._fixed = {
            piece: self._token(piece.text) if piece.is_token else self._tokenize([piece.text])[0]
            for piece in pieces
        }
        expansion = prompt.expansion
        self._filler = EMPTY.ids if expansion is None else self._token(expansion.token)
        after = next(piece.text for piece in prompt.document if not piece.is_fixed)
        after = after.partition("{document}")[2] if truncation.rule == "document" else ""
        self._tail = self._tokenize([after])[0]  # the end of a document that was cut

    def encode(
        self,
        query: str,
        documents: Mapping[str, Pair],
        instruction: str | None = None,
        long_documents: LongDocuments | None = None,
        max_document_tokens: int | None = None,
    ) -> Encoded:
        """Turn a query and its documents into tokens.

        :param documents: distinct texts, each with one of its pairs, for errors
        :param long_documents: a document over the maximum length is cut ("truncate"), becomes
            several sequences ("split"), or is an error ("refuse"); None: as the bundle says
        :param max_document_tokens: cut documents to this many tokens first
        :raises InputError: the family takes no instruction, or a document is refused
        """
        treatment = self._truncation.treatment(long_documents)
        query_ids = self._query_ids(query, instruction)
        query_tokens = len(query_ids)
        document_ids = self._document_ids(documents)
        if max_document_tokens is not None:
            document_ids = [self._cut(ids, max_document_tokens) for ids in document_ids]
        rule = self._truncation.rule
        room = self._max_length - self._truncation.reserved
        if rule == "document":
            share, whole = self._truncation.query_share
            query_ids = query_ids[: min(self._max_length * share // whole, room)]
        elif rule == "each":
            query_ids = query_ids[: self._room("query")]
            room = self._room("document")
        prefix = EMPTY if rule == "longest" else self._assemble(self._prompt.query, query_ids)
        if rule == "each":
            prefix = self._expanded(prefix)
        width = min(room - len(query_ids), self._max_length) if rule == "document" else room

        head = EMPTY
        sequences: list[Tokens] = []
        document_index: list[int] = []
        for index, (ids, pair) in enumerate(zip(document_ids, documents.values(), strict=True)):
            if rule == "longest":
                kept, width = _shares(len(query_ids), len(ids), room, treatment)
                head = self._assemble(self._prompt.query, query_ids[:kept])
            if treatment == "refuse" and len(ids) > width + len(self._tail):
                raise InputError(
                    pair.field,
                    f"it has {len(ids) - len(self._tail)} tokens and {width} fit beside the query;"
                    " shorten it",
                    pair.index,
                    Remedy("long_documents", ("truncate", "split")),
                )
            for window in self._windows(ids, width, treatment):
                sequences.append(_join([head, self._assemble(self._prompt.document, window)]))
                document_index.append(index)
        return Encoded(prefix, sequences, document_index, query_tokens)

    def encode_texts(
        self, texts: Sequence[str], kind: TextKind, instruction: str | None = None
    ) -> list[Tokens]:
        """Turn texts into tokens, each as one sequence, cut to the maximum length.

        :param instruction: for queries
        :raises InputError: the family takes no instruction
        """
        room = self._room(kind)
        if kind == "query":
            queries = (self._query_ids(text, instruction)[:room] for text in texts)
            return [self._expanded(self._assemble(self._prompt.query, ids)) for ids in queries]
        documents = self._document_ids(texts)
        return [self._assemble(self._prompt.document, ids[:room]) for ids in documents]

    def encode_parts(self, texts: Sequence[str]) -> tuple[list[Tokens], list[int]]:
        """Turn whole documents into tokens: a long one becomes several sequences.

        :return: the sequences, and the index of each one's text
        """
        room = self._room("document")
        sequences: list[Tokens] = []
        text_index: list[int] = []
        for index, ids in enumerate(self._document_ids(texts)):
            windows = self._windows(ids, room, "split")
            sequences += [self._assemble(self._prompt.document, window) for window in windows]
            text_index += [index] * len(windows)
        return sequences, text_index

    def _room(self, kind: TextKind) -> int:
        """Return how many tokens a text may have in its own sequence, without the fixed pieces."""
        if kind == "query":
            pieces, length = self._prompt.query, self._truncation.query_length
        else:
            pieces, length = self._prompt.document, None
        fixed = sum(len(self._fixed[piece]) for piece in pieces if piece.is_fixed)
        return (length or self._max_length) - fixed

    def _expanded(self, query: Tokens) -> Tokens:
        """Fill a query up, if the prompt has an expansion."""
        expansion = self._prompt.expansion
        missing = max(0, expansion.length - len(query)) if expansion else 0
        if expansion is None or not missing:
            return query
        return Tokens(
            np.concatenate([query.ids, self._filler.repeat(missing)]),
            np.concatenate([query.types, np.zeros(missing, np.int64)]),
            num_unseen=0 if expansion.is_seen else missing,
        )

    def _query_ids(self, query: str, instruction: str | None) -> Ids:
        template = next(piece.text for piece in self._prompt.query if not piece.is_fixed)
        text = template.replace("{query}", self._stripped(query))
        if instruction and self._prompt.instruction is None:
            raise InputError("instruction", "this model's family takes none; leave it out")
        instruction = instruction or self._prompt.default_instruction
        if instruction and self._prompt.instruction is not None:
            text = (
                self._prompt.instruction.replace("{instruction}", self._stripped(instruction))
                + text
            )
        return self._tokenize([text])[0]

    def _document_ids(self, texts: Iterable[str]) -> list[Ids]:
        template = next(piece.text for piece in self._prompt.document if not piece.is_fixed)
        return self._tokenize(
            template.replace("{document}", self._stripped(text)) for text in texts
        )

    def _cut(self, ids: Ids, width: int) -> Ids:
        """Cut a document to ``width`` tokens, and append the end of its piece."""
        if len(self._tail) == 0:
            return ids[:width]
        is_short = len(ids) < width + len(self._tail)
        return ids if is_short else np.concatenate([ids[:width], self._tail])

    def _windows(self, ids: Ids, width: int, long_documents: LongDocuments) -> list[Ids]:
        """Return a document's parts of ``width`` tokens: the first, or all if it is to be split."""
        if long_documents != "split" or len(ids) <= width + len(self._tail) or width < 1:
            return [self._cut(ids, width)]
        text = ids[: len(ids) - len(self._tail)]
        starts = range(0, len(text), width)
        return [np.concatenate([text[start : start + width], self._tail]) for start in starts]

    def _stripped(self, text: str) -> str:
        return text.strip() if self._prompt.strip else text

    def _assemble(self, pieces: Sequence[Piece], variable: Ids) -> Tokens:
        """Concatenate pieces, with ``variable`` in place of the one with a placeholder."""
        parts = [self._fixed.get(piece, variable) for piece in pieces]
        types = [
            np.full(len(ids), piece.token_type) for piece, ids in zip(pieces, parts, strict=True)
        ]
        return Tokens(np.concatenate(parts), np.concatenate(types))

    def _token(self, name: str) -> Ids:
        """Look up a token of the vocabulary: int64 [1]."""
        token = self._tokenizer.token_to_id(name)
        if token is None:
            raise BundleError(f"tokenizer.json: no token {name!r}, which the manifest names")
        return np.array([token], np.int64)

    def _tokenize(self, texts: Iterable[str]) -> list[Ids]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]


def _join(parts: Sequence[Tokens]) -> Tokens:
    return Tokens(
        np.concatenate([part.ids for part in parts]), np.concatenate([part.types for part in parts])
    )


def _shares(
    num_query: int, num_document: int, room: int, long_documents: LongDocuments
) -> tuple[int, int]:
    """Return how many tokens query and document may keep when the longer is cut first.

    The arithmetic is that of the tokenizers library, ``truncate_encodings``. A document that is not
    to be cut leaves the query whole, up to half of the room.
    """
    if num_query + num_document <= room:
        return num_query, num_document
    if long_documents != "truncate":
        kept = min(num_query, room // 2)
        return kept, room - kept
    shorter = min(num_query, num_document)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if num_query > num_document else (shorter, longer)
