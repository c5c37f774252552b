"""int8 products are exact on every CPU, because no pair of weights can saturate 16 bits.

On a CPU with VNNI nothing saturates, so the arithmetic without it is emulated; the emulation is
held against the instruction's definition, the instruction itself and ONNX Runtime under valgrind.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from edgerank.bundle import DEFAULT_BUNDLE
from quantize.rounding.rounding import (
    PAIR_BOUND,
    SMALLEST_SCALE,
    quantize_channels,
    quantize_rows_blockwise,
)
from tests.support import ROOT
from tests.support.saturation import exact_product, maddubs, saturating_product, worst_rows

ZERO = 128  # the zero point of the rows, in every bundle


def product(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Multiply uint8 [T, K] by int8 [K, N] with ONNX Runtime's CPU kernel."""
    constants = {
        "weight": weight,
        "one": np.float32(1),
        "ones": np.ones(weight.shape[1], np.float32),
        "zero": np.uint8(ZERO),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat",
        ["rows", "weight", "one", "ones", "zero"],
        ["product"],
        domain="com.microsoft",
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, list(rows.shape))],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": rows})[0]


# The emulation


def by_definition(a: bytes, b: bytes) -> list[int]:
    """What Intel's Intrinsics Guide says of _mm256_maddubs_epi16, byte by byte."""
    result = []
    for i in range(0, len(a), 2):
        total = 0
        for place in (i, i + 1):
            signed = b[place] - 256 if b[place] >= 0x80 else b[place]
            total += a[place] * signed
        result.append(min(total, 0x7FFF) if total >= 0 else max(total, -0x8000))
    return result


extreme_bytes = st.lists(
    st.sampled_from([0, 1, 127, 128, 129, 254, 255]) | st.integers(0, 255), min_size=32, max_size=32
).map(bytes)


@given(a=extreme_bytes, b=extreme_bytes)
def test_the_emulation_is_what_the_instruction_is_defined_to_be(a, b):
    emulated = maddubs(np.frombuffer(a, np.uint8), np.frombuffer(b, np.int8))
    assert emulated.tolist() == by_definition(a, b)


IR = """
define void @pairs(<32 x i8>* %a, <32 x i8>* %b, <16 x i16>* %to) #0 {
  %x = load <32 x i8>, <32 x i8>* %a, align 1
  %y = load <32 x i8>, <32 x i8>* %b, align 1
  %z = call <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8> %x, <32 x i8> %y)
  store <16 x i16> %z, <16 x i16>* %to, align 1
  ret void
}
declare <16 x i16> @llvm.x86.avx2.pmadd.ub.sw(<32 x i8>, <32 x i8>)
attributes #0 = { "target-features"="+avx2" }
"""


def has_avx2() -> bool:
    return bool(llvm.get_host_cpu_features().get("avx2"))


@pytest.fixture(scope="module")
def instruction():
    """The CPU's own vpmaddubsw, on 32 bytes and 32 bytes."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(IR), machine)
    engine.finalize_object()
    kinds = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p]
    function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("pairs"))

    def call(a: bytes, b: bytes) -> list[int]:
        to = ctypes.create_string_buffer(32)
        function(a, b, to)
        return list(struct.unpack("<16h", to.raw))

    yield call
    engine.close()


@pytest.mark.skipif(not has_avx2(), reason="needs an x86 CPU with AVX2")
@given(a=extreme_bytes, b=extreme_bytes)
def test_the_emulation_is_what_this_cpu_computes(instruction, a, b):
    emulated = maddubs(np.frombuffer(a, np.uint8), np.frombuffer(b, np.int8))
    assert emulated.tolist() == instruction(a, b)


def paired(left: int, right: int, sign: int) -> np.ndarray:
    """A weight [256, 24] whose pairs are all the same."""
    weight = np.empty((256, 24), np.int8)
    weight[0::2], weight[1::2] = sign * left, sign * right
    return weight


SPLITS = [(left, sign) for left in range(2, 128) for sign in (1, -1)]


def test_the_bound_is_the_largest_at_which_no_pair_saturates():
    for left, sign in SPLITS:
        at, above = (paired(left, bound - left, sign) for bound in (PAIR_BOUND, PAIR_BOUND + 1))
        for weight, is_exact in ((at, True), (above, False)):
            rows = worst_rows(weight)
            emulated, exact = (
                saturating_product(rows, weight, ZERO),
                exact_product(rows, weight, ZERO),
            )
            assert np.array_equal(emulated, exact) == is_exact


# ONNX Runtime's kernel


def worst_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights at the bound, in every sign and several splits of a pair."""
    return [
        (np.full((5, 256), value, np.uint8), paired(left, PAIR_BOUND - left, sign))
        for left in (64, 127, 1, 96)
        for sign in (1, -1)
        for value in (0, 255)
    ]


