"""What feed-forward parts in slices bring: the same random model whole and in slices, in turns.

Geometries are those of ``benchmarks.architectures``, by parts of their names.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.architectures import GEOMETRIES, NUM_DOCUMENTS, TEXT, Geometry, build, documents
from edgerank.cpu import physical_cores
from edgerank.engine import Engine
from edgerank.manifest import CPU_PROVIDER
from quantize.graph import precision

WHOLE = 1 << 20  # channels that no feed-forward part has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["large-v2", "v2-m3", "electra", "MiniLM"])
    parser.add_argument("--channels", nargs="+", type=int, default=[precision.SLICE_CHANNELS])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    table = Table("geometry", "channels", "slices", "times the whole", "quartiles", box=None)
    for geometry in GEOMETRIES:
        if any(name in geometry.model for name in arguments.names):
            for row in compare(geometry, arguments.channels, arguments.layers, arguments.rounds):
                table.add_row(geometry.model, *row)
    Console().print(table)


def compare(
    geometry: Geometry, channels: list[int], layers: int, rounds: int
) -> list[tuple[str, ...]]:
    """Time slices of so many channels each against the whole: rows of the table."""
    width = geometry.config["intermediate_size"]
    times: dict[int, list[float]] = {size: [] for size in (WHOLE, *channels)}
    with tempfile.TemporaryDirectory() as scratch:
        engines = {}
        for size in times:
            work = Path(scratch) / str(size)
            work.mkdir()
            (work / "text.jsonl").write_text("\n".join(map(json.dumps, TEXT)))
            precision.SLICE_CHANNELS = size
            precision.FEWEST_SLICES = 2  # whatever it costs: that is what is measured
            torch.manual_seed(0)
            bundle = build(geometry, work, layers)
            engines[size] = Engine(bundle, threads=physical_cores(), providers=[CPU_PROVIDER])
        batches = documents(np.random.default_rng(0), bundle)
        for number in range(rounds + 1):
            for size, engine in engines.items():
                start = time.perf_counter()
                engine.run(batches, NUM_DOCUMENTS)
                if number:  # the first warms up
                    times[size].append(time.perf_counter() - start)
    rows = []
    for size in channels:
        ratios = [one / whole for one, whole in zip(times[size], times[WHOLE], strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75])
        count = -(-width // size)
        ratio = f"{statistics.median(ratios):.3f}"
        rows.append((str(size), str(count), ratio, f"{low:.3f}-{high:.3f}"))
    return rows


if __name__ == "__main__":
    main()
