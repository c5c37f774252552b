"""How much memory do building and searching a store of very many passages take?

Passages have 100 words, drawn by Zipf's law from a million. They are not encoded: each has the
vectors of the same one, of one token, because vectors are streamed to the disk. Everything else is
what a build does. A process builds and another opens: the peak of the one, less that of the model
once it has encoded a passage, and what the other holds beside mapped files. Encoding takes more
memory, which does not depend on how many passages there are.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import click
import numpy as np

from benchmarks.common.record import Figure, Row
from edgerank import DocumentStore, Reranker
from edgerank.store import encoding, writing
from edgerank.store.features import store_rule

WORDS, VOCABULARY = 100, 1_000_000
BLOCK = 1000  # passages drawn at once


@click.option(
    "--passages",
    type=click.IntRange(1),
    multiple=True,
    default=(100_000, 1_000_000),
    show_default=True,
)
def measure(passages: tuple[int, ...]) -> Iterator[Row]:
    for count in passages:
        with TemporaryDirectory(prefix="store-memory-") as work:
            figures = in_new_process(built, count, Path(work) / "store")
            figures |= in_new_process(searched, Path(work) / "store")
        yield Row({"passages": f"{count:,}"}, figures)


def in_new_process(
    function: Callable[..., dict[str, Figure]], *arguments: Any
) -> dict[str, Figure]:
    """Call a function where no other has left memory that is free and not given back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def built(count: int, directory: Path) -> dict[str, Figure]:
    """Build a store."""
    with Reranker(threads=1) as reranker:
        encoder = writing.Encoder(reranker, store_rule(reranker.bundle))
        binding = encoder.binding()
        [[part]] = encoding.encode_documents(reranker, encoder.rule, ["a passage"])
        token = slice(0, 1)
        part = replace(
            part,
            vectors=part.vectors[token],
            scales=part.scales[token],
            token_ids=part.token_ids[token],
        )
        before = peak()
        with (
            mock.patch.object(
                writing, "encode_documents", lambda _, __, texts: [[part]] * len(texts)
            ),
            mock.patch.object(writing.Encoder, "binding", lambda self: binding),
        ):
            writing.build(directory, drawn(count), encoder, show_progress=True)
        return {
            "peak of building": Figure((peak() - before) / 1e6, "MB"),
            "with the model": Figure(peak() / 1e6, "MB"),
        }


def searched(directory: Path) -> dict[str, Figure]:
    """Open a store and search it."""
    with Reranker(threads=1) as reranker:
        before = own_memory()
        with DocumentStore.open(directory, reranker, backend="numpy") as store:
            assert store.ids  # makes their index
            opened = own_memory()
            store.rank("w1 w22 w333 w4444")
            return {
                "held open": Figure((opened - before) / 1e6, "MB"),
                "after a search": Figure((own_memory() - before) / 1e6, "MB"),
                "store": Figure(store.manifest.size / len(store), "bytes/passage"),
            }


def drawn(count: int) -> Iterator[tuple[str, str]]:
    """Draw passages."""
    random = np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        points = random.random((size, WORDS)) * weights[-1]
        for number, words in enumerate(np.searchsorted(weights, points).tolist(), start):
            yield f"passage-{number}", " ".join(f"w{word}" for word in words)


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_memory() -> int:
    """Return the bytes that this process holds now, files that are mapped not counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024