def check_worst_cases() -> None:
    for rows, weight in worst_cases():
        np.testing.assert_array_equal(product(rows, weight), exact_product(rows, weight, ZERO))


def check_the_emulation() -> None:
    """Fail unless this CPU's kernel saturates above the bound, and as the emulation does."""
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array([0, 3, 128, 250, 255], np.uint8), (4, 64))
    weight = rng.choice(np.array([-127, -1, 64, 127], np.int8), (64, 16))
    emulated = saturating_product(rows, weight, ZERO)
    assert not np.array_equal(emulated, exact_product(rows, weight, ZERO))
    np.testing.assert_array_equal(product(rows, weight), emulated)


def test_worst_case_products_are_exact_on_this_cpu():
    check_worst_cases()


def test_worst_case_products_are_exact_on_a_cpu_without_vnni():
    """valgrind presents an AVX2 CPU without VNNI, whatever the machine has."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed; it stands in for a CPU without VNNI")
    program = (
        "from tests.quantize.test_overflow import check_the_emulation, check_worst_cases;"
        "check_the_emulation(); check_worst_cases()"
    )
    subprocess.run(
        [valgrind, "--tool=none", "-q", sys.executable, "-c", program], check=True, cwd=ROOT
    )


# Rounding


def largest_error(values: np.ndarray) -> int:
    """How far the worst rows take any pair of int8 [K, N] from the exact sum, without VNNI."""
    padded = np.pad(values, ((0, values.shape[0] % 2), (0, 0))).T
    largest = 0
    for rows in np.split(worst_rows(padded.T), 2):  # each channel meets its own worst rows
        products = rows.astype(int) * padded
        errors = products[:, 0::2] + products[:, 1::2] - maddubs(rows, padded)
        largest = max(largest, int(np.abs(errors).max()))
    return largest


def test_rounding_by_the_largest_weight_alone_would_saturate():
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / 127
    assert largest_error(np.rint(weight.T / scale).astype(np.int8)) > 1000
    assert largest_error(quantize_channels(weight)[0]) == 0


def largest_pair(values: np.ndarray) -> int:
    """The largest sum of magnitudes of two neighbours along K, of int8 [K, N]."""
    magnitudes = np.abs(np.pad(values, ((0, values.shape[0] % 2), (0, 0))).astype(int))
    return int((magnitudes[0::2] + magnitudes[1::2]).max())


weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=17),
    elements=st.floats(-1e4, 1e4, width=32),
)


@settings(deadline=None)
@given(weight=weights)
def test_rounded_channels_keep_the_bound_and_stay_close(weight):
    values, scale = quantize_channels(weight)
    assert largest_pair(values) <= PAIR_BOUND
    assert largest_error(values) == 0
    assert np.abs(values.astype(int)).max() <= 127
    steps = np.abs(values - weight.T / scale.astype(np.float64))
    assert (steps <= 1.01).all()  # one step where a pair was lowered, else half
    assert (steps <= 0.51).mean() >= 0.5


@settings(deadline=None)
@given(weight=weights)
def test_scales_are_no_larger_than_the_bound_asks_for(weight):
    magnitudes = np.abs(np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))).astype(np.float64)
    pairs = magnitudes[:, 0::2] + magnitudes[:, 1::2]
    least = np.maximum(magnitudes.max(axis=1) / 127, pairs.max(axis=1) / PAIR_BOUND)
    _, scale = quantize_channels(weight)
    np.testing.assert_allclose(scale, np.where(least >= SMALLEST_SCALE, least, 1), rtol=1e-6)


@settings(deadline=None)
@given(table=arrays(np.float32, (5, 32), elements=st.floats(-1e4, 1e4, width=32)))
def test_embedding_rows_are_rounded_to_half_a_step(table):
    values, scale = quantize_rows_blockwise(table, 16)
    restored = (values.astype(np.float64) - 128) * np.repeat(scale, 16, axis=1)
    assert (np.abs(restored - table) <= 0.501 * np.repeat(scale, 16, axis=1)).all()


@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding", "default"])
def test_every_linear_layer_of_a_bundle_keeps_the_bound(request, name):
    if name == "default":
        bundle = DEFAULT_BUNDLE
    else:
        bundle = request.getfixturevalue("bundles") / f"{name}.int8"
    model = inline_local_functions(onnx.load(bundle / "model.int8.onnx"))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    floats = {
        node.input[1]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }
    assert len(layers) >= 6
    assert all(name.startswith(("classifier", "head")) for name in floats)
    for node in layers:
        values = numpy_helper.to_array(weights[node.input[1]])  # [K, N]
        assert values.dtype == np.int8
        assert largest_pair(values) <= PAIR_BOUND
        assert largest_error(values) == 0
