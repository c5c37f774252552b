"""Rotation and smoothing change nothing but how well a model takes rounding."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

from benchmarks.common.planted.decoder import OUTLIER_CHANNELS, write_planted
from edgerank import Reranker
from quantize import quantize
from quantize.rounding.mixing import mixed, mixed_block
from quantize.rounding.transforms import Rotation, channel_scales, outlier_channels
from tests.support.bundles import only_variant

STEPS = ("rotate", "smooth", "gptq")  # that change weights alone
DOCUMENTS = [
    "Frank Herbert wrote dune in 1965",
    "Paris",
    "der Fluß fließt, 数は力 и слово",
    "x" * 90,
]


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 300), seed=st.integers(0, 99), data=st.data())
def test_a_rotation_is_orthogonal_and_leaves_fixed_channels_alone(size, seed, data):
    fixed = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1)))
    matrix = Rotation.random(size, seed, fixed).apply(np.eye(size, dtype=np.float32))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-4)
    np.testing.assert_array_equal(matrix[fixed], np.eye(size)[fixed])


@pytest.mark.parametrize("size", [2, 12, 20, 28, 36, 44, 896, 1536, 2560, 3584])
def test_a_rotation_spreads_a_channel_evenly_over_all(size):
    matrix = Rotation.random(size, 0).apply(np.eye(size, dtype=np.float32))
    np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-4)


def test_a_rotation_is_not_the_same_for_another_seed():
    one = np.ones((1, 64), np.float32)
    assert not np.array_equal(Rotation.random(64, 0).apply(one), Rotation.random(64, 1).apply(one))


def test_outlier_channels_are_found_and_filled_up_to_a_size_that_can_be_rotated():
    prominence = np.linspace(0.5, 1.5, 256, dtype=np.float32)
    assert outlier_channels(prominence) == []
    prominence[[3, 200]] = 100, 20
    found = outlier_channels(prominence)
    assert len(found) == 32
    assert {3, 200, 255} <= {*found}
    assert 100 not in found


@pytest.mark.parametrize("checkpoint", ["qwen2", "cross_encoder", "embedding"])
@pytest.mark.parametrize("steps", [("rotate",), ("smooth",), ("rotate", "smooth")])
def test_each_step_leaves_the_scores_alone(request, tmp_path, checkpoint, steps):
    source = request.getfixturevalue(checkpoint)
    quantize(source, tmp_path / "plain", precision="fp32")
    quantize(source, tmp_path / "equalised", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(tmp_path / name).score("who wrote dune?", DOCUMENTS)
        for name in ("plain", "equalised")
    )
    np.testing.assert_allclose(equalised, plain, rtol=0, atol=1e-4)
    assert (tmp_path / "equalised/model.fp32.onnx.data").read_bytes() != (
        tmp_path / "plain/model.fp32.onnx.data"
    ).read_bytes()


@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 5),
    block=st.sampled_from([16, 32, 64, 128, 256]),
    count=st.integers(1, 3),
)
def test_mixed_rows_times_a_mixed_matrix_are_the_product(seed, rows, block, count):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, block * count))
    weight = rng.standard_normal((7, block * count))
    product = mixed(x, block) @ mixed(weight, block).T / block
    np.testing.assert_allclose(product, x @ weight.T, rtol=0, atol=1e-10)


def test_mixing_spreads_a_channel_evenly_over_its_block_and_no_farther():
    x = np.zeros((1, 96), np.float32)
    x[0, 40] = 3
    np.testing.assert_array_equal(np.abs(mixed(x, 32))[0], np.repeat([0, 3, 0], 32))


@pytest.mark.parametrize(
    ("width", "block"),
    [(8960, 256), (8192, 256), (1152, 128), (96, 32), (48, 16), (24, 0), (1000, 0), (7, 0)],
)
def test_channels_are_mixed_in_the_largest_blocks_that_divide_them(width, block):
    assert mixed_block(width) == block


@pytest.mark.parametrize(
    ("checkpoint", "precision", "refined", "is_mixed"),
    [
        ("qwen2", "int8", {"refined_rows"}, True),
        ("qwen2", "int8-fine", {"fine_rows"}, True),
        ("qwen2", "int4", set(), False),
        ("cross_encoder", "int8", set(), False),
        ("cross_encoder", "int8-fine", set(), False),
    ],
)
def test_rows_are_mixed_and_refined_where_they_are_said_to_be(
    request, tmp_path, checkpoint, precision, refined, is_mixed
):
    quantize(request.getfixturevalue(checkpoint), tmp_path / "bundle", precision=precision)
    graph = onnx.load(tmp_path / f"bundle/model.{precision}.onnx", load_external_data=False).graph
    inputs = {value.name for value in graph.input}
    assert inputs & {"refined_rows", "fine_rows"} == refined
    assert any("hadamard" in tensor.name for tensor in graph.initializer) is is_mixed
    recipe = only_variant(tmp_path / "bundle").recipe
    assert ("mixed" in recipe and "two terms" in recipe) is precision.startswith("int8")


def test_scales_take_the_range_of_an_outlier_channel_to_the_weight():
    rng = np.random.default_rng(0)
    rows, weight = (rng.standard_normal((200, 64)).astype(np.float32) for _ in range(2))
    rows[:, 5] *= 100
    scales = channel_scales(rows, weight)
    assert np.argmax(scales) == 5
    assert scales[5] > 5 * np.median(scales)
    np.testing.assert_allclose(np.log(scales).mean(), 0, atol=1e-4)


def test_scales_of_channels_that_share_an_owner_are_one():
    rng = np.random.default_rng(0)
    rows, weight = (rng.standard_normal((200, 8)).astype(np.float32) for _ in range(2))
    rows[:, 6] *= 50
    scales = channel_scales(rows, weight, np.array([0, 1, 2, 3, 0, 1, 2, 3]))
    assert scales.shape == (4,)
    assert np.argmax(scales) == 2


def test_channels_without_activations_get_finite_scales():
    rows = np.zeros((10, 16), np.float32)
    assert np.isfinite(channel_scales(rows, np.ones((4, 16), np.float32))).all()
    rows[:, 0] = 1000
    assert np.isfinite(channel_scales(rows, np.ones((4, 16), np.float32))).all()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A decoder with outliers, in float32 and in int8 by recipe."""
    work = tmp_path_factory.mktemp("planted")
    write_planted(work / "checkpoint", outlier=100, massive=8000)
    quantize(work / "checkpoint", work / "fp32", precision="fp32")
    quantize(work / "checkpoint", work / "plain", steps=())
    quantize(work / "checkpoint", work / "full")
    quantize(work / "checkpoint", work / "fine", precision="int8-fine")
    return work


