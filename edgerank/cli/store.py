"""``edgerank store build | add | delete | rank | inspect | verify``"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from edgerank.cli.options import (
    bundle_option,
    instruction_option,
    kernels_option,
    normalize_option,
    threads_option,
)
from edgerank.cli.ranking import in_one_line, read_documents
from edgerank.cli.wording import counted
from edgerank.errors import InputError, StoreError
from edgerank.files import numbered_lines, read_lines

Command = Callable[..., Any]
STORE = click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
CORPUS = click.argument("corpus", default="-")


@click.group()
def store() -> None:
    """Encode documents once, and rank them for any query.

    A store is a directory with the vectors of documents, made by an embedding or late-interaction
    model. Ranking needs the same model: give the same --model to every command.
    """


@store.command()
@STORE
@CORPUS
@bundle_option
@threads_option
@kernels_option
def build(
    directory: Path, corpus: str, model: Path, threads: int | None, kernels: str | None
) -> None:
    """Make a store of documents.

    CORPUS is a file, by default stdin, with one document a line: plain text, or a JSON object with
    "text", "id" (or "_id") and, optionally, "title" and other fields. If the command is
    interrupted, give it again to continue.
    """
    from edgerank.reranker import Reranker  # onnxruntime takes a while to load
    from edgerank.store.store import DocumentStore

    reranker = Reranker(model, threads=threads, kernels=kernels)
    made = DocumentStore.build(
        directory, _documents(corpus), reranker, show_progress=sys.stderr.isatty()
    )
    click.echo(f"{directory}: {counted(len(made), 'document')}, {made.manifest.size / 1e6:,.1f} MB")


@store.command()
@STORE
@CORPUS
@bundle_option
@click.option(
    "--replace", is_flag=True, help="Replace documents in the store that have the same ids."
)
@threads_option
@kernels_option
def add(
    directory: Path,
    corpus: str,
    model: Path,
    replace: bool,
    threads: int | None,
    kernels: str | None,
) -> None:
    """Add documents to a store.

    All documents are added, or none if one of them is unusable. CORPUS is as for `edgerank store
    build`.
    """
    with _opened(directory, model, threads, kernels) as opened:
        count = opened.add(_documents(corpus), replace=replace, show_progress=sys.stderr.isatty())
        click.echo(f"{directory}: {count:,} added, {counted(len(opened), 'document')}")


@store.command()
@STORE
@click.argument("ids", nargs=-1)
@bundle_option
@click.option(
    "--ids", "file", metavar="FILE", help="Read ids from this file, one a line; - is stdin."
)
def delete(directory: Path, ids: tuple[str, ...], model: Path, file: str | None) -> None:
    """Delete documents from a store by their ids.

    All of them are deleted, or none if one is not in the store.
    """
    names = [*ids, *(_ids(file) if file is not None else ())]
    if not names:
        raise InputError("ids", "there are none; name them, or a file with --ids")
    with _opened(directory, model, None, None) as opened:
        count = opened.delete(names)
        click.echo(f"{directory}: {count:,} deleted, {counted(len(opened), 'document')}")


@store.command()
@STORE
@click.argument("query")
@bundle_option
@click.option(
    "--ids",
    "file",
    metavar="FILE",
    help="Rank the documents whose ids are in this file, one a line; - is stdin. The default is to"
    " search the whole store.",
)
@click.option(
    "-k",
    "--top-k",
    type=click.IntRange(1),
    help="Print only the best K documents. The default is all documents of --ids, and 10 in a"
    " search.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="In a search, score this many documents with the best BM25 scores, and this many with the"
    " nearest vectors.",
)
@instruction_option
@normalize_option
@threads_option
@kernels_option
@click.option("--json", "as_json", is_flag=True, help="Print the ranking as a JSON array.")
def rank(
    directory: Path,
    query: str,
    model: Path,
    file: str | None,
    top_k: int | None,
    candidates: int,
    instruction: str | None,
    normalize: bool,
    threads: int | None,
    kernels: str | None,
    as_json: bool,
) -> None:
    """Rank documents of a store, or search it."""
    with _opened(directory, model, threads, kernels) as opened:
        hits = opened.rank(
            query,
            None if file is None else list(_ids(file)),
            top_k=top_k,
            instruction=instruction,
            normalize=normalize,
            candidates=candidates,
        )
    if as_json:
        click.echo(msgspec.json.encode([{"id": hit.id, "score": hit.score} for hit in hits]))
        return
    for place, hit in enumerate(hits, 1):
        click.echo(f"{place:>4}  {hit.score:>8.4f}  {in_one_line(hit.id)}")


@store.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest of the store as JSON.")
def inspect(directory: Path, as_json: bool) -> None:
    """Describe a store: its model, its documents and its size."""
    from edgerank.store.format import STORE_NAME, read_store_manifest

    manifest = read_store_manifest(directory)
    if as_json:
        click.echo((directory / STORE_NAME).read_text("utf-8"), nl=False)
        return
    binding, segments = manifest.binding, manifest.segments
    num_deleted = sum(segment.num_deleted for segment in segments)
    parts = sum(segment.parts for segment in segments)
    tokens = sum(segment.tokens for segment in segments)
    per_document = manifest.size / max(manifest.num_documents, 1)
    facts = {
        "model": binding.model,
        "digest": binding.bundle,
        "score": binding.rule,
        "parts": f"of up to {binding.max_length} tokens",
        "documents": f"{manifest.num_documents:,}, and {num_deleted:,} that were deleted",
        "vectors": f"{parts:,} of parts, {tokens:,} of tokens, of {binding.dimension} numbers each",
        "segments": f"{len(segments)}",
        "size": f"{manifest.size / 1e6:,.1f} MB, {per_document:,.0f} bytes a document",
        "build": "complete" if manifest.is_complete else "broken off; the same command goes on",
    }
    for name, value in facts.items():
        click.echo(f"{name:<10} {value}")


@store.command()
@STORE
def verify(directory: Path) -> None:
    """Compare every file of a store with its sha256."""
    from edgerank.bundle import verify_files
    from edgerank.store.format import read_store_manifest

    manifest = read_store_manifest(directory)
    for name in verify_files(directory, manifest.files, StoreError):
        click.echo(f"intact  {name}")


def _opened(directory: Path, model: Path, threads: int | None, kernels: str | None) -> Any:
    from edgerank.reranker import Reranker
    from edgerank.store.format import read_binding
    from edgerank.store.store import DocumentStore

    max_length = read_binding(directory).max_length
    reranker = Reranker(model, threads=threads, kernels=kernels, max_length=max_length)
    return DocumentStore.open(directory, reranker)


def _documents(corpus: str) -> Iterator[tuple[str, str]]:
    return ((line.id, line.text) for line in read_documents(corpus))


def _ids(path: str) -> Iterator[str]:
    """Read ids, one a line.

    :raises InputError: the file cannot be read, or is not UTF-8
    """
    lines = numbered_lines(sys.stdin.buffer) if path == "-" else read_lines(Path(path))
    for number, line in lines:
        try:
            yield line.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(path, f"line {number}: {error}") from error
