"""What ``rerank`` and ``client`` share: options, documents to read, and hits to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, get_args

import click
import msgspec

from edgerank.errors import InputError
from edgerank.prompt import LongDocuments

Command = Callable[..., Any]


@dataclass(frozen=True)
class Line:
    """A document as it was read."""

    id: str
    text: str


class _Record(msgspec.Struct):
    """A line of JSONL: ``id`` (or BEIR's ``_id``) and ``text``, with an optional ``title``."""

    text: str
    id: str | int | None = None
    _id: str | int | None = None
    title: str = ""


def ranking_options(command: Command) -> Command:
    """Give a command the options of what is asked: they are named as in ``Reranker.rank``."""
    options = (
        click.option(
            "-k",
            "--top-k",
            type=click.IntRange(1),
            help="Print only the best K documents. The default is all.",
        ),
        click.option(
            "--instruction", help="Tell the model what relevance means. Only some models take one."
        ),
        click.option("--normalize", is_flag=True, help="Give every score as one from 0 to 1."),
        click.option(
            "--long-documents",
            type=click.Choice(get_args(LongDocuments)),
            help="What to do with a document over the maximum length: cut its end off, score its"
            " parts and take the best, or stop with an error. The default is the model's own.",
        ),
    )
    for option in reversed(options):  # as decorators apply: the last one first
        command = option(command)
    return command


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Read documents, skipping blank lines; a first line that is a JSON object means JSONL.

    A line without an id of its own is called by its number.

    :raises InputError: a line is not UTF-8, or not the JSON that the first line promised
    """
    is_jsonl: bool | None = None
    for number, raw in enumerate(file, 1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        if not raw.strip():
            continue
        if is_jsonl is None:
            is_jsonl = raw.lstrip().startswith(b"{")
        try:
            if is_jsonl:
                yield _parse(raw, number)
            else:
                yield Line(str(number), raw.decode().strip())
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{file.name}", f"line {number}: {error}") from error


def show(ranked: list[tuple[float, Line]], as_json: bool) -> None:
    """Print scores and their lines, as a table or as JSON."""
    if as_json:
        records = [{"id": line.id, "score": score, "text": line.text} for score, line in ranked]
        click.echo(msgspec.json.encode(records))  # bytes: UTF-8 whatever the terminal's encoding
    else:
        _print_table(ranked)


def _parse(raw: bytes, number: int) -> Line:
    record = msgspec.json.decode(raw, type=_Record)
    known = next((i for i in (record.id, record._id) if i is not None), number)
    text = f"{record.title}\n{record.text}" if record.title else record.text
    return Line(str(known), text)


def _print_table(ranked: list[tuple[float, Line]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("rank", "score", "id"):
        table.add_column(name, no_wrap=True)
    table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, (score, line) in enumerate(ranked, 1):
        table.add_row(
            str(rank), f"{score:.4f}", Text(_in_one_line(line.id)), Text(_in_one_line(line.text))
        )
    Console().print(table)


def _in_one_line(text: str) -> str:
    """Leave out what could move the cursor or colour the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
