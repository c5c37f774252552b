"""Late-interaction checkpoints in PyLate's files: what is recognised, refused and computed.

``tests/libraries`` compares them with PyLate itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker
from quantize import quantize
from quantize.errors import QuantizeError
from tests.support.checkpoints import (
    save_bert_encoder,
    save_late_interaction,
    save_modernbert_encoder,
)

QUERIES = ["who wrote dune?", "paris", "what is the capital of france, and who wrote dune in 1965?"]
DOCUMENTS = ["Dune, by Frank Herbert.", "Paris", "", "a list of documents. " * 30, "., ,."]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("late-interaction")
    save_late_interaction(directory / "bert", save_bert_encoder)
    save_late_interaction(
        directory / "modernbert", save_modernbert_encoder, query_prefix="q", document_prefix="d"
    )
    return directory


def edited(checkpoint: Path, target: Path, name: str, **changes: object) -> Path:
    """Copy a checkpoint with other values in one of its files."""
    for source in checkpoint.rglob("*"):
        copy = target / source.relative_to(checkpoint)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            copy.write_bytes(source.read_bytes())
    path = target / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def test_settings_become_the_manifest(checkpoints, tmp_path):
    manifest = quantize(checkpoints / "bert", tmp_path / "made", precision="fp32").manifest
    assert (manifest.family, manifest.architecture) == ("late-interaction", "bert")
    query, document = (
        [(piece.text, piece.is_token) for piece in pieces]
        for pieces in (manifest.prompt.query, manifest.prompt.document)
    )
    assert query == [("[CLS]", False), ("query", True), ("{query}", False), ("[SEP]", False)]
    assert document[1:3] == [("document", True), ("{document}", False)]
    assert (manifest.max_length, manifest.truncation.query_length) == (48, 12)
    expansion = manifest.prompt.expansion
    assert (expansion.token, expansion.length, expansion.is_seen) == ("[MASK]", 12, False)
    assert manifest.scoring.rule == "maxsim"
    assert len(manifest.scoring.skipped_tokens) == 2
    assert manifest.scripts == ()


def test_scripts_are_asked_for_and_checked(checkpoints, tmp_path):
    scripts = ["Latin", "Greek"]
    made = quantize(checkpoints / "bert", tmp_path / "made", precision="fp32", scripts=scripts)
    assert made.manifest.scripts == ("Latin", "Greek")
    with pytest.raises(ValueError, match=r"^scripts: English: no script"):
        quantize(checkpoints / "bert", tmp_path / "other", precision="fp32", scripts=["English"])


@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
def test_scores_are_maxsim_of_the_vectors_whatever_computes_them(backbone, checkpoints, tmp_path):
    quantize(checkpoints / backbone, tmp_path / "made", precision="fp32")
    reranker = Reranker(tmp_path / "made")
    stock = Reranker(tmp_path / "made", kernels="stock")
    queries = reranker.encode(QUERIES, kind="query")
    documents = reranker.encode(DOCUMENTS)
    assert {len(rows) for rows in queries} == {12}
    assert {rows.shape[1] for rows in documents} == {48}
    assert len(documents[2]) == 3  # the tokens around it and the prefix
    expected = [[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries]
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    for one in (reranker, stock):
        np.testing.assert_allclose(one.score_pairs(pairs), np.ravel(expected), atol=1e-4)
    normalized = reranker.score_pairs(pairs, normalize=True)
    np.testing.assert_allclose(normalized, (1 + np.ravel(expected) / 12) / 2, atol=1e-5)


def test_a_query_by_itself_is_what_it_is_among_longer_ones(checkpoints, tmp_path):
    """Tokens that none sees change nothing for the others, in batches of any mix."""
    quantize(checkpoints / "bert", tmp_path / "made", precision="fp32")
    unexpanded = edited(
        checkpoints / "bert",
        tmp_path / "unexpanded",
        "config_sentence_transformers.json",
        do_query_expansion=False,
    )
    quantize(unexpanded, tmp_path / "plain", precision="fp32")
    filled = Reranker(tmp_path / "made").encode(QUERIES, kind="query")
    plain = Reranker(tmp_path / "plain").encode(QUERIES, kind="query")
    assert len({len(rows) for rows in plain}) > 1
    for rows, alone in zip(filled, plain, strict=True):
        np.testing.assert_allclose(rows[: len(alone)], alone, atol=1e-5)


def test_parts_of_a_long_document_are_compared_one_by_one(checkpoints, tmp_path):
    quantize(checkpoints / "bert", tmp_path / "made", precision="fp32")
    reranker = Reranker(tmp_path / "made", max_length=16)
    long = ["frank herbert wrote dune in 1965 " * 6]
    split = reranker.score("dune", long, long_documents="split")
    assert split[0] >= reranker.score("dune", long)[0] - 1e-5


SETTINGS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("backbone", "name", "changes", "message"),
    [
        ("bert", SETTINGS, {"query_prefix": "[Q] "}, r"names the token '\[Q\] '"),
        ("bert", SETTINGS, {"document_length": 129}, "must fit into 128"),
        ("bert", SETTINGS, {"query_length": 4}, "a query needs more than 4"),
        ("bert", SETTINGS, {"query_length": "12"}, "query_length"),
        ("bert", "1_Dense/config.json", {"in_features": 96}, "in_features is 96"),
        ("bert", "1_Dense/config.json", {"activation_function": "my.Code"}, "activation_function"),
        (
            "bert",
            "1_Dense/config.json",
            {"module_input_name": "sentence_embedding"},
            "sentence_embedding",
        ),
        ("modernbert", SETTINGS, {"query_length": 32}, "filled up to 32 tokens that none sees"),
        (
            "bert",
            "tokenizer_config.json",
            {"mask_token": None, "eos_token": None, "pad_token": None},
            "no mask_token",
        ),
    ],
    ids=str,
)
def test_what_would_be_read_otherwise_is_refused(
    backbone, name, changes, message, checkpoints, tmp_path
):
    checkpoint = edited(checkpoints / backbone, tmp_path / "edited", name, **changes)
    with pytest.raises(QuantizeError, match=message):
        quantize(checkpoint, tmp_path / "made", precision="fp32")
    assert not (tmp_path / "made").exists()


def test_modules_that_change_vectors_afterwards_are_refused(checkpoints, tmp_path):
    checkpoint = edited(checkpoints / "bert", tmp_path / "edited", SETTINGS)
    path = checkpoint / "modules.json"
    pooling = {"type": "sentence_transformers.HierarchicalTokenPooling", "path": "2_Pooling"}
    path.write_text(json.dumps([*json.loads(path.read_text()), pooling]))
    with pytest.raises(QuantizeError, match="HierarchicalTokenPooling are not supported"):
        quantize(checkpoint, tmp_path / "made", precision="fp32")


def test_norms_may_have_the_names_of_early_releases(checkpoints, tmp_path):
    """transformers 5.0 saved gamma and beta, as the first BERTs were."""
    from safetensors.numpy import load_file, save_file

    checkpoint = edited(checkpoints / "bert", tmp_path / "edited", SETTINGS)
    path = checkpoint / "model.safetensors"
    early = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(name.endswith("gamma") for name in early)
    save_file(early, path)
    scores = []
    for source, name in ((checkpoint, "early"), (checkpoints / "bert", "new")):
        quantize(source, tmp_path / name, precision="fp32")
        scores.append(Reranker(tmp_path / name).score(QUERIES[0], DOCUMENTS))
    np.testing.assert_array_equal(*scores)


def test_a_checkpoint_named_as_stanfords_needs_modules(checkpoints, tmp_path):
    stanford = {"architectures": ["HF_ColBERT"]}
    checkpoint = edited(checkpoints / "bert", tmp_path / "edited", "config.json", **stanford)
    quantize(checkpoint, tmp_path / "made", precision="fp32")
    scores = Reranker(tmp_path / "made").score(QUERIES[0], DOCUMENTS)
    quantize(checkpoints / "bert", tmp_path / "plain", precision="fp32")
    plain = Reranker(tmp_path / "plain").score(QUERIES[0], DOCUMENTS)
    np.testing.assert_array_equal(scores, plain)
    (checkpoint / "modules.json").unlink()
    with pytest.raises(QuantizeError, match="in the files of Stanford's ColBERT"):
        quantize(checkpoint, tmp_path / "made", precision="fp32")
