"""Shared by ``rerank`` and ``client``: options, reading documents, and showing hits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from edgerank.cli.options import instruction_option, normalize_option
from edgerank.documents import LongDocuments, document_text
from edgerank.errors import InputError
from edgerank.files import decode_line, numbered_lines, read_lines

Command = Callable[..., Any]


@dataclass(frozen=True)
class Line:
    """A document as it was read."""

    id: str
    text: str


def ranking_options(command: Command) -> Command:
    """Add the options of ``Reranker.rank`` to a command, with the same names."""
    options = (
        click.option(
            "-k",
            "--top-k",
            type=click.IntRange(1),
            help="Print only the best K documents. The default is all.",
        ),
        instruction_option,
        normalize_option,
        click.option(
            "--long-documents",
            type=click.Choice(get_args(LongDocuments)),
            help="Choose what happens to a document over the maximum length: truncate cuts its end"
            " off, split scores its parts and takes the best score, refuse stops with an error. The"
            " default is the model's own.",
        ),
    )
    for option in reversed(options):  # as decorators apply: the last one first
        command = option(command)
    return command


def read_documents(path: str) -> Iterator[Line]:
    """Read documents, skipping blank lines; a first line that is a JSON object means JSONL.

    A JSON object is a document as ``Reranker.rank`` takes it, beside its ``id`` (or BEIR's
    ``_id``) and BEIR's ``metadata``. A line without an id of its own is called by its number.

    :param path: of a file, or "-" for stdin
    :raises InputError: the file cannot be read, or a line is not UTF-8, or not the JSON that the
        first line promised
    """
    if path != "-":
        name, lines = path, read_lines(Path(path))
    elif sys.stdin is None:
        raise InputError("stdin", "it is closed; name a file, or pipe the documents in")
    else:
        name, lines = "stdin", numbered_lines(sys.stdin.buffer)
    is_jsonl: bool | None = None
    for number, line in lines:
        if is_jsonl is None:
            is_jsonl = line.lstrip().startswith(b"{")
        if is_jsonl:
            yield _parse(name, number, line)
            continue
        try:
            yield Line(str(number), line.decode().strip())
        except UnicodeDecodeError as error:
            raise InputError(name, f"line {number}: {error}") from error


@contextmanager
def named_documents(lines: Sequence[Line]) -> Iterator[None]:
    """Let errors in a ``with`` block name a document by its id instead of its index.

    :raises InputError: as raised within
    """
    try:
        yield
    except InputError as error:
        if error.field != "documents" or error.index is None:
            raise
        name = f"document {lines[error.index].id}"
        raise InputError(name, error.reason, remedy=error.remedy) from error


def show(ranked: list[tuple[float, Line]], as_json: bool) -> None:
    """Print scores and their lines, as a table or as JSON."""
    if as_json:
        records = [{"id": line.id, "score": score, "text": line.text} for score, line in ranked]
        click.echo(msgspec.json.encode(records))  # bytes: UTF-8 whatever the terminal's encoding
    else:
        _print_table(ranked)


def _parse(name: str, number: int, line: bytes) -> Line:
    record = decode_line(name, number, line, dict[str, Any])
    record.pop("metadata", None)
    ids = [record.pop(key, None) for key in ("id", "_id")]
    known = next((each for each in ids if each is not None), number)
    if not isinstance(known, str | int) or isinstance(known, bool):
        raise InputError(name, f"line {number}: the id must be a string or a number")
    if not record:
        raise InputError(name, f'line {number}: the document has no "text"')
    try:
        return Line(str(known), document_text(record, "document"))
    except InputError as error:
        field = error.field.removeprefix("document.")
        raise InputError(name, f"line {number}: {field}: {error.reason}") from error


def _print_table(ranked: list[tuple[float, Line]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("rank", "score"):
        table.add_column(name, no_wrap=True)
    table.add_column("id", overflow="fold")  # whole, however narrow the terminal
    table.add_column("document", no_wrap=True, overflow="ellipsis", min_width=20, ratio=1)
    for rank, (score, line) in enumerate(ranked, 1):
        table.add_row(
            str(rank), f"{score:.4f}", Text(in_one_line(line.id)), Text(in_one_line(line.text))
        )
    Console().print(table)


def in_one_line(text: str) -> str:
    """Remove characters that could move the cursor or colour the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
