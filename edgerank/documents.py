"""Checks of queries, documents and numbers. Nothing here needs a model or a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edgerank.errors import InputError

Document = str | Mapping[str, str]
LongDocuments = Literal["truncate", "split", "refuse"]


@dataclass(frozen=True)
class Pair:
    """A query and a document's text, both checked."""

    query: str
    text: str
    index: int  # index of the document, or of the pair, in the caller's list
    field: str = "documents"  # name of the argument, for errors


def as_documents(documents: Iterable[Document]) -> Iterable[Document]:
    """Return documents unchanged. A single document is refused: iteration would yield its parts.

    :raises InputError: they are a string or a mapping, or not iterable
    """
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputError("documents", f"expected a list of documents, got {kind}")
    return documents


def make_pairs(query: str, documents: Iterable[Document]) -> list[Pair]:
    """Pair a query with each document.

    :raises InputError: a text is unusable
    """
    check_query(query)
    return [
        Pair(query, document_text(document, index=index), index)
        for index, document in enumerate(as_documents(documents))
    ]


def validate_pairs(pairs: Iterable[tuple[str, Document]]) -> list[Pair]:
    """Check (query, document) pairs.

    :raises InputError: an item is not a pair, or a text is unusable
    """
    if not isinstance(pairs, Iterable):
        raise InputError("pairs", f"expected a list of pairs, got {type(pairs).__name__}")
    checked = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError("pairs", "expected a (query, document) pair", index)
        query, document = pair
        check_query(query, "pairs.query", index)
        text = document_text(document, "pairs.document", index)
        checked.append(Pair(query, text, index, "pairs.document"))
    return checked


def document_text(document: object, field: str = "documents", index: int | None = None) -> str:
    """Return a document as the text that a model reads.

    A mapping is read as its ``title``, its ``text``, and each other field as ``field: value``, each
    on its own line. An empty title or text is left out.

    :raises InputError: it is neither a string nor a mapping of strings to strings
    """
    if not isinstance(document, Mapping):
        return check_text(document, field, index)
    for name, value in document.items():
        if not isinstance(name, str):
            kind = type(name).__name__
            raise InputError(field, f"a field's name must be a string, not {kind}", index)
        check_text(name, field, index)
        check_text(value, f"{field}.{name}", index)
    fields = dict(document)
    leading = [fields.pop(name, "") for name in ("title", "text")]
    others = [f"{name}: {value}" for name, value in fields.items()]
    return "\n".join([*filter(None, leading), *others])


def check_query(query: object, field: str = "query", index: int | None = None) -> str:
    """Return ``query`` if it is a usable text.

    :raises InputError: it is not a string, or blank
    """
    text = check_text(query, field, index)
    if not text.strip():
        raise InputError(field, "it is blank; say what the documents are to be relevant to", index)
    return text


def check_text(text: object, field: str, index: int | None = None) -> str:
    """Return ``text`` if it is a string that can be encoded as UTF-8.

    :raises InputError: it is not
    """
    if not isinstance(text, str):
        raise InputError(field, f"expected a string, got {type(text).__name__}", index)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code_point = f"U+{ord(text[error.start]):04X}"
        raise InputError(
            field.encode(errors="replace").decode(),
            f"character {error.start} is a lone surrogate ({code_point}), not text; decode the"
            " source as UTF-8 with errors='replace'",
            index,
        ) from error
    return text


def check_long_documents(value: str | None) -> None:
    """Check that ``value`` names a treatment of long documents, or is None.

    :raises InputError: it does not
    """
    if value is not None and value not in get_args(LongDocuments):
        known = ", ".join(get_args(LongDocuments))
        raise InputError("long_documents", f"{value!r} is unknown; choose {known}")


def check_integer(field: str, value: object, least: int, most: int | None = None) -> None:
    """Check that ``value`` is an integer within bounds.

    :raises InputError: it is not
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(field, f"expected an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(field, f"{value} is out of range; it must be {bounds}")
