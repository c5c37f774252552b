"""What do feed-forward parts in slices bring?

The same random model whole and in slices, in turns, by each of the kernels: how many times as long
as the whole it takes by the same kernels.
NAMES are parts of the models' names; by default two decoder-sized and two small ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.engines import open_engine, random_documents
from benchmarks.common.random_models import Geometry, build_random, geometries
from benchmarks.common.record import Row, median
from benchmarks.common.turns import ratio, take_turns
from edgerank.bundle import Bundle
from edgerank.kernels import choose_kernels
from quantize.graph import int8

NUM_DOCUMENTS = 16
WHOLE = 1 << 20  # channels that no feed-forward part has
NAMES = "large-v2", "v2-m3", "electra", "MiniLM"


@click.argument("names", nargs=-1)
@click.option(
    "--channels",
    type=int,
    multiple=True,
    default=(int8.SLICE_CHANNELS,),
    show_default=True,
    help="Channels of a slice; may be given several times.",
)
@options.kernels
@options.layers(4)
@options.rounds(11)
@options.threads
def measure(
    names: tuple[str, ...],
    channels: tuple[int, ...],
    kernels: list[str],
    layers: int,
    rounds: int,
    threads: int,
) -> Iterator[Row]:
    documents = random_documents(NUM_DOCUMENTS)
    for geometry in geometries(names or NAMES):
        runs: dict[tuple[int, str], Callable[[], object]] = {}
        for size in (WHOLE, *channels):
            with tempfile.TemporaryDirectory() as scratch:
                bundle = build_sliced(geometry, size, layers, Path(scratch))
                for name in kernels:
                    engine = open_engine(bundle, threads, choose_kernels(name))
                    runs[size, name] = partial(engine, documents)
        times = take_turns(runs, rounds)
        for size, name in product(channels, kernels):
            count = -(-geometry.layer.wide // size)
            labels = {
                "geometry": geometry.model,
                "channels": str(size),
                "slices": str(count),
                "kernels": name,
            }
            ratios = ratio(times[size, name], times[WHOLE, name])
            yield Row(labels, {"of the whole's time": median(ratios)})


def build_sliced(geometry: Geometry, channels: int, layers: int, work: Path) -> Bundle:
    """Build the model in slices of so many channels each."""
    int8.SLICE_CHANNELS = channels
    int8.FEWEST_SLICES = 2  # whatever it costs: that is what is measured
    return build_random(geometry, work, layers)
