"""How close does the engine come to the machine's int8 matrix rate, and how much memory it takes.

Builds the exact geometry of mxbai-rerank-large-v2 with random weights, quantizes it, and prints, in
one run and interleaved: the machine's bare int8 and fp32 matrix rates, the engine's tokens/s and
its share of the bare int8 rate by micro-batch size, documents/s with and without prefix sharing,
the time to open and to the first score, and peak memory against the size of the weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.checkpoints import MXBAI_LARGE_V2, write_qwen2
from edgerank.bundle import Bundle, read_bundle
from edgerank.cpu import physical_cores
from edgerank.engine import Engine
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import EMPTY, Group, Tokens, pack

TOKENIZER = Path(__file__).parents[2] / "shared/tokenizers/qwen2.5/tokenizer.json"
NUM_DOCUMENTS = 32
PREFIX_TOKENS = 40  # system prompt and a short query
TAIL_TOKENS = 55  # the prompt's fixed part after each document
BARE_ROWS, BARE_CALLS = 512, 8
LIMITS = {"bare int8": np.int8, "bare fp32": np.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28, help="layers of the model")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--work", type=Path, help="keep checkpoint and bundle in this directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(arguments.work or Path(scratch), arguments.layers, arguments.tokenizer)
        measure_memory(bundle, arguments.threads)
        measure_speed(
            bundle, arguments.layers, arguments.threads, arguments.rounds, arguments.batch_tokens
        )


def build(work: Path, layers: int, tokenizer: Path) -> Bundle:
    """Write the checkpoint and quantize it in a process of its own, whose peak memory counts."""
    checkpoint, target = work / f"checkpoint-{layers}", work / f"bundle-{layers}"
    if not target.exists():
        if not checkpoint.exists():
            write_qwen2(checkpoint, {**MXBAI_LARGE_V2, "num_hidden_layers": layers}, tokenizer)
        program = "import sys; from quantize import quantize; quantize(*sys.argv[1:])"
        peak, seconds, _ = run_apart(program, str(checkpoint), str(target))
        largest = MXBAI_LARGE_V2["vocab_size"] * MXBAI_LARGE_V2["hidden_size"] * 4
        print(
            f"quantize {layers} layers: {seconds:.0f} s, peak memory {peak / 1e9:.2f} GB,"
            f" {(peak - largest) / 1e9:.2f} GB above the largest tensor as float32"
        )
    return read_bundle(target)


def run_apart(program: str, *arguments: str) -> tuple[int, float, str]:
    """Run a program in its own process: its peak memory in bytes, its seconds, what it printed."""
    # VmHWM and not ru_maxrss, which a process inherits from the one that started it
    report = "\nimport sys; print(open('/proc/self/status').read(), file=sys.stderr)"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program + report, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    (peak,) = (line.split()[1] for line in done.stderr.splitlines() if line.startswith("VmHWM"))
    return int(peak) * 1024, seconds, done.stdout


def measure_memory(bundle: Bundle, threads: int) -> None:
    """Open the bundle and score documents in a fresh process."""
    program = """
import sys, time; start = time.perf_counter()
from edgerank import Reranker
imported = time.perf_counter()
reranker = Reranker(sys.argv[1], threads=int(sys.argv[2]))
opened = time.perf_counter()
reranker.score("who wrote dune?", ["Dune was written by Frank Herbert."])
scored = time.perf_counter()
reranker.score("who wrote dune?", [f"{i} " + "a passage of many words " * 40 for i in range(32)])
print(imported - start, opened - imported, scored - opened)"""
    peak, _, printed = run_apart(program, str(bundle.directory), str(threads))
    imported, opened, scored = map(float, printed.split())
    weights = bundle.manifest.files[bundle.manifest.model + ".data"].size
    print(
        f"import {imported:.2f} s, open {opened:.2f} s, first score {scored:.2f} s after that\n"
        f"peak memory {peak / 1e9:.2f} GB, weights {weights / 1e9:.2f} GB:"
        f" {peak / weights:.2f} times the weights"
    )


def measure_speed(bundle: Bundle, layers: int, threads: int, rounds: int, sizes: list[int]) -> None:
    """Time the bare rates and the engine in turns, so that the machine's moods hit all alike."""
    engine = Engine(bundle, threads=threads, providers=[CPU_PROVIDER])
    rng = np.random.default_rng(0)
    shared, apart = documents(rng)
    candidates: dict[str, tuple[Callable[[], object], float]] = {}
    for name, dtype in LIMITS.items():
        candidates[name] = bare(dtype, threads), bare_operations()
    for size in sizes:
        candidates[f"engine, batches of {size}"] = (
            lambda size=size: run(engine, shared, size),
            operations(layers, shared, size),
        )
    candidates["engine, prefix not shared"] = (
        lambda: run(engine, apart, max(sizes)),
        operations(layers, apart, max(sizes)),
    )
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):  # the first round warms up
        for name, (work, _) in candidates.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    # a limit is what the machine can do at its best, the engine's rate what it does as a rule
    typical = {n: min(times) if n in LIMITS else medians[n] for n, times in seconds.items()}
    rates = {name: candidates[name][1] / typical[name] / 1e9 for name in candidates}
    tokens = {True: count_tokens(shared), False: count_tokens(apart)}
    print(
        f"{threads} threads, {NUM_DOCUMENTS} documents, medians of {rounds} rounds"
        " (bare rates: the best)"
    )
    print(f"{'':<28}{'GOP/s':>7}{'share':>8}{'tokens/s':>10}{'documents/s':>13}{'spread':>8}")
    for name, rate in rates.items():
        share = rate / rates["bare int8"]
        times = seconds[name][1:]
        line = f"{name:<28}{rate:>7.0f}{share:>8.0%}"
        if name.startswith("engine"):
            tokens_per_second = tokens["not" not in name] / medians[name]
            line += f"{tokens_per_second:>10.0f}{NUM_DOCUMENTS / medians[name]:>13.2f}"
        else:
            line += " " * 23
        print(f"{line}{(max(times) - min(times)) / medians[name]:>8.0%}")


