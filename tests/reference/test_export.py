"""Checkpoints without a writer of ours, exported by optimum, against sentence-transformers."""

from __future__ import annotations

import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, processors
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    Data2VecTextConfig,
    Data2VecTextForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from edgerank import InputError, Reranker
from edgerank.bundle import read_bundle
from edgerank.cli.inspect import variant_lines
from edgerank.kernels import STOCK, choose_kernels
from edgerank.manifest import Piece
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.session import Session, open_session
from quantize import quantize
from quantize.checkpoint.files import open_checkpoint
from quantize.errors import QuantizeError
from quantize.graph.functions import OPSET
from quantize.graph.int8 import Int8
from quantize.graph.precision import Float32
from quantize.optimum.export import EXPORT_OPSET, export
from quantize.optimum.rewrite import CHANGED_OPERATORS, fold, write_rewritten
from tests.support.bundles import only_variant
from tests.support.checkpoints import changed_copy, save_model, wordpiece_tokenizer

TOLERANCE = 1e-4
INT8_BOUND = 0.25  # of the spread: the mean error of a random model's int8 scores
LAYERS = 2
VOCABULARY = 4000  # more than the tokenizer has, or the table would be too small to be rounded

QUERIES = ["who wrote dune?", "der Fluß fließt 数は力", "a very long query about lists " * 30]
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "数は力 der Fluß fließt [SEP] слово [PAD] 🦀",
    "a query and a list of documents " * 40,
    "Dune.",
]
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]

WIDTHS = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}


