"""``edgerank rerank``"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, get_args

import click
import msgspec

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.errors import InputError
from edgerank.prompt import LongDocuments
from edgerank.reranker import Reranker


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


@click.command()
@click.argument("query")
@click.argument("documents", type=click.File("rb"), default="-")
@click.option(
    "-m",
    "--model",
    default=DEFAULT_BUNDLE,
    envvar="EDGERANK_MODEL",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="The bundle; the one in the package by default.",
)
@click.option("-k", "--top-k", type=click.IntRange(1), help="How many to show; all by default.")
@click.option("--instruction", help="What relevance means, for models that take one.")
@click.option("--normalize", is_flag=True, help="Scores in [0, 1].")
@click.option(
    "--long-documents",
    type=click.Choice(get_args(LongDocuments)),
    help="What to do with a document over the maximum length; the model's own way by default.",
)
@click.option("--max-length", type=int, help="Tokens of query and document together.")
@click.option("--threads", type=int, help="Physical cores of this process by default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def rerank(
    query: str,
    documents: BinaryIO,
    model: Path,
    top_k: int | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
    max_length: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Rank DOCUMENTS for QUERY.

    DOCUMENTS is a file, or stdin: one document a line, or JSONL with "id" and "text".
    """
    lines = list(read_lines(documents))
    reranker = Reranker.open(model, max_length=max_length, threads=threads)
    hits = reranker.rank(
        query,
        [line.text for line in lines],
        top_k=top_k,
        instruction=instruction,
        normalize=normalize,
        long_documents=long_documents,
        show_progress=sys.stderr.isatty(),
    )
    show([(hit.score, lines[hit.index]) for hit in hits], as_json)


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
            raise InputError(f"{file.name}: line {number}: {error}") from error


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
