"""The environment that has the clients, and how its programs are run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.ask import Ask, Told
from tests.support import ROOT

PYTHON = Path(os.environ.get("EDGERANK_CLIENTS", ROOT / ".venv/clients")) / "bin/python"
SETTINGS = {  # nothing is fetched or sent
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
TIMEOUT_S = 300
TOLERANCE = 1e-6  # of scores
TOKEN = "a-token-of-the-tests"
QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965",
    "Paris, since 987",
    "a list of documents and relevance " * 12,
    "a book",
]

needs_clients = pytest.mark.skipif(
    not PYTHON.exists(), reason="needs the clients' environment: make test-clients"
)


def ask_all(module: str, program: str, asks: list[Ask]) -> list[Told]:
    """Make calls with one client, in a process of its own."""
    done = subprocess.run(
        [PYTHON, "-m", f"tests.clients.{module}", program],
        input=json.dumps([ask.to_json() for ask in asks]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **SETTINGS},
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return [Told(**told) for told in json.loads(done.stdout.splitlines()[-1])]
