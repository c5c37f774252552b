"""Graphs in half precision, run by ONNX Runtime's CPU provider as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import Batch

NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def run_on_cpu(
    path: Path, batches: Sequence[Batch], output: str
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Run micro-batches in order, each on what those before cached; yield one output of each."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(path), options, providers=[CPU_PROVIDER])
    inputs = {each.name: each for each in session.get_inputs()}
    caches = {
        name: np.zeros((0, each.shape[1]), NUMPY[each.type])
        for name, each in inputs.items()
        if name.startswith("past.")
    }
    for batch in batches:
        past = {name: cache[: batch.past_length] for name, cache in caches.items()}
        feed = {name: array for name, array in {**batch.feed, **past}.items() if name in inputs}
        presents = [name.replace("past", "present") for name in caches]
        raw, *new = session.run([output, *presents], feed)
        for name, rows in zip(caches, new, strict=True):
            caches[name] = np.concatenate([past[name], rows])
        yield batch, raw
