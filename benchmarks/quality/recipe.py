"""What does each step of the recipe bring on trained weights?

MODEL is quantized with all steps, without each of those that change it, with none, as int8-fine,
and with the matrices in float32 that ``--keep-fp32 auto`` names. Every bundle scores the same pairs
of queries and documents, which BM25 finds in collections; the figures are against float32. The
decoder is no reranker: its score is how much rather it says Yes than No when it is asked for the
relevance of a document. Beside it: ONNX Runtime's per-tensor dynamic quantization.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.paths import GEMMA, MINILM, MPNET, trained_checkpoint
from benchmarks.common.record import Figure, Row
from benchmarks.quality.agreement import (
    DOCUMENTS_AT_ONCE,
    compare,
    pairs_of,
    spread_of,
    write_template,
)
from benchmarks.quality.dynamic import dynamic_bundle
from benchmarks.quality.systems import bundle_system, kept_scores
from edgerank.bundle import read_bundle
from edgerank.kernels import STOCK
from quantize.recipe import STEPS, RecipeStep

MODELS = MINILM, MPNET, GEMMA
COLLECTIONS = "cisi", "xquad-en"  # shared
OF_DECODERS: tuple[RecipeStep, ...] = ("mix", "refine")  # the encoders here have no such parts


@click.argument("model", type=click.Choice(MODELS))
@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option("--queries", type=click.IntRange(1), default=10, help="Queries of a collection.")
@options.candidates(20)
@options.work
def measure(
    model: str, collections: tuple[Path, ...], queries: int, candidates: int, work: Path | None
) -> Iterator[Row]:
    pairs = pairs_of(collections, queries, candidates)
    flat = [pair for of_query in pairs for pair in of_query]
    checkpoint = trained_checkpoint(model)
    with options.directory(work) as kept:
        directory = Path(kept) / model
        template = write_template(directory / "template.json") if model == GEMMA else None

        def scores(bundle: Path, kernels: str | None = None) -> Any:
            with bundle_system(bundle, kernels) as system:
                return kept_scores(
                    system,
                    flat,
                    directory / "scores",
                    bundle.name,
                    documents_at_once=DOCUMENTS_AT_ONCE,
                )

        original = directory / "fp32"
        expected = scores(quantized(checkpoint, original, precision="fp32", template=template))
        yield Row({"model": model}, {"spread": Figure(spread_of(expected, pairs))})

        def row(name: str, bundle: Path, kernels: str | None = None) -> Row:
            labels = {"model": model, "steps": name, "matrices in float32": str(num_kept(bundle))}
            return Row(labels, compare(scores(bundle, kernels), expected, pairs))

        for name, how in recipes(model).items():
            bundle = quantized(checkpoint, directory / name, template=template, **how)
            yield row(name, bundle)
        dynamic = dynamic_bundle(original, directory / "dynamic")
        yield row("ONNX Runtime's dynamic int8, per tensor", dynamic, STOCK)
        fine = directory / "int8-fine"
        yield row(
            "all, int8-fine", quantized(checkpoint, fine, template=template, precision="int8-fine")
        )
        bundle = quantized(checkpoint, directory / "auto", template=template, keep_fp32="auto")
        yield row("all, --keep-fp32 auto", bundle)


def recipes(model: str) -> dict[str, dict[str, Any]]:
    """Return options of ``quantize``: all steps, all but one, and none."""
    changing = [step for step in STEPS if model == GEMMA or step not in OF_DECODERS]
    without = {
        f"without {name}": {"steps": tuple(step for step in STEPS if step != name)}
        for name in changing
    }
    return {"all": {}, **without, "none": {"steps": ()}}


def num_kept(bundle: Path) -> int:
    kept = read_bundle(bundle).manifest.variants[0].kept
    return 0 if kept is None else len(kept.matrices)
