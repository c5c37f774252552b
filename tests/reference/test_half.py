"""Graphs for GPUs, of every architecture: where ONNX Runtime computes them, and what they score.

There is no GPU here. A graph in float16 runs on the CPU provider as it is, which computes some
operators in float16 and the others in float32; one in bfloat16 runs emulated alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgerank.bundle import read_bundle
from edgerank.engine import Engine, gather
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.rules import scoring_rule
from quantize import quantize
from quantize.graph.placement import host_nodes, missing_kernels
from tests.reference import test_families
from tests.support.checkpoints import (
    bpe_tokenizer,
    save_bert_encoder,
    save_cross_encoder,
    save_deberta,
    save_embedding,
    save_gemma3_embedding,
    save_late_interaction,
    save_modernbert,
    save_modernbert_embedding,
    save_modernbert_encoder,
    save_mpnet_embedding,
    save_qwen2,
    wordpiece_tokenizer,
)

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LAYER_ERRORS = {"fp16": 0.004, "bf16": 0.02}  # of a stream's rms, after any layer
SCORE_ERRORS = {"fp16": 0.03, "bf16": 0.1}  # mean, of the scores' spread


def save_distilbert(directory: Path) -> None:
    """Save a checkpoint that optimum exports."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from tests.reference.test_families import bos_tokenizer, saver

    saver(
        DistilBertForSequenceClassification,
        lambda size: DistilBertConfig(
            vocab_size=size, dim=64, hidden_dim=160, n_layers=2, n_heads=4, num_labels=1
        ),
        bos_tokenizer,
        sharpen="classifier",
    )(directory)


SAVERS = {
    "bert": save_cross_encoder,
    "embedding": partial(save_embedding, has_dense=True),
    "embedding-cls": partial(save_embedding, pooling="cls"),
    "deberta": lambda path: save_deberta(path, wordpiece_tokenizer()),
    "mpnet-embedding": save_mpnet_embedding,
    "modernbert": lambda path: save_modernbert(path, wordpiece_tokenizer()),
    "modernbert-embedding": partial(save_modernbert_embedding, pooling="mean"),
    "embedding-gemma": save_gemma3_embedding,
    "colbert": lambda path: save_late_interaction(path, save_bert_encoder),
    "colbert-modernbert": lambda path: save_late_interaction(
        path, save_modernbert_encoder, query_prefix="q", document_prefix="d"
    ),
    "qwen2": lambda path: save_qwen2(path, bpe_tokenizer()),
    "optimum": save_distilbert,
    **{name: case.save for name, case in test_families.CASES.items()},
}
# what ONNX Runtime keeps on the CPU: sizes come from Shape, and kernels read them there
ARITHMETIC_OF_SIZES = {"Add", "Concat", "Div", "Mod", "Squeeze", "Sub", "Unsqueeze"}
OF_EXPORTED_SIZES = {
    *("And", "Cast", "Gather", "GreaterOrEqual", "LessOrEqual", "Reshape", "Slice", "Sqrt", "Where")
}
DECODERS = ("qwen2", "gemma3")


@pytest.fixture(scope="module", params=SAVERS)
def bundle(request, tmp_path_factory) -> Path:
    """A bundle with variants of an architecture: fp32, fp16, bf16."""
    directory = tmp_path_factory.mktemp("half")
    SAVERS[request.param](directory / "checkpoint")
    quantize(directory / "checkpoint", directory / "bundle", precision=["fp32", "fp16", "bf16"])
    return directory / "bundle"


