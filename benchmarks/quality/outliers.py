"""What do outliers do to int8, and what does each step of the recipe do about them?

The checkpoint is a small Qwen or Gemma 3 decoder, DeBERTa or ModernBERT encoder with random weights
and planted outliers; the figures are against float32 on the held-out part of the built-in text.
Beside them: ONNX Runtime's per-tensor dynamic quantization of the float32 graph, and the same model
without outliers, whose figures say how well random weights take rounding at all. What the steps do
shows here; what a trained model will get does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from scipy.stats import kendalltau

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.planted import deberta, decoder, gemma3, modernbert
from benchmarks.common.record import Figure, Row
from benchmarks.quality.dynamic import dynamic_bundle
from edgerank import Reranker
from edgerank.kernels import STOCK
from quantize.measure.calibration import read_calibration
from quantize.recipe import STEPS, RecipeStep

RECIPES: dict[str, tuple[RecipeStep, ...]] = {
    "int8 per token": (),
    "+ rotation": ("rotate",),
    "+ mixing": ("rotate", "mix"),
    "+ smoothing": ("rotate", "mix", "smooth"),
    "+ GPTQ": ("rotate", "mix", "smooth", "gptq"),
    "+ a second term, the full recipe": tuple(STEPS),
    "full recipe without rotation": ("mix", "smooth", "gptq", "refine"),
}
KEPT = 4
OUTLIER = 100  # times the other channels
WRITERS: dict[
    str, tuple[Callable[..., None], float]
] = {  # of planted checkpoints, and how massive their massive activations are
    "qwen2": (decoder.write_planted, 8000),
    "qwen3": (partial(decoder.write_planted, architecture="qwen3"), 8000),
    "gemma3": (gemma3.write_planted, 8000),
    "deberta": (deberta.write_planted, 30),
    "modernbert": (modernbert.write_planted, 8000),
}


@click.argument("architecture", type=click.Choice(list(WRITERS)), default="qwen2")
@options.work
def measure(architecture: str, work: Path | None) -> Iterator[Row]:
    write, massive = WRITERS[architecture]
    with options.directory(work) as kept:
        for outliers, sizes in ((f"{OUTLIER} ×", (OUTLIER, massive)), ("none", (1, 1))):
            directory = Path(kept) / f"{architecture}-{sizes[0]}"
            if not directory.exists():
                draft = directory.with_suffix(".draft")
                shutil.rmtree(draft, ignore_errors=True)
                write(draft / "checkpoint", outlier=sizes[0], massive=sizes[1])
                draft.rename(directory)
            labels = {"architecture": architecture, "outliers": outliers}
            for name, figures in compare(directory):
                yield Row({**labels, "weights and activations": name}, figures)


def compare(work: Path) -> Iterator[tuple[str, dict[str, Figure]]]:
    """Quantize one checkpoint in all ways, and hold each against float32."""
    checkpoint = work / "checkpoint"
    original = quantized(checkpoint, work / "fp32", precision="fp32")
    pairs = [(pair.query, pair.document) for pair in read_calibration(None).held_out]
    reference = Reranker(original).score_pairs(pairs)
    yield "fp32", {"score spread": Figure(float(reference.std()))}

    def figures(bundle: Path, kernels: str | None = None) -> dict[str, Figure]:
        return errors(Reranker(bundle, kernels=kernels).score_pairs(pairs), reference, pairs)

    dynamic = dynamic_bundle(original, work / "dynamic")
    yield "ONNX Runtime dynamic, per tensor", figures(dynamic, STOCK)
    for name, steps in RECIPES.items():
        yield name, figures(quantized(checkpoint, work / name, steps=steps))
    fine = quantized(checkpoint, work / "int8-fine", precision="int8-fine")
    yield "full recipe, int8-fine", figures(fine)
    name = f"full recipe, {KEPT} matrices in float32"
    yield name, figures(quantized(checkpoint, work / name, keep_fp32=KEPT))


def errors(
    scores: np.ndarray, reference: np.ndarray, pairs: list[tuple[str, str]]
) -> dict[str, Figure]:
    """Compare scores with the reference's, and each query's ranking with its."""
    differences = np.abs(scores - reference)
    queries = np.array([query for query, _ in pairs])
    taus = [
        float(kendalltau(reference[queries == query], scores[queries == query]).statistic)
        for query in dict.fromkeys(queries.tolist())
    ]
    return {
        "mean error": Figure(float(differences.mean())),
        "largest error": Figure(float(differences.max())),
        "Kendall tau": Figure(float(np.mean(taus))),
        "least Kendall tau": Figure(min(taus)),
    }