LAYER_WEIGHTS = 1536 * (2 * 1536 + 2 * 256 + 3 * 8960)  # of q, o, k, v, gate, up, down
KEY_VALUE_WEIGHTS = 1536 * 2 * 256


def documents(rng: np.random.Generator) -> tuple[list[Group], list[Group]]:
    """Ragged documents of one query, with a shared prefix and with the prefix in each."""

    def tokens(count: int) -> Tokens:
        return Tokens(rng.integers(0, 1000, count), np.zeros(count, np.int64))

    prefix = tokens(PREFIX_TOKENS)
    lengths = rng.integers(40, 251, NUM_DOCUMENTS) + TAIL_TOKENS
    sequences = [tokens(int(length)) for length in lengths]
    whole = [
        Tokens(np.concatenate([prefix.ids, s.ids]), np.concatenate([prefix.types, s.types]))
        for s in sequences
    ]
    ids = range(NUM_DOCUMENTS)
    return [Group(prefix, sequences, ids)], [Group(EMPTY, whole, ids)]


def count_tokens(groups: list[Group]) -> int:
    return sum(map(len, groups))


def run(engine: Engine, groups: list[Group], size: int) -> np.ndarray:
    return engine.run(pack(groups, max_tokens=size, causal=True), NUM_DOCUMENTS)


def operations(layers: int, groups: list[Group], size: int) -> float:
    """Count multiplications and additions of all linear layers, the last one pruned."""
    total = 0
    for batch in pack(groups, max_tokens=size, causal=True):
        total += len(batch.token_ids) * (LAYER_WEIGHTS * (layers - 1) + KEY_VALUE_WEIGHTS)
        total += len(batch.scored_rows) * (LAYER_WEIGHTS - KEY_VALUE_WEIGHTS)
    return 2.0 * total


MATRICES = {"q": (1536, 1536), "kv": (1536, 512), "o": (1536, 1536)}  # depth and width
MATRICES |= {"gate": (1536, 8960), "up": (1536, 8960), "down": (8960, 1536)}


def bare_operations(matrices: Mapping[str, tuple[int, int]] = MATRICES) -> float:
    """Count multiplications and additions of what ``bare`` returns."""
    return 2.0 * BARE_ROWS * BARE_CALLS * sum(depth * width for depth, width in matrices.values())


def bare(
    dtype: type, threads: int, matrices: Mapping[str, tuple[int, int]] = MATRICES
) -> Callable[[], object]:
    """One layer's matrix products and nothing else, on BARE_ROWS rows."""
    rng = np.random.default_rng(0)
    depths = sorted({depth for depth, _ in matrices.values()})
    nodes, constants, outputs = [], {"one": np.float32(1), "zero": np.uint8(128)}, []
    for name, (depth, width) in matrices.items():
        constants[name] = rng.integers(-64, 65, (depth, width)).astype(dtype)
        constants[f"{name}.scales"] = np.ones(width, np.float32)
        if dtype == np.int8:
            inputs = [f"rows.{depth}", name, "one", f"{name}.scales", "zero"]
            node = helper.make_node("MatMulIntegerToFloat", inputs, [f"{name}.out"])
            node.domain = "com.microsoft"
        else:
            node = helper.make_node("MatMul", [f"rows.{depth}", name], [f"{name}.out"])
        nodes.append(node)
        outputs.append(helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None))
    element = TensorProto.UINT8 if dtype == np.int8 else TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(f"rows.{depth}", element, [BARE_ROWS, depth])
        for depth in depths
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "bare", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
    kind = np.uint8 if dtype == np.int8 else np.float32
    feed = {
        f"rows.{depth}": rng.integers(0, 256, (BARE_ROWS, depth)).astype(kind) for depth in depths
    }
    return lambda: [session.run(None, feed) for _ in range(BARE_CALLS)]


if __name__ == "__main__":
    main()
