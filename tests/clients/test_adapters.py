"""``edgerank.integrations`` in the frameworks' own packages; ``adapters.py`` has what each does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.integrations.sentence_transformers import CrossEncoder
from quantize import quantize
from tests.clients.ask import Ask
from tests.clients.environment import (
    DOCUMENTS,
    QUERY,
    TOKEN,
    TOLERANCE,
    ask_all,
    needs_clients,
)
from tests.project.test_docs import INTEGRATIONS, NAMES, SERVER, python_of
from tests.support.serving import ServerProcess

pytestmark = needs_clients

ASK = Ask(
    query=QUERY,
    documents=DOCUMENTS,
)
FRAMEWORKS = ["haystack", "langchain", "llama_index", "rerankers"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Calls of a server that asks for a token and whose first model is not the one asked."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    models = ("--model", f"other={DEFAULT_BUNDLE}", "--model", f"default={DEFAULT_BUNDLE}")
    with ServerProcess(*models, "--tokens", tokens) as server:
        yield replace(ASK, address=server.address, token=TOKEN, model="default")


@pytest.mark.parametrize("framework", [*FRAMEWORKS, "sentence_transformers"])
def test_an_adapter_gives_the_embedded_scores_embedded_and_served(served, framework, monkeypatch):
    monkeypatch.setenv("EDGERANK_TOKEN", TOKEN)
    asks = [
        ASK,
        replace(ASK, bundle=str(DEFAULT_BUNDLE)),
        served,
        replace(ASK, query=" "),
        replace(ASK, bundle="no/such/bundle"),
        replace(served, query=" "),
        replace(served, model="no such model"),
    ]
    opened, path, server, blank, no_bundle, served_blank, no_model = ask_all(
        "adapters", framework, asks
    )
    normalize = framework in FRAMEWORKS
    expected = Reranker().score(ASK.query, ASK.documents, normalize=normalize)
    for told in (opened, path, server):
        np.testing.assert_allclose(told.scores, expected, atol=TOLERANCE)
        assert told.ranking == np.argsort(-expected).tolist()
    in_pipelines = "haystack.core.errors.PipelineRuntimeError" if framework == "haystack" else None
    for told in (blank, served_blank):
        assert told.error == (in_pipelines or "edgerank.errors.InputError"), told
        assert "query: it is blank" in told.message
    assert no_bundle.error == "edgerank.errors.BundleError"
    if normalize:  # CrossEncoder names no model
        assert no_model.error == (in_pipelines or "edgerank.errors.UnknownModel"), no_model


def test_the_cross_encoder_scores_and_is_called_as_that_of_sentence_transformers(
    cross_encoder, tmp_path
):
    quantize(cross_encoder, tmp_path / "fp32", precision="fp32")
    [told] = ask_all("adapters", "real_cross_encoder", [replace(ASK, bundle=str(cross_encoder))])
    assert told.error is None, told
    ours = CrossEncoder(tmp_path / "fp32")
    pairs = [(ASK.query, document) for document in ASK.documents]
    theirs = told.answer
    np.testing.assert_allclose(ours.predict(pairs), theirs["predict"], atol=1e-5)
    assert ours.predict(pairs[0]) == pytest.approx(theirs["one"], abs=1e-5)
    ranked = ours.rank(ASK.query, ASK.documents, top_k=2, return_documents=True)
    for mine, other in zip(ranked, theirs["rank"], strict=True):
        assert mine == {**other, "score": pytest.approx(other["score"], abs=1e-5)}
    for name, (original, adapted) in theirs["arguments"].items():
        assert adapted == original, name


def test_the_python_of_the_adapters_page_runs():
    source = "\n".join(block.source for block in python_of(INTEGRATIONS))
    models = ("--model", DEFAULT_BUNDLE, "--model", f"small={DEFAULT_BUNDLE}")
    with ServerProcess(*models) as server:
        source = source.replace(SERVER, server.address)
        [told] = ask_all(
            "adapters", "page", [Ask(NAMES["query"], NAMES["documents"], source=source)]
        )
    assert told.error is None, told
    assert {"compressor", "postprocessor", "pipeline", "model", "ranker"} <= set(told.answer)
