"""What do feed-forward parts in slices bring?

The same random model whole and in slices, in turns: how many times as long as the whole it takes.
NAMES are parts of the models' names; by default two decoder-sized and two small ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.engines import open_engine, random_documents
from benchmarks.common.random_models import Geometry, build_random, geometries
from benchmarks.common.record import Row, median
from benchmarks.common.turns import ratio, take_turns
from quantize.graph import precision

NUM_DOCUMENTS = 16
WHOLE = 1 << 20  # channels that no feed-forward part has
NAMES = "large-v2", "v2-m3", "electra", "MiniLM"


@click.argument("names", nargs=-1)
@click.option(
    "--channels",
    type=int,
    multiple=True,
    default=(precision.SLICE_CHANNELS,),
    show_default=True,
    help="Channels of a slice; may be given several times.",
)
@options.layers(4)
@options.rounds(11)
@options.threads
def measure(
    names: tuple[str, ...], channels: tuple[int, ...], layers: int, rounds: int, threads: int
) -> Iterator[Row]:
    for geometry in geometries(names or NAMES):
        runs = {}
        for size in (WHOLE, *channels):
            runs[size] = sliced_run(geometry, size, layers, threads)
        times = take_turns(runs, rounds)
        for size in channels:
            count = -(-geometry.config["intermediate_size"] // size)
            labels = {"geometry": geometry.model, "channels": str(size), "slices": str(count)}
            yield Row(labels, {"of the whole's time": median(ratio(times[size], times[WHOLE]))})


def sliced_run(geometry: Geometry, channels: int, layers: int, threads: int) -> Callable[[], None]:
    """Build the model in slices of so many channels each, and return a run of documents."""
    precision.SLICE_CHANNELS = channels
    precision.FEWEST_SLICES = 2  # whatever it costs: that is what is measured
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build_random(geometry, Path(scratch), layers)
        return partial(open_engine(bundle, threads), random_documents(NUM_DOCUMENTS))
