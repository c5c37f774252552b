"""The benchmark for GPUs, with the CPU in place of one and a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.common.checkpoints import MXBAI_LARGE_V2
from benchmarks.model import cuda
from edgerank.gpu import Driver, Gpu

TINY = {
    **MXBAI_LARGE_V2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "vocab_size": 1024,
}
CPU = cuda.Card("no card", 0, "cpu", "cpu")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """A tiny checkpoint, with a tokenizer that is made for it."""
    monkeypatch.setattr("benchmarks.common.checkpoints.shared_tokenizer", lambda name: None)
    monkeypatch.setattr(cuda, "CONFIG", TINY)
    return cuda.mxbai_checkpoint(tmp_path, 2)


@pytest.mark.filterwarnings("ignore")  # of mxbai-rerank's libraries
def test_candidates_are_compared_where_the_cpu_stands_for_a_card(checkpoint, monkeypatch):
    monkeypatch.setattr(cuda, "DENSE_SIZE", 32)
    monkeypatch.setattr(cuda, "BASELINE", "mxbai-rerank, fp32")
    documents = cuda.draw_documents(checkpoint, 5, 40)
    rows = list(cuda.compare(CPU, checkpoint, documents, ["fp32"], ["fp32"], rounds=2))
    assert [row.labels["candidate"] for row in rows] == [
        cuda.DENSE,
        "edgerank, fp32",
        "mxbai-rerank, fp32",
    ]
    dense, own, peer = (row.figures for row in rows)
    assert dense["rate"].value > 0
    assert own["documents/s"].value > 0
    assert own["documents/s"].samples == 2
    assert own["largest error"].value < 1e-3 < own["spread"].value
    assert own["Kendall tau"].value == pytest.approx(1)
    assert own["of the dense rate"].value > 0
    assert peer["largest error"].value == 0
    assert peer["times mxbai-rerank fp16"].value == 1
    assert own["times mxbai-rerank fp16"].value > 0


def test_documents_have_as_many_tokens_as_asked_for_and_little_more(checkpoint):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    documents = cuda.draw_documents(checkpoint, 4, 100)
    assert len(set(documents)) == 4
    for document in documents:
        assert 95 < len(tokenizer.encode(document).ids) < 130


def test_errors_are_those_of_scores():
    found = cuda.errors(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.5, 3.0]))
    assert (found["mean error"].value, found["largest error"].value) == (0.5, 1.0)
    assert found["Kendall tau"].value == 1


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, "Error: this benchmark needs an NVIDIA GPU, and no driver shows one\n"),
        (
            Driver("580.65", (13, 0), (Gpu("a card", 1 << 30, 1 << 30, (9, 0)),)),
            "Error: this benchmark needs onnxruntime-gpu: see docs/gpu.md\n",
        ),
    ],
)
def test_without_a_gpu_it_says_so(monkeypatch, driver, message):
    monkeypatch.setattr(cuda, "read_driver", lambda: driver)
    monkeypatch.setattr(cuda, "cuda_version", lambda: None)
    done = CliRunner().invoke(main, ["cuda"])
    assert (done.exit_code, done.stderr) == (1, message)
