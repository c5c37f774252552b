"""How long does a large model take to open and to score first, and how much memory?

The geometry of mxbai-rerank-large-v2 with random weights, in a fresh process that scores one
document and then 32 long ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.bundles import mxbai_bundle
from benchmarks.common.processes import run_program
from benchmarks.common.record import Figure, Row, median

PROGRAM = """
import sys, time; start = time.perf_counter()
from edgerank import Reranker
imported = time.perf_counter()
reranker = Reranker(sys.argv[1], threads=int(sys.argv[2]))
opened = time.perf_counter()
reranker.score("who wrote dune?", ["Dune was written by Frank Herbert."])
scored = time.perf_counter()
reranker.score("who wrote dune?", [f"{i} " + "a passage of many words " * 40 for i in range(32)])
print(imported - start, opened - imported, scored - opened)"""


@options.layers(28)
@options.threads
@options.rounds(3)
@options.work
def measure(layers: int, threads: int, rounds: int, work: Path | None) -> Iterator[Row]:
    with options.directory(work) as directory:
        bundle = mxbai_bundle(Path(directory), layers)
        arguments = str(bundle.directory), str(threads)
        processes = [run_program(PROGRAM, *arguments) for _ in range(rounds)]
    steps = zip(*(map(float, one.output.split()) for one in processes), strict=True)
    figures = {
        name: median(seconds, "s")
        for name, seconds in zip(("import", "opening", "first score"), steps, strict=True)
    }
    variant = bundle.manifest.variants[0]
    weights = sum(bundle.manifest.files[name].size for name in variant.weights)
    peak = max(one.peak_bytes for one in processes)
    figures |= {
        "weights": Figure(weights / 1e9, "GB"),
        "peak memory": Figure(peak / 1e9, "GB"),
        "of the weights": Figure(peak / weights, "×"),
    }
    yield Row({"model": f"mxbai-rerank-large-v2, {layers} layers"}, figures)
