"""What outliers do to int8, and what each step of the recipe does about them.

The checkpoint is a small Qwen decoder, DeBERTa or ModernBERT encoder with random weights and
planted outliers; the figures are against float32 on the held-out part of the built-in text. Beside
them: ONNX Runtime's per-tensor dynamic quantization of the float32 graph, and the same model
without outliers, whose figures say how well random weights take rounding at all.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from benchmarks import checkpoints, planted_deberta, planted_modernbert
from benchmarks.dynamic import write_dynamic
from edgerank import Reranker
from quantize import quantize
from quantize.measure.calibration import read_calibration

RECIPES = {
    "int8 per token": (),
    "+ rotate": ("rotate",),
    "+ balance": ("rotate", "balance"),
    "+ compensate, the full recipe": ("rotate", "balance", "compensate"),
    "full recipe without rotate": ("balance", "compensate"),
}
KEPT = 4

WRITERS = {  # of planted checkpoints, and how massive their massive activations are
    "qwen2": (checkpoints.write_planted, 8000),
    "qwen3": (partial(checkpoints.write_planted, architecture="qwen3"), 8000),
    "deberta": (planted_deberta.write_planted, 30),
    "modernbert": (planted_modernbert.write_planted, 8000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", nargs="?", choices=WRITERS, default="qwen2")
    write, massive = WRITERS[parser.parse_args().architecture]
    table = Table("weights and activations", "mean error", "largest", "Kendall tau", "least")
    with tempfile.TemporaryDirectory() as scratch:
        for row in compare(Path(scratch) / "planted", write, outlier=100, massive=massive):
            table.add_row(*row)
        table.add_section()
        for row in compare(Path(scratch) / "plain", write, outlier=1, massive=1):
            table.add_row(*row)
    Console().print(table)


def compare(
    work: Path, write: Callable[..., None], outlier: float, massive: float
) -> Iterator[tuple[str, ...]]:
    """Quantize one checkpoint in all ways: rows of the table."""
    write(work / "checkpoint", outlier=outlier, massive=massive)
    quantize(work / "checkpoint", work / "fp32", precision="fp32")
    pairs = [(pair.query, pair.document) for pair in read_calibration(None).held_out]
    reference = Reranker(work / "fp32").score_pairs(pairs)
    yield f"fp32, outliers {outlier:g} times", f"spread {reference.std():.3g}", "", "", ""
    write_dynamic(work / "fp32", work / "dynamic")
    yield "ONNX Runtime dynamic, per tensor", *figures(work / "dynamic", pairs, reference)
    for name, steps in RECIPES.items():
        quantize(work / "checkpoint", work / "int8", steps=steps)
        yield name, *figures(work / "int8", pairs, reference)
    quantize(work / "checkpoint", work / "int8", keep_fp32=KEPT)
    yield f"full recipe, {KEPT} matrices in float32", *figures(work / "int8", pairs, reference)


def figures(
    bundle: Path, pairs: list[tuple[str, str]], reference: np.ndarray
) -> tuple[str, str, str, str]:
    """Compare a bundle's scores with the reference."""
    scores = Reranker(bundle).score_pairs(pairs)
    errors = np.abs(scores - reference)
    queries = np.array([query for query, _ in pairs])
    taus = [
        float(kendalltau(reference[queries == query], scores[queries == query]).statistic)
        for query in dict.fromkeys(queries.tolist())
    ]
    return (
        f"{errors.mean():.3g}",
        f"{errors.max():.3g}",
        f"{np.mean(taus):.3f}",
        f"{min(taus):.3f}",
    )


if __name__ == "__main__":
    main()
