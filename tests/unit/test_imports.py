"""Which part of the project imports which, and what a process loads that uses little of it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires

import pytest

import edgerank
from tests.support import ROOT
from tests.support.imports import importers_of, imports_of, loaded_by, packages, run, within

TRANSPORTS = {
    "edgerank.serving.grpc",
    "edgerank._proto",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "google.rpc",
    "starlette",
    "uvicorn",
    "fastapi",
    "aiohttp",
    "httpx",
    "http.server",
}
FRAMEWORKS = {"torch", "transformers", "optimum", "sentence_transformers"}
HEAVY = FRAMEWORKS | {
    "onnx",
    "numba",
    "pandas",
    "pyarrow",
    "ray",
    "google",
    "grpc",
    "prometheus_client",
    "huggingface_hub",
    "minisign",
    "cryptography",
    "cyclonedx",
    "packaging",
    "bm25s",
    "ir_measures",
    "pytrec_eval",
    "scipy",
    "click",
    "typer",
    "rich",
    "quantize",
}
RANK = """
from edgerank import Reranker
hits = Reranker(verify=True).rank("who wrote dune?", ["Frank Herbert", "Paris"])
assert len(hits) == 2
"""
NO_SOCKETS = """
def forbid(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event}{arguments}")

sys.addaudithook(forbid)
"""


# Rules of the source


@pytest.mark.parametrize(
    "package", ["airgap", "batch", "serving", "client", "cli", "evaluation", "integrations"]
)
def test_the_runtime_imports_nothing_that_is_built_on_it(package):
    importers = importers_of(f"edgerank.{package}", "edgerank/*.py")
    assert importers <= {"edgerank/__init__.py", "edgerank/__main__.py", "edgerank/ray.py"}


def test_only_two_commands_import_quantize():
    importers = importers_of("quantize", "edgerank/**/*.py")
    assert importers == {"edgerank/cli/families.py", "edgerank/cli/quantize.py"}


@pytest.mark.parametrize(
    ("package", "commands"),
    [
        ("airgap", {"edgerank/cli/pack.py", "edgerank/cli/verify.py"}),
        ("batch", {"edgerank/cli/batch.py", "edgerank/ray.py"}),
        ("evaluation", {"edgerank/cli/eval.py"}),
        ("serving", {"edgerank/cli/serve.py"}),
    ],
)
def test_only_its_own_commands_import(package, commands):
    importers = importers_of(f"edgerank.{package}", "edgerank/**/*.py")
    assert {file for file in importers if not file.startswith(f"edgerank/{package}/")} == commands


def test_serving_imports_no_transport_but_in_the_package_of_one():
    assert importers_of("grpc", "edgerank/serving/grpc/*.py")
    importers = {name: importers_of(name, "edgerank/serving/*.py") for name in TRANSPORTS}
    assert importers == {name: set() for name in TRANSPORTS}


def test_quantize_imports_the_runtime_that_it_measures_but_no_command_line():
    assert importers_of("edgerank.reranker", "quantize/**/*.py")
    assert importers_of("edgerank.cli", "quantize/**/*.py") == set()


@pytest.mark.parametrize("package", ["edgerank", "quantize"])
@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_no_module_but_export_and_training_imports_a_training_framework(package, framework):
    importers = importers_of(framework, f"{package}/**/*.py")
    allowed = ("quantize/optimum/export.py", "quantize/training/")
    assert {file for file in importers if not file.startswith(allowed)} == set()


@pytest.mark.parametrize(
    ("framework", "adapter"),
    [
        ("haystack", "haystack"),
        ("langchain_core", "langchain"),
        ("llama_index", "llama_index"),
        ("rerankers", "rerankers"),
    ],
)
def test_only_its_adapter_imports_a_framework(framework, adapter):
    importers = importers_of(framework, "edgerank/**/*.py")
    assert importers == {f"edgerank/integrations/{adapter}.py"}


def test_these_tests_import_what_edgerank_itself_requires_and_no_more():
    core = [line for line in requires("edgerank") or () if "extra ==" not in line]
    required = {re.split(r"[^\w.-]", line)[0] for line in core}
    assert "numpy" in required
    allowed = {*sys.stdlib_module_names, *required, "edgerank", "pytest", "hypothesis"}
    for file, modules in imports_of("tests/unit/*.py").items():
        others = {module for module in modules if module.split(".")[0] not in allowed}
        assert {m for m in others if not within(m, "tests.support")} == set(), file


# What a process loads


def test_importing_edgerank_loads_nothing_heavy():
    loaded = packages(loaded_by("import edgerank"))
    assert "edgerank" in loaded
    assert loaded & HEAVY == set()


def test_ranking_loads_nothing_heavy_and_opens_no_socket():
    loaded = packages(loaded_by(NO_SOCKETS + RANK))
    assert "onnxruntime" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.skipif(sys.platform != "linux", reason="where it writes is known for Linux")
def test_ranking_leaves_no_telemetry_of_onnx_runtime_behind(tmp_path):
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    code = "import sys; sys.path.insert(0, sys.argv[1])\n" + RANK
    command = [sys.executable, "-c", code, str(ROOT)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list(tmp_path.rglob("*")) == []


def test_the_ban_on_sockets_would_be_noticed():
    done = run(NO_SOCKETS + "import socket; socket.getaddrinfo('localhost', 80)")
    assert done.returncode != 0
    assert "RuntimeError: socket.getaddrinfo" in done.stderr


def test_the_engine_is_loaded_with_the_first_reranker_and_no_sooner():
    assert packages(loaded_by("import edgerank")).isdisjoint({"onnxruntime", "tokenizers"})
    loaded = packages(loaded_by("import edgerank; edgerank.Reranker"))
    assert loaded >= {"onnxruntime", "tokenizers"}


def test_a_client_without_grpc_says_what_to_install():
    done = run("sys.modules['grpc'] = None; from edgerank import Client")
    assert "pip install 'edgerank[client]'" in done.stderr


def test_the_command_line_loads_no_library_of_a_single_command():
    loaded = packages(loaded_by("import edgerank.cli"))
    assert "click" in loaded
    assert loaded & HEAVY == {"click"}


def test_the_public_names_are_pinned_sorted_and_there():
    assert edgerank.__all__ == [
        "BatchError",
        "Bundle",
        "BundleError",
        "DeadlineExceeded",
        "Document",
        "DocumentStore",
        "EdgerankError",
        "Hit",
        "InputError",
        "LongDocuments",
        "Overloaded",
        "ProviderError",
        "RequestTooLarge",
        "Reranker",
        "ServerError",
        "ServerFailure",
        "StoreError",
        "Unauthenticated",
        "Unavailable",
        "UnknownModel",
    ]
    assert edgerank.__all__ == sorted(edgerank.__all__)
    assert all(hasattr(edgerank, name) for name in edgerank.__all__)
