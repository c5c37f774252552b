"""Feed-forward parts in slices: the same function, and no channel left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerank import Reranker
from quantize import quantize
from quantize.graph import int8
from quantize.graph.int8 import SLICE_CHANNELS, SLICE_MULTIPLE, Int8
from quantize.graph.precision import matrix_of
from tests.support.checkpoints import save_deberta, save_modernbert, wordpiece_tokenizer

QUERY = "what is the capital of France?"
DOCUMENTS = ["Paris is the capital of France.", "Dune was written by Frank Herbert.", "query"]


@pytest.fixture(params=["qwen2", "cross_encoder", "deberta", "modernbert"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "deberta":
        return save_deberta(tmp_path / "checkpoint", wordpiece_tokenizer())
    if request.param == "modernbert":
        save_modernbert(tmp_path / "checkpoint", wordpiece_tokenizer())
        return tmp_path / "checkpoint"
    return request.getfixturevalue(request.param)


def weights_of(bundle: Path) -> list[str]:
    graph = onnx.load(bundle / "model.int8.onnx", load_external_data=False).graph
    return [tensor.name for tensor in graph.initializer]


def cut_into_slices_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SLICE_CHANNELS", 32)
    monkeypatch.setattr(int8, "SLICE_MULTIPLE", 64)


def test_slices_in_float32_give_the_scores_of_the_whole(checkpoint, tmp_path, monkeypatch):
    quantize(checkpoint, tmp_path / "whole", precision="fp32")
    cut_into_slices_of_64(monkeypatch)  # of 96 or 160: the last slice is shorter
    quantize(checkpoint, tmp_path / "sliced", keep_fp32=["*"])
    assert any("/64" in name for name in weights_of(tmp_path / "sliced"))
    whole, sliced = (
        Reranker(tmp_path / name).score(QUERY, DOCUMENTS) for name in ("whole", "sliced")
    )
    np.testing.assert_allclose(sliced, whole, atol=1e-4)
    assert np.ptp(whole) > 1e-3


def test_a_matrix_is_kept_with_all_its_slices(cross_encoder, tmp_path, monkeypatch):
    cut_into_slices_of_64(monkeypatch)
    quantize(cross_encoder, tmp_path / "bundle", keep_fp32=["layers.0.dense", "*.intermediate"])
    names = weights_of(tmp_path / "bundle")
    rounded = {name.removesuffix(".scales") for name in names if name.endswith(".scales")}
    assert not any(name.startswith("layers.0.dense") for name in rounded)
    assert not any("intermediate" in name for name in rounded)
    assert {f"layers.1.dense/{start}" for start in (0, 64, 128)} <= rounded
    assert {matrix_of(name) for name in rounded} >= {"layers.1.dense", "layers.0.query"}


@given(st.integers(1, 40_000))
def test_slices_are_even_and_hold_every_channel_once(width):
    parts = Int8().slices(width)
    channels = [np.arange(width)[part.channels] for part in parts]
    np.testing.assert_array_equal(np.concatenate(channels), np.arange(width))
    sizes = [len(some) for some in channels]
    assert max(sizes) <= SLICE_CHANNELS * (2 if len(sizes) == 1 else 1) and min(sizes) > 0
    assert all(size % SLICE_MULTIPLE == 0 for size in sizes[:-1])
    assert len(sizes) == 1 if width <= 2 * SLICE_CHANNELS else len(sizes) > 2
