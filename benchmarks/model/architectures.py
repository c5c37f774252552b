"""How close does each architecture come to the machine's int8 matrix rate, at its real geometry?

Random weights, two depths: the difference between their times is that of whole layers, without
embedding, head and the last layer, which computes little. Rates are of the int8 products of those
layers alone, over all the time that the layers take, attention and norms included; the bare rate of
int8 matrix products is measured in the same rounds. NAMES are parts of models' names; all models by
default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.bare import bare_products
from benchmarks.common.bundles import load_model
from benchmarks.common.engines import open_engine, random_documents
from benchmarks.common.random_models import Geometry, build_random, geometries
from benchmarks.common.record import Row, median
from benchmarks.common.turns import take_turns
from edgerank.bundle import Bundle
from edgerank.kernels import choose_kernels

NUM_DOCUMENTS = 16


@click.argument("names", nargs=-1)
@options.rounds(7)
@options.threads
def measure(names: tuple[str, ...], rounds: int, threads: int) -> Iterator[Row]:
    for geometry in geometries(names):
        click.echo(geometry.model, err=True)
        with tempfile.TemporaryDirectory() as scratch:
            yield measure_one(geometry, Path(scratch), rounds, threads)


def measure_one(geometry: Geometry, work: Path, rounds: int, threads: int) -> Row:
    """Build two depths of a geometry and time them in turns."""
    products = bare_products(np.int8, threads)
    documents = random_documents(NUM_DOCUMENTS)
    runs: dict[str, Callable[[], object]] = {"bare": products.run}
    weights = {}
    for name, depth in zip(("shallow", "deep"), geometry.depths, strict=True):
        bundle = build_random(geometry, work, depth)
        weights[name] = int8_weights(bundle)
        runs[name] = partial(open_engine(bundle, threads), documents)
    times = take_turns(runs, rounds)
    seconds = times["deep"] - times["shallow"]
    rates = 2 * (weights["deep"] - weights["shallow"]) * len(documents) / seconds
    layers = geometry.depths[1] - geometry.depths[0]
    figures = {
        "a layer": median(len(documents) * layers / seconds, "tokens/s"),
        "int8 products": median(rates / 1e9, "GOP/s"),
        "of bare int8": median(rates / (products.operations / times["bare"]) * 100, "%"),
    }
    labels = {"geometry": geometry.model, "architecture": bundle.manifest.architecture}
    return Row({**labels, "kernels": choose_kernels().name}, figures)


def int8_weights(bundle: Bundle) -> int:
    """Count the weights that int8 products read, with the zeros that fill panels up."""
    shapes = {one.name: one.dims for one in load_model(bundle).graph.initializer}
    return sum(int(np.prod(dims)) for name, dims in shapes.items() if f"{name}.sums" in shapes)
