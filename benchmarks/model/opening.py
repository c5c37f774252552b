"""How long do models take to open and to score first, and how much memory?

The model in the package, and the geometry of mxbai-rerank-large-v2 with random weights; by each of
the kernels, in turns, in fresh processes that score one document and then 32 long ones. Memory held
is what a process has after that. Private memory is the part of it that is not mapped from files:
weights that are mapped can be dropped and read again, and processes share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.bundles import mxbai_bundle
from benchmarks.common.processes import Finished, run_program
from benchmarks.common.record import Figure, Row, median
from edgerank.bundle import DEFAULT_BUNDLE, Bundle, read_bundle

PROGRAM = """
import sys, time; start = time.perf_counter()
from edgerank import Reranker
imported = time.perf_counter()
reranker = Reranker(sys.argv[1], threads=int(sys.argv[2]), kernels=sys.argv[3])
opened = time.perf_counter()
reranker.score("who wrote dune?", ["Dune was written by Frank Herbert."])
scored = time.perf_counter()
reranker.score("who wrote dune?", [f"{i} " + "a passage of many words " * 40 for i in range(32)])
print(imported - start, opened - imported, scored - opened)"""


@options.kernels
@options.layers(28)
@options.threads
@options.rounds(3)
@options.work
def measure(
    kernels: list[str], layers: int, threads: int, rounds: int, work: Path | None
) -> Iterator[Row]:
    with options.directory(work) as directory:
        bundles = {
            "the model in the package": read_bundle(DEFAULT_BUNDLE),
            f"mxbai-rerank-large-v2, {layers} layers": mxbai_bundle(Path(directory), layers),
        }
        runs: dict[tuple[str, str], list[Finished]] = {key: [] for key in product(bundles, kernels)}
        for _ in range(rounds):
            for (model, name), finished in runs.items():
                place = bundles[model].directory
                finished.append(run_program(PROGRAM, place, str(threads), name))
    for (model, name), finished in runs.items():
        labels = {"model": model, "kernels": name}
        yield Row(labels, figures(bundles[model], finished))


def figures(bundle: Bundle, processes: list[Finished]) -> dict[str, Figure]:
    steps = zip(*(map(float, one.output.split()) for one in processes), strict=True)
    found = {
        name: median(seconds, "s")
        for name, seconds in zip(("import", "opening", "first score"), steps, strict=True)
    }
    variant = bundle.manifest.variants[0]
    weights = sum(bundle.manifest.files[name].size for name in variant.weights)
    peak = max(one.peak_bytes for one in processes)
    return found | {
        "weights": Figure(weights / 1e9, "GB"),
        "peak memory": Figure(peak / 1e9, "GB"),
        "of the weights": Figure(peak / weights, "×"),
        "memory held": median([one.memory_bytes / 1e9 for one in processes], "GB"),
        "private memory": median([one.private_bytes / 1e9 for one in processes], "GB"),
    }
