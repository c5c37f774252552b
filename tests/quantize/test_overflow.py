"""Products of stock operators are exact on every CPU, whatever the weights.

Without VNNI, ONNX Runtime multiplies uint8 by int8 with ``vpmaddubsw``, whose 16 bits saturate. So
edgerank lets it make uint8 of the weights there. valgrind presents a CPU without VNNI, on which
ONNX Runtime is shown to saturate by itself, and not to in a session of edgerank.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from edgerank import Reranker, cpu
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.kernels import STOCK, Kernels
from edgerank.session import open_session
from quantize.graph.builder import Graph
from quantize.graph.int8 import Int8
from quantize.graph.panels import in_panels, out_of_panels
from quantize.graph.precision import Rows
from quantize.rounding.rounding import quantize_rows_blockwise
from tests.support import ROOT

ZERO = 128  # the zero point of the rows, in every bundle
UNITS = 256  # of a refined row's rests, in a step


def by_edgerank(model: Path) -> ort.InferenceSession:
    return open_session(model, kernels=Kernels(STOCK, "asked for"))


def by_onnxruntime(model: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def products(session_of, integers: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """Multiply uint8 [T, K] by int8 [N, K] and its negative, as rows and as what refines rows.

    Each channel of ``weight`` has a number of 127 or -127, so that it is not scaled.
    """
    with TemporaryDirectory() as directory:
        g = Graph(Path(directory) / "model.onnx")
        shape = ["tokens", weight.shape[1]]
        rows = Rows(
            site="site",
            real="",
            integers=g.input("integers", TensorProto.UINT8, shape),
            zero_point=g.constant(np.uint8(ZERO)),
            refined=g.input("refined", TensorProto.INT64, ["refined"]),
            rests=g.input("rests", TensorProto.UINT8, shape),
            units=UNITS,
        )
        for name, sign in (("one", 1), ("other", -1)):
            product = Int8().matmul(g, rows, name, np.float32(sign) * weight)
            g.output(f"{name}.values", product.values, ["tokens", len(weight)])
            g.output(f"{name}.rests", product.rests, ["tokens", len(weight)])
        g.save()
        session = session_of(g.path)
    feeds = {"integers": integers, "rests": integers[::-1]}
    one, one_rests, other, other_rests = session.run(None, feeds)
    return [one, -other, UNITS * one_rests[::-1], -UNITS * other_rests[::-1]]


def exact(integers: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (integers.astype(np.int64) - ZERO) @ weight.T.astype(np.int64)


def worst_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights at the ends of their ranges, and some that are mixed."""
    rng = np.random.default_rng(0)
    cases = [
        (np.full((5, 256), value, np.uint8), np.full((24, 256), sign * 127, np.int8))
        for sign in (1, -1)
        for value in (0, 255)
    ]
    rows = rng.choice(np.array([0, 3, 128, 250, 255], np.uint8), (7, 64))
    return [*cases, (rows, rng.choice(np.array([-127, -1, 64, 127], np.int8), (17, 64)))]


def check_worst_cases() -> None:
    for case in worst_cases():
        for product in products(by_edgerank, *case):
            np.testing.assert_array_equal(product, exact(*case))


def check_without_vnni() -> None:
    """Fail unless only edgerank's sessions are exact, on a CPU without VNNI."""
    cpu.CPU_INFO = Path(os.devnull)  # or Linux would list the instruction sets of the true CPU
    saturated = [
        not np.array_equal(product, exact(*case))
        for case in worst_cases()
        for product in products(by_onnxruntime, *case)
    ]
    assert sum(saturated) >= len(saturated) / 2  # not the rows of zeros
    check_worst_cases()


def test_worst_case_products_are_exact_on_this_cpu():
    with ThreadPoolExecutor(1) as thread:  # a session flushes denormals in its thread
        thread.submit(check_worst_cases).result()


