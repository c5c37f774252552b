"""How many pairs a second and a core, beside those published for the same rerankers?

The published figures are of sentence-transformers in float32 on an i7-13700K with 16 cores, on
pairs of Natural Questions of at most 512 tokens (the announcement of Ettin's rerankers, May 2026).
Here models of the same geometries with random weights score random tokens in int8, by default 40 to
250 a pair. Machines and texts differ, so that only large differences mean something. NAMES are
parts of models' names; all models by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.engines import open_engine, random_documents
from benchmarks.common.random_models import build_random, geometries
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import take_turns
from edgerank.kernels import choose_kernels

NUM_PAIRS = 32
CORES = 16  # of the published figures' machine


@dataclass(frozen=True)
class Published:
    """What was published of a model."""

    model: str
    pairs: float  # a second
    geometry: str  # the model's, by its name in GEOMETRIES
    layers: int


PUBLISHED = (
    Published("ettin-reranker-17m", 267, "ettin-reranker-17m", 7),
    Published("ms-marco-MiniLM-L4", 206, "ms-marco-MiniLM-L6", 4),
    Published("ms-marco-MiniLM-L6", 144, "ms-marco-MiniLM-L6", 6),
    Published("ettin-reranker-32m", 92.5, "ettin-reranker-32m", 10),
    Published("ms-marco-MiniLM-L12", 75.9, "ms-marco-MiniLM-L6", 12),
    Published("ettin-reranker-68m", 31.2, "ettin-reranker-68m", 19),
    Published("gte-reranker-modernbert-base", 14.7, "gte-reranker-modernbert-base", 22),
    Published("ettin-reranker-150m", 14.0, "ettin-reranker-150m", 22),
    Published("mxbai-rerank-base-v1", 13.4, "mxbai-rerank-base-v1", 12),
    Published("bge-reranker-v2-m3", 6.0, "bge-reranker-v2-m3", 24),
    Published("ettin-reranker-400m", 5.2, "ettin-reranker-400m", 28),
    Published("ettin-reranker-1b", 2.1, "ettin-reranker-1b", 28),
)


@click.argument("names", nargs=-1)
@options.kernels
@options.rounds(7)
@options.threads
def measure(names: tuple[str, ...], kernels: list[str], rounds: int, threads: int) -> Iterator[Row]:
    for published in PUBLISHED:
        if names and not any(name in published.model for name in names):
            continue
        click.echo(published.model, err=True)
        with tempfile.TemporaryDirectory() as scratch:
            yield from compare(published, Path(scratch), kernels, rounds, threads)


def compare(
    published: Published, work: Path, kernels: list[str], rounds: int, threads: int
) -> Iterator[Row]:
    """Time a geometry in turns, a row for each choice of kernels."""
    (geometry,) = geometries((published.geometry,))
    bundle = build_random(geometry, work, published.layers)
    documents = random_documents(NUM_PAIRS)
    runs = {
        name: partial(open_engine(bundle, threads, choose_kernels(name)), documents)
        for name in kernels
    }
    for name, seconds in take_turns(runs, rounds).items():
        per_core = NUM_PAIRS / seconds / threads
        known = published.pairs / CORES
        yield Row(
            {"model": published.model, "kernels": name, "threads": str(threads)},
            {
                "here": median(NUM_PAIRS / seconds, "pairs/s"),
                "a core": median(per_core, "pairs/s"),
                "published": Figure(published.pairs, "pairs/s"),
                "published, a core": Figure(known, "pairs/s"),
                "here / published, a core": median(per_core / known, "×"),
            },
        )