def model_of(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(bundle / f"model.{name}.onnx", load_external_data=False)


def sequences(rng: np.random.Generator, lengths: list[int]) -> list[Tokens]:
    return [
        Tokens(rng.integers(5, 150, length), (np.arange(length) > length // 2).astype(np.int64))
        for length in lengths
    ]


def scores_of(bundle: Path, name: str, groups: list[Group], max_tokens: int) -> np.ndarray:
    """Run the graph of a variant on the CPU provider; the output that scores are made of."""
    rule = scoring_rule(read_bundle(bundle).manifest.scoring)
    engine = Engine(bundle / f"model.{name}.onnx", rule.outputs, threads=1)
    batches = pack(groups, max_tokens=max_tokens, causal=engine.is_causal)
    rows = ((batch, raw) for batch, (raw,) in engine.run(batches, [rule.output.name]))
    results = gather(rows, rule.output, len(groups[0].score_ids))
    engine.close()
    return np.concatenate(results) if isinstance(results, list) else results


def test_the_manifest_says_what_a_graph_is_for_and_where_it_was_measured(bundle):
    fp32, *halves = read_bundle(bundle).manifest.variants
    assert fp32.provider == CPU_PROVIDER
    for precision, variant in zip(HALVES, halves, strict=True):
        assert (variant.name, variant.precision) == (f"cuda-{precision}", precision)
        assert variant.provider == CUDA_PROVIDER
        assert variant.needs.gpu
        assert (variant.fidelity.provider, variant.fidelity.is_emulated) == (CPU_PROVIDER, True)


@pytest.mark.parametrize("precision", HALVES)
def test_every_node_has_a_kernel_for_cuda(request, bundle, precision):
    model = model_of(bundle, f"cuda-{precision}")
    onnx.checker.check_model(bundle / f"model.cuda-{precision}.onnx")
    assert not missing_kernels(model)
    is_exported = "optimum" in request.node.name
    allowed = ARITHMETIC_OF_SIZES | (OF_EXPORTED_SIZES if is_exported else set())
    assert {node.op_type for node in host_nodes(model)} <= allowed
    assert not model.functions
    assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}


@pytest.mark.parametrize("precision", HALVES)
def test_inputs_and_outputs_are_those_of_the_other_graphs(bundle, precision):
    half, full = (model_of(bundle, name).graph for name in (f"cuda-{precision}", "fp32"))
    for ours, others in ((half.input, full.input), (half.output, full.output)):
        assert [value.name for value in ours] == [value.name for value in others]
        for ours_, other in zip(ours, others, strict=True):
            is_cache = ours_.name.startswith(("past.", "present."))
            wanted = HALVES[precision] if is_cache else other.type.tensor_type.elem_type
            assert ours_.type.tensor_type.elem_type == wanted


@pytest.mark.parametrize("precision", HALVES)
def test_matrices_are_stored_in_half_precision(bundle, precision):
    graph = model_of(bundle, f"cuda-{precision}").graph
    large = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    kinds = {tensor.data_type for tensor in large if min(tensor.dims) >= 64}
    assert HALVES[precision] in kinds
    layers = {each.data_type for each in large if "layers.1." in each.name and min(each.dims) > 8}
    assert layers <= {HALVES[precision]}


@pytest.mark.parametrize("precision", HALVES)
def test_emulated_scores_stay_close_to_those_of_float32(bundle, precision):
    fidelity = read_bundle(bundle).manifest.variants[1 + [*HALVES].index(precision)].fidelity
    assert 0 < fidelity.mean_error < SCORE_ERRORS[precision] * fidelity.spread
    if fidelity.layers:
        assert 0 < max(fidelity.layers) < LAYER_ERRORS[precision]


def test_float16_on_the_cpu_provider_scores_as_float32(bundle):
    rng = np.random.default_rng(0)
    groups = [Group(EMPTY, sequences(rng, [70, 3, 96, 1, 40, 41]), range(6))]
    half, full = (scores_of(bundle, name, groups, 128) for name in ("cuda-fp16", "fp32"))
    assert np.isfinite(half).all()
    errors = np.abs(half - full)
    assert errors.mean() < SCORE_ERRORS["fp16"] * full.std()


@pytest.mark.parametrize("bundle", DECODERS, indirect=True)
@pytest.mark.parametrize("max_tokens", [16, 64, 512])
def test_a_decoder_in_float16_scores_alike_however_it_is_packed(bundle, max_tokens):
    """A prefix is shared, chunks follow each other, and windows reach into the past."""
    rng = np.random.default_rng(1)
    [prefix] = sequences(rng, [37])
    groups = [Group(prefix, sequences(rng, [60, 5, 150, 1, 17]), range(5))]
    full = scores_of(bundle, "fp32", groups, 512)
    half = scores_of(bundle, "cuda-fp16", groups, max_tokens)
    np.testing.assert_allclose(half, full, atol=0.02 * full.std())
