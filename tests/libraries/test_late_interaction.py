"""Late interaction against pylate and sentence-transformers' MultiVectorEncoder themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.prompt import PromptEncoder
from edgerank.tokenization import open_tokenizer
from quantize import quantize
from tests.libraries.environment import needs, run_program
from tests.support.checkpoints import save_bert_encoder, save_modernbert_encoder

QUERIES = [
    "who wrote dune?",
    "Paris!",
    "  what is the capital of France, and who wrote dune, in 1965 or since 987: 0 or 1?  ",
    "数は力 и слово — der Fluß fließt",
    "[Q] dune [MASK], [SEP] [D] paris",
]
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris, since 987",
    "a list of documents, and relevance: " * 12,
    "der Fluß fließt, 数は力 и слово \n\t x😀",
    "[D] dune [MASK] ([SEP]) [Q] paris",
    "?",
    "",
]

TEXTS = {"queries": QUERIES, "documents": DOCUMENTS}
Found = dict[str, dict[str, np.ndarray]]  # arrays by their names, for each case

PYLATE_CASES = {
    "queries are filled up with tokens that none sees": (
        "bert",
        {"embedding_size": 48, "query_length": 16, "document_length": 24},
        None,
    ),
    "queries are filled up with tokens that are seen": (
        "bert",
        {"query_length": 20, "document_length": 100, "attend_to_expansion_tokens": True},
        None,
    ),
    "queries stay as they are, without a prefix": (
        "bert",
        {
            "query_length": 10,
            "document_length": 40,
            "do_query_expansion": False,
            "query_prefix": "",
            "skiplist_words": ["dune", "paris", ",", "no word"],
        },
        None,
    ),
    "a prefix of the vocabulary and a default prompt": (
        "bert",
        {
            "document_length": 100,
            "query_prefix": "query",
            "document_prefix": "document",
            "prompts": {"ask": "relevance: "},
            "default_prompt_name": "ask",
        },
        None,
    ),
    "ModernBERT": (
        "modernbert",
        {"embedding_size": 64, "query_length": 12, "document_length": 32},
        None,
    ),
    "ModernBERT, several Dense modules, tokens that are seen": (
        "modernbert",
        {"query_length": 24, "attend_to_expansion_tokens": True},
        [[96, True, "Identity"], [96, True, "GELU"], [48, False, "Tanh"]],
    ),
}
ENCODER_CASES = {
    "a fixed length": (
        "bert",
        {
            "transformer": {
                "document_length": 24,
                "query_expansion": {"strategy": "fixed", "length": 16},
            },
            "dense": [[48, False, "Identity"]],
            "mask": {"skiplist_words": [",", ".", "no word", "dune"]},
            "encoder": {"prompts": {"query": "query: ", "document": ""}},
        },
    ),
    "the least length, and means": (
        "modernbert",
        {
            "transformer": {
                "query_length": 20,
                "document_length": 40,
                "query_expansion": {
                    "strategy": "min",
                    "length": 12,
                    "attend": True,
                    "token": "[PAD]",
                },
            },
            "dense": [[96, True, "Tanh"], [64, False, "Identity"]],
            "mask": {"skiplist_words": [",", "."]},
            "encoder": {
                "prompts": {"query": "[Q] ", "document": "[D] "},
                "similarity_fn_name": "meanmaxsim",
            },
        },
    ),
    "no expansion": (
        "modernbert",
        {
            "transformer": {"query_length": 10},
            "dense": [],
            "mask": {"skiplist_words": ["."], "skiplist_tasks": []},
            "encoder": {"prompts": {"passage": "passage: "}},
        },
    ),
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> Path:
    """Random encoders: a BERT with words as tokens, a ModernBERT with bytes."""
    directory = tmp_path_factory.mktemp("backbones")
    save_bert_encoder(directory / "bert")
    save_modernbert_encoder(directory / "modernbert")
    return directory


@pytest.fixture(scope="module")
def of_pylate(backbones, tmp_path_factory) -> tuple[Path, Found]:
    """Where pylate saved its checkpoints, and what it made of the texts."""
    directory = tmp_path_factory.mktemp("pylate")
    asked = {
        name: {"backbone": str(backbones / backbone), "colbert": colbert, "dense": dense, **TEXTS}
        for name, (backbone, colbert, dense) in PYLATE_CASES.items()
    }
    return directory, ask("pylate", directory, asked)


@pytest.fixture(scope="module")
def of_encoder(backbones, tmp_path_factory) -> tuple[Path, Found]:
    """Where MultiVectorEncoder saved its checkpoints, and what it made of the texts."""
    directory = tmp_path_factory.mktemp("encoder")
    asked = {
        name: {"backbone": str(backbones / backbone), **settings, **TEXTS}
        for name, (backbone, settings) in ENCODER_CASES.items()
    }
    return directory, ask("libraries", directory, asked)


def ask(environment: str, directory: Path, asked: dict[str, Any]) -> Found:
    """Have a library save checkpoints and read texts with them: what it finds, by the same names.

    :param directory: for the checkpoints, each under its name
    """
    program = {"pylate": "with_pylate", "libraries": "with_multi_vector_encoder"}[environment]
    results = {name: directory / f"{place}.npz" for place, name in enumerate(asked)}
    whole = [
        {"checkpoint": str(directory / name), **each, "results": str(results[name])}
        for name, each in asked.items()
    ]
    (directory / "asked.json").write_text(json.dumps(whole))
    run_program(program, directory / "asked.json", environment=environment)
    found = {}
    for name, path in results.items():
        with np.load(path) as arrays:
            found[name] = dict(arrays)
    return found


def check(bundle: Path, expected: dict[str, np.ndarray]) -> np.ndarray:
    """Compare token ids, vectors and scores of a float32 bundle with a library's."""
    reranker = Reranker(bundle)
    manifest = reranker.bundle.manifest
    assert manifest.family == "late-interaction"
    prompt = PromptEncoder(
        manifest.prompt,
        manifest.truncation,
        open_tokenizer(reranker.bundle.tokenizer_path),
        manifest.max_length,
    )
    for kind, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        encoded, vectors = prompt.encode_texts(texts, kind), reranker.encode(texts, kind=kind)
        for place, (tokens, rows) in enumerate(zip(encoded, vectors, strict=True)):
            assert tokens.ids.tolist() == expected[f"{kind}.{place}.ids"].tolist(), texts[place]
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, expected[f"{kind}.{place}.vectors"], atol=1e-4)
    scores = scores_of(reranker)
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-4)
    with Reranker(bundle, kernels="stock") as stock:
        np.testing.assert_allclose(scores_of(stock), expected["scores"], atol=1e-4)
    return scores


