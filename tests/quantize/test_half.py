"""Half precision: which graphs are refused, what emulation computes, which kernels CUDA has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from edgerank import InputError
from edgerank.bundle import read_bundle
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER
from edgerank.session import Session, open_session
from quantize import quantize
from quantize.errors import QuantizeError
from quantize.graph.builder import Graph, in_type, without_identities
from quantize.graph.functions import OPSETS
from quantize.graph.kernel_table import TABLE, table_lines
from quantize.graph.placement import check_placement, missing_kernels
from quantize.measure import fidelity
from quantize.measure.emulation import emulated
from quantize.variants import FP16_MAX
from tests.support.checkpoints import changed_copy
from tests.support.cli import fail, succeed

HALVES = [TensorProto.FLOAT16, TensorProto.BFLOAT16]


def scaled_copy(checkpoint: Path, target: Path, **factors: float) -> Path:
    """Copy a checkpoint, some of its tensors multiplied."""
    changed_copy(checkpoint, target)
    path = target / "model.safetensors"
    tensors = load_file(path)
    for name, factor in factors.items():
        tensors[f"bert.{name}.weight"] *= np.float32(factor)
    save_file(tensors, path, metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def large(cross_encoder: Path, tmp_path_factory) -> Path:
    """A checkpoint whose activations exceed what float16 can hold."""
    factors = {
        "encoder.layer.1.intermediate.dense": 1e5,
        "encoder.layer.1.output.dense": 1e-5,
    }
    return scaled_copy(cross_encoder, tmp_path_factory.mktemp("large") / "checkpoint", **factors)


def test_float16_is_refused_where_activations_exceed_its_range(large, tmp_path):
    with pytest.raises(QuantizeError, match=r"fp16 is refused: activations reach .*choose bf16"):
        quantize(large, tmp_path / "bundle", precision=["fp32", "fp16"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "half"])
def test_a_hidden_state_that_exceeds_float16_stays_in_float32(cross_encoder, tmp_path, precision):
    factors = {"embeddings.position_embeddings": 1e6}
    checkpoint = scaled_copy(cross_encoder, tmp_path / "checkpoint", **factors)
    recipes = []
    for name, each in (("large", checkpoint), ("small", cross_encoder)):
        [variant] = quantize(each, tmp_path / name, precision=precision).manifest.variants
        assert variant.name == "cuda-fp16"
        assert variant.fidelity.mean_error < 0.02 * variant.fidelity.spread
        recipes.append(variant.recipe)
    assert ["float32 hidden state" in recipe for recipe in recipes] == [True, False]


def test_half_is_bfloat16_where_float16_is_refused_and_float16_elsewhere(
    large, cross_encoder, tmp_path
):
    for checkpoint, name in ((large, "cuda-bf16"), (cross_encoder, "cuda-fp16")):
        made = quantize(checkpoint, tmp_path / name, precision="half")
        [variant] = made.manifest.variants
        assert variant.name == name
        assert {*made.manifest.files} == {
            "tokenizer.json",
            f"model.{name}.onnx",
            f"model.{name}.onnx.data",
        }
        assert variant.fidelity.kendall_tau > 0.9


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"precision": ["half", "fp16"]}, "'half' is fp16 or bf16 already"),
        ({"precision": "fp16", "keep_fp32": "auto"}, "beside those of integers"),
        ({"precision": ["fp32", "bf16"], "keep_fp32": ["*"]}, "beside those of integers"),
        ({"precision": "float16"}, "'float16' is unknown"),
    ],
)
def test_what_makes_no_sense_is_refused(cross_encoder, tmp_path, options, complaint):
    with pytest.raises(InputError, match=complaint):
        quantize(cross_encoder, tmp_path / "bundle", **options)


def test_the_command_line_says_where_a_variant_was_measured(cross_encoder, tmp_path):
    options = ["--precision", "fp16", "--precision", "int8", "--report", tmp_path / "reports"]
    out = succeed("quantize", cross_encoder, "-o", tmp_path / "bundle", *options)
    assert "cross-encoder, cuda-fp16, int8, " in out
    assert "variant    cuda-fp16 for CUDAExecutionProvider: float16 weights" in out
    assert "needs      a GPU" in out
    assert "measured on CPUExecutionProvider, fp16 emulated\n" in out
    assert "measured on CPUExecutionProvider\n" in out
    page = (tmp_path / "reports" / "report.fp16.html").read_text("utf-8")
    assert "measured on CPUExecutionProvider, fp16 emulated." in page
    refused = fail("quantize", cross_encoder, "-o", tmp_path / "other", "--precision", "fp8")
    assert "'half'" in refused


def test_a_variant_in_half_precision_must_reach_min_tau(cross_encoder, tmp_path):
    with pytest.raises(QuantizeError, match="bundle: cuda-bf16 is refused: Kendall tau is 0"):
        quantize(cross_encoder, tmp_path / "bundle", precision="bf16", min_tau=1)


def test_a_gpu_measures_where_there_is_one(cross_encoder, tmp_path, monkeypatch):
    opened = []

    def as_if_on_a_gpu(path: Path, *, provider: str = CPU_PROVIDER, **options: object) -> Session:
        opened.append((path.name, provider))
        return Session(path, **options)

    monkeypatch.setattr(fidelity, "Session", as_if_on_a_gpu)
    monkeypatch.setattr(fidelity, "visible_gpus", lambda: ("a GPU",))
    monkeypatch.setattr(fidelity.ort, "get_available_providers", lambda: [CUDA_PROVIDER])
    [variant] = quantize(cross_encoder, tmp_path / "bundle", precision="fp16").manifest.variants
    assert opened == [
        ("emulated.model.cuda-fp16.onnx", CPU_PROVIDER),
        ("model.cuda-fp16.onnx", CUDA_PROVIDER),
    ]
    found = variant.fidelity
    assert (found.provider, found.is_emulated) == (CUDA_PROVIDER, False)
    assert found.mean_error < 0.03 * found.spread
    assert 0 < max(found.layers) < 0.004


def test_a_half_variant_is_the_same_beside_others(cross_encoder, tmp_path):
    alone = quantize(cross_encoder, tmp_path / "alone", precision="fp16")
    beside = quantize(cross_encoder, tmp_path / "beside", precision=["int8", "fp16"])
    assert beside.manifest.variants[1] == alone.manifest.variants[0]
    for name in ("model.cuda-fp16.onnx", "model.cuda-fp16.onnx.data"):
        assert read_bundle(alone.directory).manifest.files[name] == beside.manifest.files[name]


def half_graph(directory: Path, dtype: int) -> Path:
    """A graph: x float32 [T, 8] times a matrix, squared, plus x."""
    g = Graph(directory / "model.onnx", is_plain=True)
    x = g.input("x", TensorProto.FLOAT, ["tokens", 8])
    weight = in_type(np.random.default_rng(0).standard_normal((8, 8)), dtype)
    product = g.op("MatMul", g.cast(x, dtype), g.weight("weight", weight))
    squared = g.op("Mul", product, product)
    g.output("y", g.op("Add", g.cast(squared, TensorProto.FLOAT), x), ["tokens", 8])
    g.output("products", product, ["tokens", 8])
    g.save()
    return g.path


@pytest.mark.parametrize("dtype", HALVES)
def test_emulation_rounds_what_each_operator_gives_out(tmp_path, dtype):
    model = onnx.load(half_graph(tmp_path, dtype))
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    (tmp_path / "emulated.onnx").write_bytes(emulated(model).SerializeToString())
    session = open_session(tmp_path / "emulated.onnx")
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32) * 30
    y, products, largest = session.run(None, {"x": x})

    def rounded(numbers: np.ndarray) -> np.ndarray:
        return in_type(numbers, dtype).astype(np.float32)

    exact = rounded(x) @ weight
    np.testing.assert_allclose(products, rounded(exact), rtol=2**-7)  # sums in another order
    np.testing.assert_array_equal(products, rounded(products))
    np.testing.assert_array_equal(y, rounded(products * products) + x)
    np.testing.assert_allclose(largest, np.square(products).max(), rtol=1e-6)


def test_emulation_overflows_as_float16_does(tmp_path):
    model = onnx.load(half_graph(tmp_path, TensorProto.FLOAT16))
    (tmp_path / "emulated.onnx").write_bytes(emulated(model).SerializeToString())
    session = open_session(tmp_path / "emulated.onnx")
    y, _, largest = session.run(None, {"x": np.full((1, 8), 1000, np.float32)})
    assert np.isinf(y).any()
    assert largest > FP16_MAX


def model_of(nodes: list[onnx.NodeProto], dtype: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(name, dtype, [None, 8])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", *values)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=11)


@pytest.mark.parametrize(
    ("operator", "dtype", "is_there"),
    [
        ("Gelu", TensorProto.FLOAT16, True),
        ("Gelu", TensorProto.BFLOAT16, True),
        ("Abs", TensorProto.INT64, True),
        ("Log", TensorProto.FLOAT16, True),
        ("Log", TensorProto.BFLOAT16, False),  # no kernel of the type
        ("Identity", TensorProto.FLOAT, False),  # of an older version alone
        ("Sin", TensorProto.FLOAT16, False),
        ("Mish", TensorProto.FLOAT, False),  # no kernel at all
    ],
)
def test_a_node_needs_a_kernel_of_its_version_and_types(operator, dtype, is_there, tmp_path):
    model = model_of([helper.make_node(operator, ["x"], ["y"])], dtype)
    missing = missing_kernels(model)
    assert (not missing) == is_there
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    if is_there:
        check_placement(path)
    else:
        with pytest.raises(QuantizeError, match=rf"no CUDA kernel for {operator}-\d+ of"):
            check_placement(path)


def test_an_operator_that_nobody_knows_is_refused():
    for domain, complaint in (("com.microsoft", "known here"), ("", "Unknown")):
        node = helper.make_node("Unknown", ["x"], ["y"], domain=domain)
        with pytest.raises(QuantizeError, match=complaint):
            missing_kernels(model_of([node]))


def test_identities_are_left_out_and_names_of_outputs_kept():
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["alias"]),
        helper.make_node("Neg", ["alias"], ["b"]),
        helper.make_node("Identity", ["b"], ["first"]),
        helper.make_node("Identity", ["alias"], ["second"]),
        helper.make_node("Identity", ["x"], ["third"]),  # nothing computes it
    ]
    kept = without_identities(nodes, ["first", "second", "third"])
    assert [(node.op_type, *node.input, *node.output) for node in kept] == [
        ("Abs", "x", "second"),
        ("Neg", "second", "first"),
        ("Identity", "x", "third"),
    ]


DOCUMENT = """\
## Operators implemented by CPUExecutionProvider
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(double)|
## Operators implemented by CUDAExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(bfloat16), tensor(int64), tensor(uint16)|
|||[6, 12]|**T** = tensor(int64)|
|Cast|*in* input:**T1**<br> *out* output:**T2**|[13, 18]|**T1** = tensor(bool)<br/> **T2** = tensor(float)|
| |
|**Operator Domain:** *com.microsoft*||||
|BiasGelu|*in* A:**T**<br> *in* B:**tensor(int64)**<br> *out* C:**T**|1+|**T** = tensor(float16)|
## Operators implemented by DmlExecutionProvider
|Neg|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(float)|
"""  # noqa: E501


def test_the_table_is_made_of_onnx_runtimes_list():
    assert list(table_lines(DOCUMENT)) == [
        "ai.onnx\tAbs\t13+\tT=bfloat16,int64",
        "ai.onnx\tCast\t13-18\tT1=bool T2=float",
        "com.microsoft\tBiasGelu\t1+\tT=float16\tin:A:T in:B:tensor(int64) out:C:T",
    ]
    assert "ONNX Runtime 1.25.0" in TABLE.read_text("utf-8").splitlines()[0]
