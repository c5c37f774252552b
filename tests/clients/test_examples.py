"""The examples with frameworks, in the clients' environment."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.clients.environment import PYTHON, SETTINGS, TIMEOUT_S, needs_clients
from tests.support import ROOT

pytestmark = needs_clients

ASK_THE_APP = """
import json
from fastapi.testclient import TestClient
from examples.fastapi_app import app

documents = ["Paris is the capital of France.", "Dune is a novel by Frank Herbert."]
with TestClient(app) as client:
    asked = {"query": "who wrote dune?", "documents": documents, "top_k": 1}
    blank = client.post("/search", json={**asked, "query": " "})
    print(json.dumps([client.post("/search", json=asked).json(), blank.status_code, blank.json()]))
"""


def output_of(*arguments: str) -> str:
    done = subprocess.run(
        [PYTHON, *arguments],
        cwd=ROOT,
        env={**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "example", ["haystack_pipeline", "langchain_retriever", "llama_index_query"]
)
def test_an_example_keeps_the_document_that_answers(example):
    (line,) = output_of(f"examples/{example}.py").splitlines()
    assert "Frank Herbert" in line


def test_the_prompt_has_the_sources_that_answer():
    prompt = output_of("examples/rag_qdrant.py")
    assert "[1] Dune is a novel of 1965. Its author, Frank Herbert" in prompt
    assert "[3]" not in prompt
    assert prompt.endswith("Question: Who wrote the novel Dune?\n")


def test_the_application_ranks_and_refuses_a_blank_query():
    answer, status, refusal = json.loads(output_of("-c", ASK_THE_APP).splitlines()[-1])
    assert [found["index"] for found in answer] == [1]
    assert status == 422
    assert "query: it is blank" in refusal["detail"]
