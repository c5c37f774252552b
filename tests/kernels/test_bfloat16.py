"""Attention with operands that are rounded to bfloat16: it stays near that of float32, and differs.

How near its scores are is measured by ``python -m benchmarks bfloat16``.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.kernels import available, choose_kernels
from edgerank.session import open_session
from tests.kernels.test_sessions import ATTENTION, OPERATORS, compute
from tests.support.operators import model_of_node

ROUNDED, FLOATS = "avx512_bf16", "avx512_vnni"
pytestmark = pytest.mark.skipif(
    ROUNDED not in available(), reason="this CPU or the library lacks AVX-512 BF16"
)
DOCUMENTS = ["Frank Herbert", "Paris is the capital of France. " * 30, "Dune. " * 100, ""]


def test_it_is_never_taken_unless_it_is_asked_for():
    assert choose_kernels("auto").name in ("amx", FLOATS)
    assert choose_kernels(ROUNDED).name == ROUNDED


@pytest.mark.parametrize("head_size", [4, 31, 64])
def test_attention_is_off_by_no_more_than_eight_bits_are_and_by_more_than_nothing(head_size):
    rng = np.random.default_rng(head_size)
    inputs, fed = ATTENTION[3], dict(ATTENTION[2])
    for name in ("query", "keys_values", "past"):
        heads = 1 if name == "query" else 2
        shape = len(fed[name]), heads * head_size
        fed[name] = rng.standard_normal(shape, np.float32)
    model = model_of_node("RaggedAttention", inputs, {}, fed, num_heads=1)

    def attend(kernels: str) -> np.ndarray:
        return open_session(model, kernels=choose_kernels(kernels)).run(None, fed)[0]

    expected = attend(FLOATS)
    error = np.abs(attend(ROUNDED) - expected).max()
    assert 0 < error < 3 / 256 * np.abs(fed["keys_values"]).max()


@pytest.mark.parametrize("name", [name for name in OPERATORS if "Attention" not in name])
def test_all_other_operators_give_the_same_bits(name):
    for rounded, expected in zip(
        compute(name, {}, ROUNDED), compute(name, {}, FLOATS), strict=True
    ):
        np.testing.assert_array_equal(rounded, expected)


def test_scores_move_by_no_more_than_int8_moves_them_anyway():
    with Reranker(kernels=FLOATS) as floats, Reranker(kernels=ROUNDED) as rounded:
        own_error = floats.variant.variant.fidelity.max_error
        expected = floats.score("who wrote dune?", DOCUMENTS)
        difference = np.abs(rounded.score("who wrote dune?", DOCUMENTS) - expected).max()
    assert 0 < difference < 2 * own_error  # `python -m benchmarks bfloat16`: 1.3 on more text
