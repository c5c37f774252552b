"""How long does quantizing a large model take, and how much memory?

The geometry of mxbai-rerank-large-v2 with random weights, quantized to int8 with the whole recipe
and measured, in a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.bundles import mxbai_checkpoint
from benchmarks.common.checkpoints import MXBAI_LARGE_V2
from benchmarks.common.processes import run_program
from benchmarks.common.record import Figure, Row

PROGRAM = "import sys; from quantize import quantize; quantize(*sys.argv[1:])"
LARGEST_BYTES = MXBAI_LARGE_V2["vocab_size"] * MXBAI_LARGE_V2["hidden_size"] * 4  # as float32


@options.layers(28)
@options.work
def measure(layers: int, work: Path | None) -> Iterator[Row]:
    with options.directory(work) as directory, tempfile.TemporaryDirectory() as scratch:
        checkpoint = mxbai_checkpoint(Path(directory), layers)
        done = run_program(PROGRAM, checkpoint, Path(scratch) / "bundle")
    figures = {
        "time": Figure(done.seconds, "s"),
        "peak memory": Figure(done.peak_bytes / 1e9, "GB"),
        "above the largest tensor as float32": Figure(
            (done.peak_bytes - LARGEST_BYTES) / 1e9, "GB"
        ),
    }
    yield Row({"model": f"mxbai-rerank-large-v2, {layers} layers"}, figures)