def test_the_recipe_undoes_what_outliers_do(planted):
    fidelity = {name: only_variant(planted / name).fidelity for name in ("plain", "full")}
    assert fidelity["full"].mean_error < fidelity["plain"].mean_error / 8
    assert fidelity["full"].kendall_tau > 0.94
    assert fidelity["plain"].kendall_tau < 0.8


def test_int8_fine_leaves_less_of_the_error_beside_outliers_too(planted):
    """Rows of the prefix, where the massive outliers are, have nearly none."""
    full, fine = (only_variant(planted / name).fidelity for name in ("full", "fine"))
    assert fine.mean_error < 0.9 * full.mean_error
    assert sum(fine.layers) < 0.6 * sum(full.layers)
    assert max(fine.layers) < max(full.layers)


def test_steps_are_exact_beside_outliers_too(planted, tmp_path):
    plain = Reranker(planted / "fp32").score("who wrote dune?", DOCUMENTS)
    for count in (1, 2):
        for steps in itertools.combinations(STEPS[:2], count):
            quantize(planted / "checkpoint", tmp_path / "fp32", precision="fp32", steps=steps)
            scores = Reranker(tmp_path / "fp32").score("who wrote dune?", DOCUMENTS)
            # these scores are in the hundreds; float32 carries seven digits
            np.testing.assert_allclose(scores, plain, rtol=1e-4, atol=2e-2)


def test_the_planted_outliers_are_there(planted):
    model = Qwen2ForCausalLM.from_pretrained(planted / "checkpoint", dtype=torch.float32).eval()
    with torch.no_grad():
        states = model(torch.arange(2, 100)[None], output_hidden_states=True).hidden_states
        massive = model(torch.tensor([[1]]), output_hidden_states=True).hidden_states
    rms = states[3][0].square().mean(dim=0).sqrt().numpy()
    assert rms[list(OUTLIER_CHANNELS)].min() > 30 * np.median(rms)
    assert massive[3].abs().max() > 1000
