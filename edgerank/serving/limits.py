"""The limits of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgerank.documents import Pair
from edgerank.errors import InputError
from edgerank.serving.settings import (
    MAX_CALLS,
    MAX_DOCUMENT_BYTES,
    MAX_DOCUMENTS,
    MAX_MESSAGE_BYTES,
    MAX_QUERY_TOKENS,
)


@dataclass(frozen=True)
class TextSizes:
    """Numbers of bytes (UTF-8) of the texts of a request."""

    queries: Mapping[str, int]  # of each distinct query
    documents: Sequence[int]  # of each pair's document
    instruction: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.queries.values()) + sum(self.documents) + self.instruction


@dataclass(frozen=True)
class Limits:
    """The limits, and the checks of a request against them."""

    max_documents: int = MAX_DOCUMENTS.default
    max_document_bytes: int = (
        MAX_DOCUMENT_BYTES.default
    )  # of UTF-8; also for queries and instructions
    max_query_tokens: int = MAX_QUERY_TOKENS.default
    max_message_bytes: int = MAX_MESSAGE_BYTES.default
    max_calls: int = MAX_CALLS.default  # at once

    def check_count(self, field: str, count: int) -> None:
        """Check the number of documents or pairs.

        :raises InputError: there are too many
        """
        if count > self.max_documents:
            raise InputError(field, f"there are {count} and the limit is {self.max_documents}")

    def check_texts(self, pairs: Sequence[Pair], instruction: str | None) -> TextSizes:
        """Check the bytes of all texts.

        :raises InputError: a text has too many
        """
        queries = {
            query: self._check_bytes(query, field, index)
            for query, (field, index) in _places_of_queries(pairs).items()
        }
        return TextSizes(
            queries,
            [self._check_bytes(pair.text, pair.field, pair.index) for pair in pairs],
            self._check_bytes(instruction or "", "instruction", None),
        )

    def check_each(self, field: str, texts: Sequence[str]) -> list[int]:
        """Return the bytes of each text.

        :raises InputError: a text has too many
        """
        return [self._check_bytes(text, field, index) for index, text in enumerate(texts)]

    def check_queries(self, pairs: Sequence[Pair], num_tokens: Mapping[str, int]) -> None:
        """Check the tokens of queries.

        :param num_tokens: of each query
        :raises InputError: one has too many
        """
        for query, (field, index) in _places_of_queries(pairs).items():
            if num_tokens[query] > self.max_query_tokens:
                raise InputError(
                    field,
                    f"it has {num_tokens[query]} tokens and the limit is {self.max_query_tokens}",
                    index,
                )

    def _check_bytes(self, text: str, field: str, index: int | None) -> int:
        size = len(text.encode())
        if size > self.max_document_bytes:
            raise InputError(
                field, f"it has {size} bytes and the limit is {self.max_document_bytes}", index
            )
        return size


def _places_of_queries(pairs: Sequence[Pair]) -> dict[str, tuple[str, int | None]]:
    """Return the name of each distinct query in errors."""
    places: dict[str, tuple[str, int | None]] = {}
    for pair in pairs:
        if pair.query not in places:
            is_own = pair.field == "pairs.document"
            places[pair.query] = ("pairs.query", pair.index) if is_own else ("query", None)
    return places
