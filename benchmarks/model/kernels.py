"""What do compiled kernels bring beside ONNX Runtime's operators?

Random weights in the widths of real models. Many short documents, fewer ragged ones, and one alone,
those of decoders behind a shared prefix; all kernels in turns, stock always among them. "stock /
these" is how many times as long the stock operators took in the same round. "of bare int8" is the
share of the int8 products that scores need at the least, over all of the time, of the rate of ONNX
Runtime's own int8 products by themselves in the same round. The largest difference of a score to
that of stock operators is given as a share of the scores' standard deviation. NAMES are parts of
models' names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.bare import bare_products
from benchmarks.common.engines import open_engine, random_documents, random_tokens
from benchmarks.common.random_models import Geometry, build_random, geometries
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import alternate, median_seconds, ratio
from edgerank.bundle import Bundle
from edgerank.kernels import STOCK, choose_kernels
from edgerank.packing import EMPTY, Group

NAMES = "MiniLM", "v2-m3", "modernbert", "mxbai-rerank-base-v1", "Qwen3", "large-v2"
PREFIX_TOKENS = 40  # system prompt and a short query
BARE = "bare int8 products"
BARE_SECONDS = 0.2  # of a round's bare products


@dataclass(frozen=True)
class Documents:
    """What is scored at once."""

    count: int
    tokens: tuple[int, int]  # of a document, the fewest and, exclusive, the most
    calls: int = 1  # of a turn, whose time is the median of theirs

    def draw(self, geometry: Geometry) -> Group:
        rng = np.random.default_rng(1)
        prefix = random_tokens(rng, PREFIX_TOKENS) if geometry.is_decoder else EMPTY
        return random_documents(self.count, self.tokens, prefix)


DOCUMENTS = {
    "48 × 20 to 40 tokens": Documents(48, (20, 41)),
    "16 × 40 to 250 tokens": Documents(16, (40, 251)),
    "1 × 30 tokens": Documents(1, (30, 31), calls=20),
}


@click.argument("names", nargs=-1)
@options.kernels
@options.layers(6)
@options.rounds(9)
@options.thread_counts
def measure(
    names: tuple[str, ...],
    kernels: list[str],
    layers: int,
    rounds: int,
    thread_counts: tuple[int, ...],
) -> Iterator[Row]:
    for geometry in geometries(names or NAMES):
        click.echo(geometry.model, err=True)
        with tempfile.TemporaryDirectory() as scratch:
            bundle = build_random(geometry, Path(scratch), layers)
            for threads in thread_counts:
                yield from compare(geometry, bundle, kernels, layers, rounds, threads)


def compare(
    geometry: Geometry, bundle: Bundle, kernels: list[str], layers: int, rounds: int, threads: int
) -> Iterator[Row]:
    """Time a model's documents in turns, beside the bare products of a layer."""
    names = list(dict.fromkeys([STOCK, *kernels]))
    engines = {name: open_engine(bundle, threads, choose_kernels(name)) for name in names}
    products = bare_products(np.int8, threads, geometry.layer)
    labels = {"geometry": f"{geometry.model}, {layers} layers", "threads": str(threads)}
    for label, documents in DOCUMENTS.items():
        group = documents.draw(geometry)
        turns: dict[str, Callable[[], float]] = {
            name: partial(median_seconds, partial(engine, group), documents.calls)
            for name, engine in engines.items()
        }
        turns[BARE] = partial(products.best_seconds, BARE_SECONDS)
        times = {name: seconds[1:] for name, seconds in alternate(turns, rounds + 1).items()}
        needed = geometry.layer.operations(layers, len(group), documents.count)
        stock = np.asarray(engines[STOCK](group))
        for name in names:
            seconds = times[name]
            rates = needed / seconds / (products.operations / times[BARE])
            figures = {
                "time": median(seconds * 1e3, "ms"),
                "tokens/s": median(len(group) / seconds, "tokens/s"),
                "of bare int8": median(rates * 100, "%"),
            }
            if name != STOCK:
                figures["stock / these"] = median(ratio(times[STOCK], seconds), "×")
                if documents.count > 1:
                    difference = np.abs(np.asarray(engines[name](group)) - stock).max()
                    share = float(difference / stock.std() * 100)
                    figures["largest score difference"] = Figure(share, "% of the spread")
            yield Row({**labels, "documents": label, "kernels": name}, figures)
