"""Finds the matrices with the largest errors: rounds each alone, and measures its layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgerank.packing import Batch
from quantize.graph.int8 import Int8
from quantize.measure.layerwise import LayerwiseRunner

KeepFp32 = Literal["auto"] | int | Sequence[str]  # how many, or patterns of names

OUTLIER = 5  # times the mean error; "auto" keeps matrices above this


@dataclass(frozen=True)
class Sensitivity:
    """The error of the hidden state after a layer in which one matrix was rounded."""

    matrix: str
    error: float  # mean square error over mean square


def measure_sensitivities(
    runner: LayerwiseRunner, batches: Sequence[Batch], precision: type[Int8]
) -> list[Sensitivity]:
    """Round one matrix at a time; the largest error first."""
    found = []
    for run in runner.run_layers(batches, observe=True):
        layer, _ = run.layer.smoothed(run.rows, precision())
        power = sum(np.square(after, dtype=np.float64).sum() for after in run.after)
        for matrix in run.matrices:
            others = [other for other in run.matrices if other != matrix]
            rounded = runner.run_layer(layer, precision(keep=others), batches, run.before)
            noise = sum(
                np.square(one - other, dtype=np.float64).sum()
                for one, other in zip(rounded, run.after, strict=True)
            )
            found.append(Sensitivity(matrix, float(noise / power)))
    return sorted(found, key=lambda sensitivity: -sensitivity.error)


def choose(sensitivities: Sequence[Sensitivity], keep: Literal["auto"] | int) -> list[str]:
    """Return the matrices to keep in float32: the worst ``keep``, or all that stand out."""
    if keep != "auto":
        return [sensitivity.matrix for sensitivity in sensitivities[:keep]]
    mean = np.mean([sensitivity.error for sensitivity in sensitivities])
    return [found.matrix for found in sensitivities if found.error > OUTLIER * mean]