def test_worst_case_products_are_exact_on_a_cpu_without_vnni():
    """valgrind presents an AVX2 CPU without VNNI, whatever the machine has."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed; it stands in for a CPU without VNNI")
    program = "from tests.quantize.test_overflow import check_without_vnni; check_without_vnni()"
    subprocess.run(
        [valgrind, "--tool=none", "-q", sys.executable, "-c", program], check=True, cwd=ROOT
    )


@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding", "default"])
def test_scores_of_stock_operators_are_the_same_on_a_cpu_without_vnni(request, name, monkeypatch):
    """What ONNX Runtime does to the graph for such a CPU, on any: it computes the same there."""
    bundle = DEFAULT_BUNDLE
    if name != "default":
        bundle = request.getfixturevalue("bundles") / f"{name}.int8"
    documents = ["Paris is the capital of France.", "Dune was written by Frank Herbert.", "query"]
    expected = Reranker(bundle, kernels=STOCK).score("who wrote dune?", documents)
    monkeypatch.setattr("edgerank.session.multiplies_int8_exactly", lambda: False)
    got = Reranker(bundle, kernels=STOCK).score("who wrote dune?", documents)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.ptp(expected) > 1e-3


# Panels


@settings(deadline=None, max_examples=40)
@given(num_channels=st.integers(1, 150), depth=st.integers(1, 150), seed=st.integers(0, 999))
@example(1, 1, 0)
@example(64, 128, 0)
@example(1, 384, 0)
@example(65, 63, 0)
def test_panels_hold_each_weight_at_its_place_and_zeros_elsewhere(num_channels, depth, seed):
    weight = np.random.default_rng(seed).integers(-127, 128, (num_channels, depth), np.int8)
    panels = in_panels(weight)
    assert panels.shape[2:] == (16, 4)
    assert panels.shape[0] * 16 == -(-num_channels // 64) * 64
    assert panels.shape[1] * 4 == -(-depth // 64) * 64
    channels, places = np.indices(weight.shape)
    found = panels[channels // 16, places // 4, channels % 16, places % 4]
    np.testing.assert_array_equal(found, weight)
    assert np.count_nonzero(panels) == np.count_nonzero(weight)


@pytest.mark.parametrize(("num_channels", "depth"), [(1, 1), (64, 128), (1, 384), (65, 63), (7, 5)])
def test_stock_operators_read_the_matrix_out_of_its_panels(tmp_path, num_channels, depth):
    weight = np.random.default_rng(0).integers(-127, 128, (num_channels, depth), np.int8)
    g = Graph(tmp_path / "model.onnx")
    matrix = out_of_panels(g, g.weight("panels", in_panels(weight)), num_channels, depth)
    g.output("y", g.op("Cast", matrix, to=TensorProto.FLOAT), ["depth", "channels"])
    g.save()
    session = ort.InferenceSession(str(g.path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], weight.T)


# Rounding


@settings(deadline=None)
@given(table=arrays(np.float32, (5, 32), elements=st.floats(-1e4, 1e4, width=32)))
def test_embedding_rows_are_rounded_to_half_a_step(table):
    values, scale = quantize_rows_blockwise(table, 16)
    restored = (values.astype(np.float64) - 128) * np.repeat(scale, 16, axis=1)
    assert (np.abs(restored - table) <= 0.501 * np.repeat(scale, 16, axis=1)).all()


@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding", "default"])
def test_every_linear_layer_of_a_bundle_is_of_panels_with_the_sums_of_its_channels(request, name):
    if name == "default":
        bundle = DEFAULT_BUNDLE
    else:
        bundle = request.getfixturevalue("bundles") / f"{name}.int8"
    model = onnx.load(bundle / "model.int8.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    floats = {
        node.input[1]
        for node in inline_local_functions(model).graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }
    unrounded = ("classifier", "head", "projection", "hadamard")
    assert all(name.startswith(unrounded) for name in floats)
    matrices = [name.removesuffix(".sums") for name in weights if name.endswith(".sums")]
    assert len(matrices) >= 6
    for matrix in matrices:
        values = numpy_helper.to_array(weights[matrix], str(bundle))
        scales = numpy_helper.to_array(weights[f"{matrix}.scales"], str(bundle))
        sums = numpy_helper.to_array(weights[f"{matrix}.sums"], str(bundle))
        per_channel = values.sum(axis=(1, 3), dtype=np.int32).ravel()
        np.testing.assert_array_equal(per_channel[: len(sums)], sums)
        assert not per_channel[len(sums) :].any() and len(scales) == len(sums)
        assert values.min() >= -127
        # without a bound on neighbours, each channel goes to the end of its range or nearly so
        assert np.abs(values).max(axis=(1, 3)).ravel()[: len(sums)].min() >= 120