def pair_tokenizer(separators: int) -> Tokenizer:
    """The tests' WordPiece tokenizer, with one or two separators between the texts of a pair."""
    tokenizer = wordpiece_tokenizer()
    between = " ".join(["[SEP]"] * separators)
    second = ":1" if separators == 1 else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {between} $B{second} [SEP]{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def save(directory: Path, name: str, **config: object) -> Path:
    """Save a random checkpoint of one of the architectures."""
    torch.manual_seed(0)
    shared = {
        "vocab_size": VOCABULARY,
        "num_labels": 1,
        "initializer_range": 0.08,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
        **config,
    }
    names = ["input_ids", "attention_mask"]
    if name == "distilbert":
        narrow = {"dim": 64, "hidden_dim": 160, "n_layers": LAYERS, "n_heads": 4}
        model = DistilBertForSequenceClassification(
            DistilBertConfig(max_position_embeddings=128, **narrow, **shared)
        )
    elif name == "data2vec-text":
        model = Data2VecTextForSequenceClassification(
            Data2VecTextConfig(
                max_position_embeddings=129, pad_token_id=0, type_vocab_size=1, **WIDTHS, **shared
            )
        )
    else:
        model = AlbertForSequenceClassification(
            AlbertConfig(max_position_embeddings=128, embedding_size=32, **WIDTHS, **shared)
        )
        names.append("token_type_ids")
    head = getattr(model.classifier, "out_proj", model.classifier)
    with torch.no_grad():
        head.weight *= 20  # or a random model gives all documents nearly one score
    save_model(model, directory)
    PreTrainedTokenizerFast(
        tokenizer_object=pair_tokenizer(1 if name in ("distilbert", "albert") else 2),
        model_max_length=128,
        pad_token="[PAD]",
        model_input_names=names,
    ).save_pretrained(directory)
    return directory


NAMES = ["distilbert", "data2vec-text", "albert"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory of checkpoints and of bundles called <checkpoint>.<precision>."""
    directory = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        checkpoint = save(directory / name, name)
        for precision in ("fp32", "int8"):
            quantize(checkpoint, directory / f"{name}.{precision}", precision=precision)
    return directory


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def stock_operators(bundle: Path, work: Path) -> Counter[str]:
    """Count the operators that ONNX Runtime runs without kernels.

    Layers that read the same rows each round them; it does so once for all.
    """
    path = work / "stock.onnx"
    open_session(bundle / "model.int8.onnx", kernels=choose_kernels(STOCK), save_to=path)
    return operators(path)


@pytest.mark.parametrize("max_batch_tokens", [64, 1024])
@pytest.mark.parametrize("name", NAMES)
def test_float32_scores_as_sentence_transformers_does(made, name, max_batch_tokens):
    expected = CrossEncoder(str(made / name), device="cpu").predict(PAIRS)
    assert np.std(expected) > 0.05
    reranker = Reranker(made / f"{name}.fp32", max_batch_tokens=max_batch_tokens)
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_int8_stays_near_float32(made, name):
    fidelity = only_variant(made / f"{name}.int8").fidelity
    assert fidelity.mean_error < INT8_BOUND * fidelity.spread
    assert fidelity.layers == ()
    lines = variant_lines(only_variant(made / f"{name}.int8"))
    assert not any(line.startswith("layers") for line in lines)
    exact, rounded = (
        Reranker(made / f"{name}.{precision}").score_pairs(PAIRS) for precision in ("fp32", "int8")
    )
    assert 0 < np.abs(rounded - exact).mean() < INT8_BOUND * exact.std()


def test_a_bundle_has_an_export_in_several_precisions(made, tmp_path):
    quantize(made / "data2vec-text", tmp_path / "bundle", precision=["fp32", "int8"])
    for name in ("fp32", "int8"):
        scores = Reranker(tmp_path / "bundle", variant=name).score_pairs(PAIRS)
        alone = Reranker(made / f"data2vec-text.{name}").score_pairs(PAIRS)
        np.testing.assert_array_equal(scores, alone)


@pytest.mark.parametrize("name", NAMES)
def test_matrices_and_tables_are_rounded_and_rows_only_once(made, name, tmp_path):
    head = 1  # the pooler, or what stands for it
    projection = name == "albert"  # from the narrower embedding
    counts = operators(made / f"{name}.int8" / "model.int8.onnx")
    assert counts["Linear"] == 6 * LAYERS + head + projection
    counts = stock_operators(made / f"{name}.int8", tmp_path)
    assert counts["MatMulIntegerToFloat"] == 6 * LAYERS + head + projection
    assert counts["QuantizeLinear"] == 4 * LAYERS + head + projection
    assert counts["GatherBlockQuantized"] == 1
    assert "QuantizeLinear" not in operators(made / f"{name}.fp32" / "model.fp32.onnx")
    sizes = [
        (made / f"{name}.{precision}" / f"model.{precision}.onnx.data").stat().st_size
        for precision in ("int8", "fp32")
    ]
    assert sizes[0] < 0.4 * sizes[1]


def test_shared_layers_are_written_once(made):
    path = made / "albert.int8" / "model.int8.onnx"
    names = [tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer]
    prefix = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert (
        sum(name.startswith(f"{prefix}.attention.query") for name in names) == 4
    )  # with scales, sums, a bias
    assert f"{prefix}.ffn_output.scales" in names


def test_shared_layers_score_the_same_where_their_matrices_become_uint8(made, monkeypatch):
    """As on x86 without VNNI, where ONNX Runtime fails if several products read one matrix."""
    expected, got = [], []
    for scores, are_exact in ((expected, True), (got, False)):
        monkeypatch.setattr("edgerank.session.multiplies_int8_exactly", lambda are=are_exact: are)
        reranker = Reranker(made / "albert.int8", kernels="stock")
        scores.extend(reranker.score("who wrote dune?", ["Dune was written by Herbert.", "query"]))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2


def test_the_manifest_says_how_a_pair_is_laid_out(made):
    manifests = {name: read_bundle(made / f"{name}.fp32").manifest for name in NAMES}
    for manifest in manifests.values():
        assert (manifest.family, manifest.architecture) == ("cross-encoder", "optimum")
        assert (manifest.truncation.rule, manifest.scoring.activation) == ("longest", "identity")
        assert (manifest.max_length, manifest.max_length_limit) == (128, 128)
    assert manifests["albert"].prompt.document == (
        Piece("{document}", token_type=1),
        Piece("[SEP]", token_type=1),
    )
    # what the tokenizer is told not to give to the model is not read off it either
    assert manifests["distilbert"].prompt.document == (Piece("{document}"), Piece("[SEP]"))
    separators = (Piece("[SEP]"), Piece("[SEP]"))
    assert manifests["data2vec-text"].prompt.query == (
        Piece("[CLS]"),
        Piece("{query}"),
        *separators,
    )
    assert [manifests[name].truncation.reserved for name in NAMES] == [3, 4, 3]


@pytest.mark.parametrize("precision", [Float32(), Int8()])
def test_an_exported_bert_scores_as_one_written_layer_by_layer(tmp_path, cross_encoder, precision):
    quantize(cross_encoder, tmp_path / "own", precision="fp32")
    checkpoint = open_checkpoint(cross_encoder)
    graph = export(checkpoint, "BertForSequenceClassification", tmp_path)
    exported = tmp_path / "exported.onnx"
    write_rewritten(fold(graph, tmp_path), exported, precision, pad_token_id=0)
    rng = np.random.default_rng(0)
    sequences = [
        Tokens(rng.integers(5, 200, count), (np.arange(count) > count // 2).astype(np.int64))
        for count in (90, 3, 128, 1, 40, 41)
    ]
    batches = list(pack([Group(EMPTY, sequences, range(6))], max_tokens=128, causal=False))
    own = tmp_path / "own" / "model.fp32.onnx"
    scores = []
    for path in (own, exported):
        session = Session(path, threads=2)
        scores.append(np.concatenate([raw for _, (raw,) in session.run(batches, ["scores"])]))
    tolerance = TOLERANCE if isinstance(precision, Float32) else 0.3 * scores[0].std()
    np.testing.assert_allclose(*scores, atol=tolerance)


def test_operators_mean_the_same_in_our_opset(tmp_path, made):
    path = export(
        open_checkpoint(made / "data2vec-text"), "Data2VecTextForSequenceClassification", tmp_path
    )
    exported = onnx.load(path)
    assert exported.opset_import[0].version == EXPORT_OPSET
    converted = onnx.version_converter.convert_version(exported, OPSET)
    assert [node.op_type for node in converted.graph.node] == [
        node.op_type for node in exported.graph.node
    ]
    assert operators(path).keys().isdisjoint(CHANGED_OPERATORS)


def test_named_matrices_stay_in_float32(tmp_path, made):
    quantize(made / "distilbert", tmp_path / "bundle", keep_fp32=["*.ffn.*", "*.word_embeddings"])
    assert only_variant(tmp_path / "bundle").kept.added_bytes > 0
    counts = stock_operators(tmp_path / "bundle", tmp_path)
    assert counts["MatMulIntegerToFloat"] == 4 * LAYERS + 1
    assert counts["GatherBlockQuantized"] == 0
    with pytest.raises(InputError, match=r"'nothing' matches none .*layer.0.attention.k_lin"):
        quantize(made / "distilbert", tmp_path / "other", keep_fp32=["nothing"])


@pytest.mark.parametrize("keep", ["auto", 3])
def test_what_takes_layers_is_refused(tmp_path, made, keep):
    with pytest.raises(QuantizeError, match="keep_fp32 'auto' or a number: not for"):
        quantize(made / "distilbert", tmp_path / "bundle", keep_fp32=keep)
    with pytest.raises(QuantizeError, match="steps of the recipe: not for"):
        quantize(made / "distilbert", tmp_path / "bundle", steps=["smooth"])
    with pytest.raises(QuantizeError, match="int8-fine: not for an architecture"):
        quantize(made / "distilbert", tmp_path / "bundle", precision=["fp32", "int8-fine"])


def test_nothing_is_fetched(tmp_path, made, monkeypatch):
    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: tried.append(where))
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: tried.append(where))
    checkpoint = open_checkpoint(made / "distilbert")
    export(checkpoint, "DistilBertForSequenceClassification", tmp_path)
    assert tried == []


def test_it_is_quiet(tmp_path, made, capfd):
    quantize(made / "data2vec-text", tmp_path / "bundle", precision="fp32")
    assert capfd.readouterr() == ("", "")


def test_several_labels_are_refused(tmp_path):
    checkpoint = save(tmp_path / "checkpoint", "distilbert", num_labels=2)
    with pytest.raises(
        QuantizeError, match="the classifier has 2 labels; a reranker needs exactly"
    ):
        quantize(checkpoint, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("missing", ["optimum", "torch"])
def test_a_missing_extra_is_named(tmp_path, made, monkeypatch, missing):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(QuantizeError, match=rf"{missing}.* pip install 'edgerank\[export\]'"):
        quantize(made / "distilbert", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("JinaBertForSequenceClassification", "it needs code that transformers lacks"),
        ("XLNetForSequenceClassification", "optimum exports no xlnet"),
        ("../ForSequenceClassification", "it needs code that transformers lacks"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, made, architecture, reason):
    auto_map = {"AutoModelForSequenceClassification": "evil--model.Evil"}
    checkpoint = changed_copy(
        made / "distilbert", tmp_path / "copy", architectures=[architecture], auto_map=auto_map
    )
    with pytest.raises(QuantizeError) as caught:
        quantize(checkpoint, tmp_path / "bundle")
    message = str(caught.value)
    assert f"{architecture} cannot be exported: {reason}; optimum exports" in message
    assert "albert, bart, bert" in message
    assert "\n" not in message


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, made, capfd):
    checkpoint = changed_copy(made / "distilbert", tmp_path / "deeper", n_layers=LAYERS + 1)
    with pytest.raises(QuantizeError, match=r"lacks 'distilbert.transformer.layer.2.*15 other"):
        quantize(checkpoint, tmp_path / "bundle")
    checkpoint = changed_copy(made / "distilbert", tmp_path / "wider", hidden_dim=192)
    with pytest.raises(QuantizeError, match=r"lacks 'distilbert.transformer.layer.*in the shape"):
        quantize(checkpoint, tmp_path / "bundle")
    assert capfd.readouterr() == ("", "")
    checkpoint = changed_copy(made / "distilbert", tmp_path / "strange", n_heads=5)
    with pytest.raises(QuantizeError, match="cannot be exported: "):
        quantize(checkpoint, tmp_path / "bundle")


def test_numbers_that_are_none_are_refused(tmp_path, made):
    checkpoint = changed_copy(made / "distilbert", tmp_path / "checkpoint")
    path = checkpoint / "model.safetensors"
    tensors = dict(load_file(path))
    tensors["pre_classifier.bias"][3] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match=r"'pre_classifier.bias' holds NaN or infinity"):
        quantize(checkpoint, tmp_path / "bundle")


def test_a_tokenizer_that_makes_no_pair_is_refused(tmp_path, made):
    checkpoint = changed_copy(made / "distilbert", tmp_path / "checkpoint")
    tokenizer = pair_tokenizer(1)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$B $A", special_tokens=[]
    )
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(QuantizeError, match="does not make one sequence of the texts"):
        quantize(checkpoint, tmp_path / "bundle")
