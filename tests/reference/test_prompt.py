"""Token ids against the reference packages' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxbai_rerank import MxbaiRerankV2
from tokenizers import Tokenizer

from edgerank.bundle import read_bundle
from quantize import quantize
from tests.support.bundles import encode_documents, prompt_encoder
from tests.support.checkpoints import bpe_tokenizer, save_qwen2
from tests.support.shared import shared

SPECIAL = ["<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "\n", ".\n", " \x00", "\ufeff", "0"]

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
texts = st.lists(words | st.sampled_from(SPECIAL), max_size=30).map(" ".join)


@pytest.fixture(scope="module", params=["toy", "qwen2.5"])
def checkpoint(request, tmp_path_factory) -> Path:
    """A checkpoint with a toy tokenizer, and one with the family's real tokenizer."""
    directory = tmp_path_factory.mktemp("prompt") / request.param
    if request.param == "toy":
        return save_qwen2(directory, bpe_tokenizer())
    real = Tokenizer.from_file(str(shared("tokenizers/qwen2.5/tokenizer.json")))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return save_qwen2(directory, real, vocab_size=151936, **small)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path):
    target = checkpoint.with_name(checkpoint.name + ".fp32")
    return quantize(checkpoint, target, precision="fp32")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> MxbaiRerankV2:
    return MxbaiRerankV2(str(checkpoint), device="cpu")


@settings(deadline=None, max_examples=40)
@given(
    query=texts,
    documents=st.lists(texts, min_size=1, max_size=3, unique=True),
    instruction=st.none() | texts,
    max_length=st.sampled_from([16, 33, 100, 4000, 8192]),
)
def test_mxbai_token_ids_are_those_of_its_package(
    bundle, reference, query, documents, instruction, max_length
):
    max_length = min(max_length, bundle.manifest.max_length_limit)
    reference.max_length = max_length
    reference.prepare_predefined_inputs()
    expected = reference.prepare_inputs(
        [query] * len(documents), documents, instruction=instruction
    )
    encoded = encode_documents(prompt_encoder(bundle, max_length), query, documents, instruction)
    assert encoded.document_index == list(range(len(documents)))
    for sequence, ids, mask in zip(
        encoded.sequences, expected["input_ids"], expected["attention_mask"], strict=True
    ):
        ours = np.concatenate([encoded.query.ids, sequence.ids])
        assert ours.tolist() == ids[mask.bool()].tolist()


def test_the_longest_allowed_length_is_the_packages(bundle, reference):
    reference.max_length = 10**9
    reference.prepare_predefined_inputs()
    assert bundle.manifest.max_length_limit == reference.max_length


def test_pieces_are_joined_as_ids_and_not_as_text():
    tokenizer = Tokenizer.from_file(str(shared("tokenizers/qwen2.5/tokenizer.json")))
    pieces = ["query: why.", "\n", "document: so"]
    apart = [token for piece in pieces for token in tokenizer.encode(piece).ids]
    assert apart != tokenizer.encode("".join(pieces)).ids


@settings(deadline=None, max_examples=100)
@given(
    query=texts,
    documents=st.lists(texts, min_size=1, max_size=4, unique=True),
    max_length=st.sampled_from([16, 17, 60, 128]),
)
def test_pairs_are_cut_as_the_tokenizers_library_does(
    cross_encoder, bundles, query, documents, max_length
):
    reference = Tokenizer.from_file(str(cross_encoder / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(max_length, strategy="longest_first")
    encoder = prompt_encoder(read_bundle(bundles / "cross-encoder.fp32"), max_length)
    encoded = encode_documents(encoder, query, documents)
    for sequence, document in zip(encoded.sequences, documents, strict=True):
        expected = reference.encode(query, document)
        assert sequence.ids.tolist() == expected.ids
        assert sequence.types.tolist() == expected.type_ids


@settings(deadline=None, max_examples=50)
@given(query=texts, documents=st.lists(texts, max_size=4, unique=True))
def test_embedded_texts_are_cut_as_the_tokenizers_library_does(
    embedding, bundles, query, documents
):
    reference = Tokenizer.from_file(str(embedding / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(24)
    encoder = prompt_encoder(read_bundle(bundles / "embedding.fp32"), 24)
    encoded = encode_documents(encoder, query, documents)
    assert encoded.query.ids.tolist() == reference.encode(query).ids
    for sequence, document in zip(encoded.sequences, documents, strict=True):
        assert sequence.ids.tolist() == reference.encode(document).ids


def test_published_token_ids_of_bert_come_out(tmp_path, embedding):
    published = json.loads(shared("tokenizers/golden/golden.json").read_bytes())
    real = shared("tokenizers/bert-base-uncased/tokenizer.json")
    bundle = quantize(embedding, tmp_path / "bundle", precision="fp32")
    (tmp_path / "bundle" / "tokenizer.json").write_bytes(real.read_bytes())
    encoder = prompt_encoder(bundle, 128)
    cases = [case for case in published["Xenova/bert-base-uncased"] if not case.get("text_pair")]
    assert len(cases) > 5
    for case in cases:
        assert encoder.encode(case["text"], {}).query.ids.tolist() == case["ids"]
