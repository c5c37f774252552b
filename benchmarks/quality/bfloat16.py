"""How far does attention in bfloat16 move scores?

Scores of a bundle with the kernels avx512_bf16, against those of the same bundle with avx512_vnni,
which differ in the attention alone; on the held-out part of the built-in text. The bundles are the
model in the package, and a small Qwen decoder with random weights in int8 and in float32. In int8 a
small difference can make a number round the other way, as in float32 it cannot. Beside them: the
largest error of the int8 bundles against float32 ones, from their manifests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from benchmarks.common.planted import decoder
from benchmarks.common.record import Figure, Row
from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from quantize import quantize
from quantize.measure.calibration import read_calibration

ROUNDED, FLOATS = "avx512_bf16", "avx512_vnni"


def measure() -> Iterator[Row]:
    yield Row({"model": "in the package", "weights": "int8"}, compare(DEFAULT_BUNDLE))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        decoder.write_planted(checkpoint, outlier=1, massive=1)
        for precision in ("int8", "fp32"):
            target = Path(scratch) / precision
            quantize(checkpoint, target, precision=precision)
            yield Row({"model": "small decoder", "weights": precision}, compare(target))


def compare(bundle: Path) -> dict[str, Figure]:
    pairs = [(pair.query, pair.document) for pair in read_calibration(None).held_out]
    with Reranker(bundle, kernels=FLOATS) as floats, Reranker(bundle, kernels=ROUNDED) as rounded:
        expected, scores = floats.score_pairs(pairs), rounded.score_pairs(pairs)
        fidelity = floats.variant.variant.fidelity
    differences = np.abs(scores - expected)
    figures = {
        "score spread": Figure(float(expected.std())),
        "rms difference": Figure(float(np.sqrt(np.mean(differences**2)))),
        "largest difference": Figure(float(differences.max())),
        "Kendall tau": Figure(float(kendalltau(expected, scores).statistic)),
    }
    if fidelity is not None:  # None for float32
        figures["largest error of int8"] = Figure(fidelity.max_error)
    return figures
