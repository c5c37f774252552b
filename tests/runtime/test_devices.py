"""Keys and values in a device's memory, which here is the host's, and engines for GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgerank import InputError, ProviderError, Reranker, doctor
from edgerank.bundle import BundleError, read_bundle
from edgerank.caches import DeviceRuns
from edgerank.engine import Engine
from edgerank.gpu import Gpu
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER
from edgerank.packing import Group, Tokens, pack
from edgerank.providers import device_problem
from edgerank.session import Session
from tests.support.gpus import give_gpus
from tests.support.variants import with_variants

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Frank Herbert",
    "Paris, since 987. " * 30,
    "? " * 400,
    "",
    "Dune was written in 1965.",
]
WIDTH = 4
CARD = Gpu("a card", 8 << 30, 4 << 30, (9, 0))


def write_sums(path: Path, element: int) -> Path:
    """Write a decoder of a kind: a token's key is its id, and a score the sum of the keys seen.

    Two layers of keys, of which the second has the ids' doubles, and all values of one type.
    """
    nodes = [
        helper.make_node("Gather", ["token_ids", "cache_rows"], ["new_ids"]),
        helper.make_node("Gather", ["token_ids", "query_rows"], ["grid_ids"]),  # [B, L]
        helper.make_node("Cast", ["new_ids"], ["new"], to=element),
        helper.make_node("Unsqueeze", ["new", "one"], ["new_column"]),
        helper.make_node("Concat", ["new_column"] * WIDTH, ["present.0"], axis=1),
        helper.make_node("Add", ["new_ids", "new_ids"], ["doubles"]),
        helper.make_node("Cast", ["doubles"], ["new_1"], to=element),
        helper.make_node("Unsqueeze", ["new_1", "one"], ["new_column_1"]),
        helper.make_node("Concat", ["new_column_1"] * WIDTH, ["present.1"], axis=1),
        helper.make_node("Cast", ["token_ids"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["past.0"], ["past_0"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["past.1"], ["past_1"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["past_0", "one"], ["keys_0"], keepdims=0),
        helper.make_node("ReduceMean", ["past_1", "one"], ["keys_1"], keepdims=0),
        helper.make_node("Sub", ["keys_1", "keys_0"], ["keys"]),
        helper.make_node("Concat", ["keys", "flat"], ["rows"], axis=0),
        helper.make_node("Gather", ["rows", "key_rows"], ["seen"]),  # [B, S]
        helper.make_node("CumSum", ["seen", "one_scalar"], ["sums"]),
        helper.make_node("ReduceMax", ["visible", "one"], ["num_seen"], keepdims=1),
        helper.make_node("Sub", ["num_seen", "one"], ["last"]),
        helper.make_node("GatherElements", ["sums", "last"], ["score"], axis=1),
        helper.make_node("Squeeze", ["score", "one"], ["score_row"]),
        helper.make_node("Cast", ["score_row"], ["scores"], to=element),
    ]
    integers = {
        "token_ids": ["T"],
        "query_rows": ["B", "L"],
        "key_rows": ["B", "S"],
        "visible": ["B", "L"],
        "cache_rows": ["C"],
    }
    pasts = [helper.make_tensor_value_info(f"past.{n}", element, ["P", WIDTH]) for n in range(2)]
    presents = [
        helper.make_tensor_value_info(f"present.{n}", element, ["C", WIDTH]) for n in range(2)
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            *(
                helper.make_tensor_value_info(name, TensorProto.INT64, shape)
                for name, shape in integers.items()
            ),
            *pasts,
        ],
        [helper.make_tensor_value_info("scores", element, ["B"]), *presents],
        [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("one_scalar", TensorProto.INT64, [], [1]),
        ],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def tokens(*ids: int) -> Tokens:
    return Tokens(np.array(ids), np.zeros(len(ids), np.int64))


GROUPS = [  # several micro-batches of 16 tokens each, chunks of the prefix and of a long sequence
    Group(tokens(*[1] * 40), [tokens(*[2] * 30), tokens(3), *[tokens(4, 4)] * 20], range(22)),
    Group(tokens(1, 2), [tokens(5)], [22]),
    Group(tokens(*[1] * 9), [tokens(*[2] * 100), tokens(7, 7, 7)], [23, 24]),
]
SUMS = [100, 43, *[48] * 20, 8, 209, 30]


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_scores_are_float32_whatever_the_type_of_keys_and_values(tmp_path, element):
    engine = Engine(write_sums(tmp_path / "sums.onnx", element), ["scores"], threads=1)
    found = np.zeros(len(SUMS))
    for batch, (raw,) in engine.run(pack(GROUPS, max_tokens=16, causal=True), ["scores"]):
        assert raw.dtype == np.float32
        is_scored = batch.score_ids >= 0
        found[batch.score_ids[is_scored]] = raw[is_scored]
    # bfloat16 has 8 bits: 209 is between two of its numbers
    np.testing.assert_allclose(found, SUMS, rtol=2**-8 if element == TensorProto.BFLOAT16 else 0)


@pytest.fixture
def copied(monkeypatch) -> list[list[int]]:
    """The shapes of all values that are copied to NumPy."""
    shapes: list[list[int]] = []
    numpy = ort.OrtValue.numpy

    def spy(self):
        shapes.append(list(self.shape()))
        return numpy(self)

    monkeypatch.setattr(ort.OrtValue, "numpy", spy)
    return shapes


def test_only_results_leave_the_device(tmp_path, copied):
    session = Session(write_sums(tmp_path / "sums.onnx", TensorProto.FLOAT16))
    batches = list(pack(GROUPS, max_tokens=16, causal=True))
    assert sum(len(batch.cache_rows) > 0 for batch in batches) > 5
    for _ in session.run(batches, ["scores"]):
        pass
    assert copied == [[len(batch.score_ids)] for batch in batches]
    session.close()


def test_a_buffer_is_taken_once_for_a_group_and_kept_for_smaller_ones(tmp_path, monkeypatch):
    made: list[list[int]] = []
    make = ort.OrtValue.ortvalue_from_shape_and_type

    def spy(shape, *others):
        made.append(list(shape))
        return make(shape, *others)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", spy)
    session = Session(write_sums(tmp_path / "sums.onnx", TensorProto.FLOAT16))
    for _ in session.run(pack(GROUPS, max_tokens=16, causal=True), ["scores"]):
        pass
    assert made == [[70, WIDTH]] * 2 + [[109, WIDTH]] * 2  # of two layers
    session.close()


@pytest.mark.parametrize("name", ["qwen2.fp32", "cross-encoder.fp32", "embedding.fp32"])
def test_a_device_gives_the_scores_of_numpy_arrays(bundles, monkeypatch, name):
    plain = Reranker(bundles / name, max_batch_tokens=64)
    expected = plain.score(QUERY, DOCUMENTS)
    monkeypatch.setattr("edgerank.session.HostRuns", lambda layers: DeviceRuns(layers, "cpu", 0))
    with Reranker(bundles / name, max_batch_tokens=64) as reranker:
        np.testing.assert_array_equal(reranker.score(QUERY, DOCUMENTS), expected)


def test_a_variant_for_a_gpu_is_opened_on_the_one_asked_for(bundles, tmp_path, monkeypatch):
    opened = give_gpus(monkeypatch, CARD, CARD)
    bundle = with_variants(bundles / "qwen2.fp32", tmp_path / "bundle", "cuda-fp16")
    expected = Reranker(bundles / "qwen2.fp32").score(QUERY, DOCUMENTS)
    with Reranker(bundle, device=1) as reranker:
        assert reranker.variant.provider == CUDA_PROVIDER
        assert reranker.kernels.name == "stock"
        assert 1024 < reranker.max_batch_tokens <= 16384
        np.testing.assert_allclose(reranker.score(QUERY, DOCUMENTS), expected, atol=1e-4)
    assert opened == [1]
    with Reranker(bundle, providers=["cpu"]) as reranker:
        assert (reranker.variant.provider, opened) == (CPU_PROVIDER, [1])
    with pytest.raises(ProviderError, match="GPU 2 is not there"):
        Reranker(bundle, device=2)
    with pytest.raises(InputError, match="device"):
        Reranker(bundle, device=-1)


def test_doctor_measures_a_gpu_by_itself(bundles, tmp_path, monkeypatch):
    give_gpus(monkeypatch, CARD)
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    found = doctor.diagnose(with_variants(bundles / "qwen2.fp32", tmp_path / "bundle", "cuda-fp16"))
    assert found.problems == []
    assert (found.model.variant, found.model.provider) == ("cuda-fp16", CUDA_PROVIDER)
    assert list(found.speed.pairs_per_second) == [CUDA_PROVIDER]
    assert found.speed.ratio is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient", ProviderError),
        ("Failed to allocate memory for requested buffer of size 9", ProviderError),
        ("Load model failed: it is no graph", BundleError),
    ],
)
def test_what_a_gpu_fails_at_is_told_from_what_is_wrong_with_a_bundle(
    bundles, tmp_path, monkeypatch, message, expected
):
    give_gpus(monkeypatch, CARD)
    bundle = with_variants(bundles / "qwen2.fp32", tmp_path / "bundle", "cuda-fp16")

    def fail(*arguments, **options):
        raise RuntimeError(message)

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(expected, match=message):
        Reranker(bundle)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("BFCArena: Failed to allocate memory for requested\nbuffer", "a lower max_batch_tokens"),
        ("cuDNN is unavailable for CUDA Execution Provider", "pip install 'edgerank[cuda]'"),
        ("CUDA failure 719: unspecified launch failure", "`edgerank doctor` shows"),
    ],
)
def test_what_a_gpu_fails_at_in_a_run_is_said_with_what_to_do(reason, advice):
    problem = device_problem(RuntimeError(reason), 3)
    assert str(problem).startswith(f"GPU 3: {' '.join(reason.split())}; ")
    assert advice in str(problem)
    assert device_problem(RuntimeError("a shape does not fit"), 0) is None


def test_a_graph_that_cuda_cannot_run_as_a_whole_is_not_run_on_the_cpu(
    bundles, tmp_path, monkeypatch
):
    from edgerank import session
    from edgerank.providers import check_placement

    give_gpus(monkeypatch, CARD)
    monkeypatch.setattr(session, "check_placement", check_placement)
    bundle = with_variants(bundles / "qwen2.fp32", tmp_path / "bundle", "cuda-fp16")
    with pytest.raises(ProviderError, match=r"has no kernel for operators .*MatMul"):
        Reranker(bundle)
    assert read_bundle(bundle).manifest.variants[0].name == "cuda-fp16"
