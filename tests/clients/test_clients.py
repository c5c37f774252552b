"""Clients from PyPI, unchanged, as processes of their own, against a server's HTTP endpoint.

``programs.py`` has what each of them does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from quantize import quantize
from tests.clients.ask import Ask, Told
from tests.clients.environment import (
    DOCUMENTS,
    QUERY,
    TOKEN,
    TOLERANCE,
    ask_all,
    needs_clients,
)
from tests.support.serving import ServerProcess

pytestmark = needs_clients

ASK = Ask(
    query=QUERY,
    documents=DOCUMENTS,
    token=TOKEN,
    model="default",
)


@dataclass(frozen=True)
class Errors:
    """The classes of a client's errors."""

    model: str | None  # of one that is unknown; None: the client sends none
    query: str  # of one that is blank
    token: str  # of one that is unknown
    tells: bool = True  # whether they have the server's words


COHERE = Errors(
    "cohere.errors.not_found_error.NotFoundError",
    "cohere.errors.bad_request_error.BadRequestError",
    "cohere.errors.unauthorized_error.UnauthorizedError",
)
LITELLM = Errors(
    "litellm.exceptions.NotFoundError",
    "litellm.exceptions.BadRequestError",
    "litellm.exceptions.AuthenticationError",
)
RUNTIME = Errors("builtins.RuntimeError", "builtins.RuntimeError", "builtins.RuntimeError")
# rerankers and LlamaIndex's class for TEI look for scores in any answer
NO_RESULTS = Errors("builtins.KeyError", "builtins.KeyError", "builtins.KeyError", tells=False)
CLIENTS = {
    "cohere_v2": COHERE,
    "cohere_v1": COHERE,
    "voyageai": Errors(
        "voyageai.error.APIError",
        "voyageai.error.InvalidRequestError",
        "voyageai.error.AuthenticationError",
    ),
    "llama_index_tei": Errors(
        None, "builtins.AssertionError", "builtins.AssertionError", tells=False
    ),
    "llama_index_cohere": COHERE,
    "llama_index_jina": RUNTIME,
    "langchain_cohere": COHERE,
    "litellm_cohere": LITELLM,
    "litellm_hosted_vllm": LITELLM,
    "litellm_huggingface": Errors(None, "litellm.exceptions.APIError", LITELLM.token),
    "litellm_infinity": LITELLM,
    "litellm_jina_ai": LITELLM,
    "litellm_voyage": LITELLM,
    "haystack_tei": replace(RUNTIME, model=None),
    "haystack_jina": RUNTIME,
    "haystack_vllm": RUNTIME,
    "rerankers_cohere": NO_RESULTS,
    "rerankers_jina": NO_RESULTS,
    "rerankers_voyage": NO_RESULTS,
    "rerankers_tei": Errors(
        "builtins.TypeError", "builtins.TypeError", "builtins.TypeError", tells=False
    ),
    "curl": Errors(
        "subprocess.SubprocessError", "subprocess.SubprocessError", "subprocess.SubprocessError"
    ),
}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, embedding: Path) -> Path:
    """A bundle that encodes texts."""
    bundle = tmp_path_factory.mktemp("bundles") / "embedding"
    quantize(embedding, bundle, precision="int8")
    return bundle


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, embedder: Path) -> Iterator[str]:
    """A server that asks for a token."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    models = ("--model", f"default={DEFAULT_BUNDLE}", "--model", embedder)
    options = ("--http", "127.0.0.1:0", "--tokens", tokens)
    with ServerProcess(*models, *options) as server:
        yield f"http://{server.http}"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_the_embedded_scores_and_errors_in_its_own_classes(url, client):
    asks = [
        ASK,
        replace(ASK, model="no such model"),
        replace(ASK, query=" "),
        replace(ASK, token="no token of the server"),
    ]
    right, model, query, token = ask_all("programs", client, [replace(a, url=url) for a in asks])
    errors = CLIENTS[client]
    expected = Reranker().score(ASK.query, ASK.documents, normalize=True)
    np.testing.assert_allclose(right.scores, expected, atol=TOLERANCE)
    assert right.ranking == np.argsort(-expected).tolist()
    if errors.model is None:
        assert model == right
    else:
        assert_is_told(model, errors.model, errors, "no model has that name")
    assert_is_told(query, errors.query, errors, "query: it is blank")
    assert_is_told(token, errors.token, errors, "known token")


def assert_is_told(told: Told, error: str, errors: Errors, words: str) -> None:
    assert told.error == error, told
    assert words in told.message or not errors.tells


def test_embeddings_of_openai_s_client_are_those_of_the_embedded_reranker(url, embedder):
    ask = replace(ASK, url=url, model="embedding")
    right, model, reranks, token = ask_all(
        "programs",
        "openai_embeddings",
        [
            ask,
            replace(ask, model="no such"),
            replace(ask, model="default"),
            replace(ask, token="x"),
        ],
    )
    expected = Reranker(embedder).encode(ASK.documents)
    np.testing.assert_allclose(right.answer, expected, atol=TOLERANCE)
    assert model.error == "openai.NotFoundError"
    assert reranks.error == "openai.BadRequestError"
    assert token.error == "openai.AuthenticationError"
