"""How close does each architecture come to the machine's int8 matrix rate, at its real geometry?

Random weights, two depths: the difference between their times is that of whole layers, without
embedding, head and the last layer, which computes little. Rates are of the int8 products of those
layers alone, over all the time that the layers take, attention and norms included; the bare rate of
int8 matrix products is measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import byte_tokenizer, pair_tokenizer
from benchmarks.engine import bare, bare_operations
from edgerank.bundle import Bundle
from edgerank.cpu import physical_cores
from edgerank.engine import Engine
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import EMPTY, Group, Tokens, pack
from quantize import quantize

VOCABULARY = 4096  # does not matter here
BATCH_TOKENS = 512
LENGTHS = (40, 250)  # tokens of a document
NUM_DOCUMENTS = 16
TEXT = [
    {"query": query, "document": document, "id": document}
    for query in ("bread", "rain")
    for document in ("flour and water", "clouds and wind")
]


@dataclass(frozen=True)
class Geometry:
    """The widths of a real model."""

    model: str
    transformers_class: str
    config: dict[str, Any]
    depths: tuple[int, int] = (2, 6)


def _encoder(hidden: int, wide: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "max_position_embeddings": 514,
        "pad_token_id": 0,
        **others,
    }


def _decoder(hidden: int, wide: int, heads: int, kv_heads: int, head: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }


DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_relative_positions": -1,
}
GEOMETRIES = (
    Geometry("mxbai-rerank-large-v2", "Qwen2", _decoder(1536, 8960, 12, 2, 128), (2, 4)),
    Geometry("Qwen3-Reranker-0.6B", "Qwen3", _decoder(1024, 3072, 16, 8, 128)),
    Geometry("Llama 3.2 1B", "Llama", _decoder(2048, 8192, 32, 8, 64), (2, 4)),
    Geometry("bge-reranker-v2-gemma", "Gemma", _decoder(2048, 16384, 8, 1, 256), (2, 4)),
    Geometry("ms-marco-MiniLM-L6", "Bert", _encoder(384, 1536, 12)),
    Geometry("ms-marco-electra-base", "Electra", _encoder(768, 3072, 12, embedding_size=768)),
    Geometry("bge-reranker-v2-m3", "XLMRoberta", _encoder(1024, 4096, 16)),
    Geometry("mxbai-rerank-base-v1", "DebertaV2", _encoder(768, 3072, 12, **DEBERTA)),
    Geometry("gte-reranker-modernbert-base", "ModernBert", _encoder(768, 1152, 12)),
    Geometry(
        "DistilBERT, through optimum",
        "DistilBert",
        {"dim": 768, "hidden_dim": 3072, "n_heads": 12, "max_position_embeddings": 512},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of models' names; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    table = Table("geometry", "architecture", "tokens/s a layer", "int8 GOP/s", "of bare int8")
    progress = Console(stderr=True)
    for geometry in GEOMETRIES:
        if arguments.names and not any(name in geometry.model for name in arguments.names):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            row = measure(geometry, Path(scratch), arguments.rounds)
        progress.print(*row, sep="  ")
        table.add_row(*row)
    Console().print(table)


def measure(geometry: Geometry, work: Path, rounds: int) -> tuple[str, ...]:
    """Build two depths of a geometry and time them in turns: a row of the table."""
    torch.manual_seed(0)
    (work / "text.jsonl").write_text("\n".join(map(json.dumps, TEXT)))
    bundles = [build(geometry, work, depth) for depth in geometry.depths]
    shallow, deep = (int8_weights(bundle) for bundle in bundles)
    batches = documents(np.random.default_rng(0), bundles[0])
    tokens = sum(len(batch.token_ids) for batch in batches)
    candidates: list[Callable[[], object]] = [bare(np.int8, physical_cores())]
    for bundle in bundles:
        engine = Engine(bundle, threads=physical_cores(), providers=[CPU_PROVIDER])
        candidates.append(lambda engine=engine: engine.run(batches, NUM_DOCUMENTS))
    times: list[list[float]] = [[] for _ in candidates]
    for number in range(rounds + 1):
        for candidate, seconds in zip(candidates, times, strict=True):
            start = time.perf_counter()
            candidate()
            if number:  # the first warms up
                seconds.append(time.perf_counter() - start)
    operations = 2 * (deep - shallow) * tokens
    differences = [deep - shallow for shallow, deep in zip(*times[1:], strict=True)]
    rates = [operations / seconds / 1e9 for seconds in differences]
    bare_rates = [bare_operations() / seconds / 1e9 for seconds in times[0]]
    layers = geometry.depths[1] - geometry.depths[0]
    return (
        geometry.model,
        bundles[0].manifest.architecture,
        f"{tokens * layers / statistics.median(differences):,.0f}",
        f"{statistics.median(rates):.0f}",
        f"{statistics.median(rates) / statistics.median(bare_rates):.0%}",
    )


def build(geometry: Geometry, work: Path, depth: int) -> Bundle:
    """Save a random model with transformers and quantize it."""
    name = geometry.transformers_class
    is_decoder = "head_dim" in geometry.config
    depths = {"n_layers" if name == "DistilBert" else "num_hidden_layers": depth}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, num_labels=1, **geometry.config, **depths
    )
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    checkpoint = work / f"checkpoint-{depth}"
    model.save_pretrained(checkpoint)
    tokenizer = byte_tokenizer([]) if is_decoder else pair_tokenizer(["<s>", "</s>"], "<s>", "</s>")
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 512, "model_input_names": ["input_ids"]})
    )
    family = "cross-encoder" if is_decoder else None
    steps = None if name == "DistilBert" else ("rotate", "balance")  # rounding is as fast to run
    return quantize(
        checkpoint,
        work / f"bundle-{depth}",
        calibrate=work / "text.jsonl",
        family=family,
        steps=steps,
    )


def int8_weights(bundle: Bundle) -> int:
    """Count the weights that int8 products read."""
    graph = onnx.load(bundle.model_path, load_external_data=False).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    products = (node for node in graph.node if node.op_type == "MatMulIntegerToFloat")
    return sum(sizes[node.input[1]] for node in products)


def documents(rng: np.random.Generator, bundle: Bundle) -> list[Any]:
    """Draw random documents, packed as the runtime packs them."""
    sequences = [
        Tokens(rng.integers(5, VOCABULARY, count), np.zeros(count, np.int64))
        for count in rng.integers(*LENGTHS, NUM_DOCUMENTS)
    ]
    group = Group(EMPTY, sequences, range(NUM_DOCUMENTS))
    engine = Engine(bundle, threads=1, providers=[CPU_PROVIDER])
    return list(pack([group], max_tokens=BATCH_TOKENS, causal=engine.is_causal))


if __name__ == "__main__":
    main()
