"""Cross-encoders of sentence-transformers 6, modular and by a decoder's logits, as saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.bundle import Bundle, read_bundle
from edgerank.errors import InputError
from quantize import quantize
from quantize.errors import QuantizeError
from tests.libraries.environment import needs, run_program
from tests.libraries.texts import DOCUMENTS, INSTRUCTED, INSTRUCTION, QUERIES
from tests.support.bundles import encode_documents, only_variant, prompt_encoder

pytestmark = needs("libraries")

TOLERANCE = 1e-4
CASES = {  # by name: family, architecture
    "ettin": ("cross-encoder", "modernbert"),
    "modernbert-mean": ("cross-encoder", "modernbert"),
    "bert": ("cross-encoder", "bert"),
    "bert-mean": ("cross-encoder", "bert"),
    "xlm-roberta": ("cross-encoder", "xlmroberta"),
    "mpnet": ("cross-encoder", "mpnet"),
    "deberta": ("cross-encoder", "debertav2"),
    "deberta-mean": ("cross-encoder", "debertav2"),
    "qwen3-lasttoken": ("cross-encoder", "qwen3"),
    "logit-qwen3": ("logit-score", "qwen3"),
    "logit-qwen3-default": ("logit-score", "qwen3"),
    "logit-zerank": ("logit-score", "qwen3"),
    "logit-mxbai": ("logit-score", "qwen2"),
    "logit-pair": ("logit-score", "llama"),
    "classifier-chat": ("qwen3-reranker", "qwen3"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cross-encoders")


@pytest.fixture(scope="module")
def expected(work: Path) -> Any:
    """What sentence-transformers gives, by case, without and with an instruction."""
    return run_program("with_cross_encoder", work)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(expected: Any, work: Path, case: str) -> Bundle:
    return quantize(work / case, work / f"{case}.fp32", precision="fp32")


def asked(case: str) -> list[tuple[str, str | None]]:
    return [("plain", None), *([("instructed", INSTRUCTION)] if case in INSTRUCTED else [])]


def test_it_is_recognised(bundle, case):
    assert (bundle.manifest.family, bundle.manifest.architecture) == CASES[case]


def test_token_ids_are_those_of_sentence_transformers(bundle, expected, case):
    encoder = prompt_encoder(bundle, bundle.manifest.max_length)
    for name, instruction in asked(case):
        ids = iter(expected[case][name]["ids"])
        for query in QUERIES:
            for document in DOCUMENTS:
                encoded = encode_documents(encoder, query, [document], instruction)
                found = [*encoded.query.ids, *encoded.sequences[0].ids]
                assert found == next(ids), (name, query[:30], document[:30])


def test_scores_are_those_of_sentence_transformers(bundle, expected, case):
    reranker = Reranker(bundle.directory)
    for name, instruction in asked(case):
        scores = [reranker.score(query, DOCUMENTS, instruction=instruction) for query in QUERIES]
        found = expected[case][name]["scores"]
        np.testing.assert_allclose(np.concatenate(scores), found, atol=TOLERANCE)
        assert np.std(found) > 100 * TOLERANCE, "the scores must differ to tell anything"


@pytest.mark.parametrize("case", sorted(CASES.keys() - set(INSTRUCTED)))
def test_a_model_without_prompts_refuses_an_instruction(expected, work, case):
    bundle = quantize(work / case, work / f"{case}.refuses", precision="fp32")
    with pytest.raises(InputError, match="takes none"):
        Reranker(bundle.directory).score("a", ["b"], instruction=INSTRUCTION)


@pytest.mark.parametrize(
    "case", ["ettin", "bert-mean", "deberta", "qwen3-lasttoken", "logit-qwen3", "logit-mxbai"]
)
def test_int8_stays_close(expected, work, case):
    """Random weights take rounding badly: documents hardly differ, so errors weigh much."""
    fidelity = only_variant(quantize(work / case, work / f"{case}.int8").directory).fidelity
    assert max(fidelity.layers) < 0.06
    assert fidelity.mean_error < 0.35 * fidelity.spread
    assert fidelity.kendall_tau > 0.75


def changed(work: Path, case: str, name: str, **settings: object) -> Path:
    """Copy a checkpoint with other settings in one of its files; None removes one."""
    copy = work / f"{case}.changed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(work / case, copy)
    path = copy / name
    found = {**json.loads(path.read_text()), **settings} if path.exists() else settings
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return copy


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "1_Pooling/config.json",
            {
                "pooling_mode": None,
                "pooling_mode_cls_token": True,
                "pooling_mode_max_tokens": False,
            },
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["cls"]}),
        (
            "2_Dense/config.json",
            {"activation_function": "torch.nn.GELU", "module_output_name": None},
        ),
        (
            "config.json",
            {
                "rope_parameters": None,
                "layer_types": None,
                "global_rope_theta": 160000.0,
                "local_rope_theta": 10000.0,
                "global_attn_every_n_layers": 3,
            },
        ),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.Identity"}),
    ],
)
def test_files_of_other_versions_mean_the_same(expected, work, name, settings):
    checkpoint = changed(work, "ettin", name, **settings)
    quantize(checkpoint, work / "version", precision="fp32")
    scores = Reranker(work / "version").score(QUERIES[0], DOCUMENTS)
    found = expected["ettin"]["plain"]["scores"][: len(DOCUMENTS)]
    np.testing.assert_allclose(scores, found, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "name", "settings", "reason"),
    [
        ("ettin", "1_Pooling/config.json", {"pooling_mode": "max"}, "'max' is not supported"),
        ("ettin", "1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken of decoders"),
        ("qwen3-lasttoken", "1_Pooling/config.json", {"pooling_mode": "mean"}, "for Qwen3"),
        ("ettin", "1_Pooling/config.json", {"include_prompt": False}, "without the prompt's"),
        (
            "ettin",
            "2_Dense/config.json",
            {"activation_function": "transformers.activations.GELUActivation"},
            "those of torch.nn called GELU",
        ),
        ("ettin", "2_Dense/config.json", {"in_features": 32}, "in_features is 32"),
        ("ettin", "2_Dense/config.json", {"module_output_name": "scores"}, "only chains"),
        ("ettin", "4_Dense/config.json", {"module_output_name": None}, "exactly one in 'scores'"),
        ("ettin", "config_sentence_transformers.json", {"activation_fn": "my.Fn"}, "'my.Fn'"),
        ("logit-zerank", "1_LogitScore/config.json", {"true_token_id": 9454}, "names token 9454"),
        (
            "logit-zerank",
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"max_length": 9}}},
            "for the variables of the chat template alone",
        ),
    ],
)
def test_what_is_not_supported_is_refused_with_a_reason(
    expected, work, case, name, settings, reason
):
    with pytest.raises(QuantizeError, match=reason):
        quantize(changed(work, case, name, **settings), work / "refused", precision="fp32")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "the query once"),
        ("{{ messages[0].content }} {{ messages[1].content[:5] }} x", "the query once"),
        ("{{ messages[0].content }} {{ messages[1].content or 'none' }} x", "more than put text"),
        ("{{ messages[1].content }} {{ messages[0].content }} x", "the query once, then"),
        ("{{ messages[0].content }}{{ messages[1].content }}", "where a token always begins"),
        ("{{ messages[0].content }} {{ messages[1].content }} {document}", "{document}"),
        ("{% if %}", "jinja2 cannot read it"),
        ("{{ raise_exception('no roles') }}", "no roles"),
        ("{{ messages.append(1) }}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered|the query once"),
    ],
)
def test_a_template_that_is_not_text_around_texts_is_refused(expected, work, template, reason):
    copy = changed(work, "logit-zerank", "tokenizer_config.json")
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(QuantizeError, match=reason):
        quantize(copy, work / "refused", precision="fp32")


def test_modules_of_ones_own_are_refused_unless_a_family_is_named(expected, work):
    copy = changed(work, "logit-qwen3", "tokenizer_config.json")
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "modeling_own.ScaledScore"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(QuantizeError, match="--family NAME passes over them"):
        quantize(copy, work / "refused", precision="fp32")


def test_jinja_is_no_part_of_the_runtime(bundle):
    manifest = (bundle.directory / "edgerank.json").read_text()
    assert "{%" not in manifest and "messages" not in manifest
    assert read_bundle(bundle.directory).manifest == bundle.manifest
