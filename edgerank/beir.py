"""Lines of corpus.jsonl and queries.jsonl of a collection in BEIR's layout."""

from __future__ import annotations

import msgspec

from edgerank import trec
from edgerank.documents import document_text
from edgerank.errors import InputError
from edgerank.files import decode_line

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"


class _Record(msgspec.Struct):
    """The fields of a line; others are ignored."""

    id: str | int = msgspec.field(name="_id")
    text: str
    title: str | None = None


def read_record(name: str, number: int, line: bytes) -> tuple[str, str]:
    """Return the id of a line, and its title and text.

    :param name: name of the file, for errors
    :raises InputError: it is not such a line, or the id is empty or holds a space
    """
    record = decode_line(name, number, line, _Record)
    key = str(record.id)
    if not trec.fits(key):
        raise InputError(
            name, f"line {number}: the id {key!r} is empty or holds a space, which run files cannot"
        )
    return key, document_text({"title": record.title or "", "text": record.text})