def scores_of(reranker: Reranker) -> np.ndarray:
    return np.array([reranker.score(query, DOCUMENTS) for query in QUERIES])


@needs("pylate")
@pytest.mark.parametrize("case", PYLATE_CASES)
def test_a_checkpoint_of_pylate_scores_as_pylate_does(case, of_pylate, tmp_path):
    directory, found = of_pylate
    quantize(directory / case, tmp_path / "fp32", precision="fp32")
    scores = check(tmp_path / "fp32", found[case])
    # pylate's rank fills short documents with zeros, which are closer than negative cosines
    ranked, is_plain = found[case]["ranked"], found[case]["least"] >= 0
    assert is_plain.mean() > 0.5
    np.testing.assert_allclose(scores[is_plain], ranked[is_plain], atol=1e-4)
    assert (ranked >= scores - 1e-4).all()


@needs("pylate")
@pytest.mark.parametrize("case", ["queries are filled up with tokens that none sees", "ModernBERT"])
def test_int8_stays_close_to_pylate(case, of_pylate, tmp_path):
    """Of tiny random models, whose rounding errors are larger than those of trained ones."""
    directory, found = of_pylate
    expected = found[case]
    quantize(directory / case, tmp_path / "int8")
    reranker = Reranker(tmp_path / "int8")
    errors = np.abs(scores_of(reranker) - expected["scores"])
    assert errors.mean() < 0.05 * expected["scores"].std()
    for kind, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for place, rows in enumerate(reranker.encode(texts, kind=kind)):
            cosines = (rows * expected[f"{kind}.{place}.vectors"]).sum(axis=1)
            assert cosines.min() > 0.98


@needs("libraries")
@pytest.mark.parametrize("case", ENCODER_CASES)
def test_a_checkpoint_of_multi_vector_encoder_scores_as_it_does(case, of_encoder, tmp_path):
    directory, found = of_encoder
    quantize(directory / case, tmp_path / "fp32", precision="fp32")
    check(tmp_path / "fp32", found[case])


@needs("pylate")
@needs("libraries")
def test_multi_vector_encoder_reads_checkpoints_of_pylate_likewise(of_pylate, tmp_path):
    """But for white space around texts, which pylate strips, and prefixes spelled in them."""
    directory, _ = of_pylate
    case = "queries are filled up with tokens that none sees"
    saved = {"checkpoint": str(directory / case), "backbone": None, **TEXTS}
    found = ask("libraries", tmp_path, {case: saved})[case]
    quantize(directory / case, tmp_path / "fp32", precision="fp32")
    scores = scores_of(Reranker(tmp_path / "fp32"))
    np.testing.assert_allclose(scores[:4, :4], found["scores"][:4, :4], atol=1e-4)
