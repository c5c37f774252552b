"""What is imported when: the runtime stays lean and offline, and the packages stay apart."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgerank
from tests.support import ROOT

HEAVY = {
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "numba",
    "google",
    "grpc",
    "prometheus_client",
    "huggingface_hub",
    "bm25s",
    "ir_measures",
    "pytrec_eval",
    "scipy",
    "click",
    "typer",
    "rich",
    "quantize",
}
FRAMEWORKS = ["torch", "transformers", "optimum", "sentence_transformers"]
RANK = """
from edgerank import Reranker
hits = Reranker.open(sys.argv[1], verify=True).rank("who wrote dune?", ["Frank Herbert", "Paris"])
assert len(hits) == 2
"""
NO_SOCKETS = """
def forbid(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event}{arguments}")

sys.addaudithook(forbid)
"""


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{code}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def loaded_by(code: str, *arguments: str | Path) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    report = "import json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = run(f"{code}\n{report}", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout))


def test_importing_edgerank_loads_nothing_heavy():
    loaded = loaded_by("import edgerank")
    assert "edgerank" in loaded
    assert loaded & HEAVY == set()


def test_ranking_loads_nothing_heavy(bundles):
    loaded = loaded_by(RANK, bundles / "cross-encoder.int8")
    assert "onnxruntime" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", ["qwen2.int8", "cross-encoder.int8", "embedding.int8"])
def test_ranking_opens_no_socket(bundles, name):
    done = run(NO_SOCKETS + RANK, bundles / name)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ban_on_sockets_would_be_noticed():
    done = run(NO_SOCKETS + "import socket; socket.getaddrinfo('localhost', 80)")
    assert done.returncode != 0
    assert "RuntimeError: socket.getaddrinfo" in done.stderr


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the full name of every module, or member of one, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(ROOT).parts
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> dict[str, set[str]]:
    """Imports of every file of a package, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): set(imported_modules(path))
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_only_two_commands_import_quantize():
    importers = {
        file
        for file, modules in imports_of("edgerank").items()
        if any(within(module, "quantize") for module in modules)
    }
    assert importers == {"edgerank/cli/families.py", "edgerank/cli/quantize.py"}


def test_only_the_eval_command_imports_evaluation():
    importers = {
        file
        for file, modules in imports_of("edgerank").items()
        if any(within(module, "edgerank.evaluation") for module in modules)
        and not file.startswith("edgerank/evaluation/")
    }
    assert importers == {"edgerank/cli/eval.py"}


def test_only_the_serve_command_imports_the_server():
    importers = {
        file
        for file, modules in imports_of("edgerank").items()
        if any(within(module, "edgerank.serving") for module in modules)
        and not file.startswith("edgerank/serving/")
    }
    assert importers == {"edgerank/cli/serve.py"}


def test_grpc_is_loaded_with_the_first_client_and_no_sooner():
    assert "grpc" not in loaded_by("from edgerank import *")
    assert "grpc" in loaded_by("import edgerank; edgerank.Client, edgerank.AsyncClient")


def test_a_client_without_grpc_says_what_to_install():
    done = run("sys.modules['grpc'] = None; from edgerank import Client")
    assert "pip install 'edgerank[client]'" in done.stderr


def test_the_command_line_loads_no_library_of_a_single_command():
    loaded = loaded_by("import edgerank.cli")
    assert "click" in loaded
    assert loaded & HEAVY == {"click"}


def test_quantize_imports_the_runtime_that_it_measures_but_no_command_line():
    files = imports_of("quantize")
    imported = {
        module for modules in files.values() for module in modules if within(module, "edgerank")
    }
    assert any(within(module, "edgerank.reranker") for module in imported)
    assert not any(within(module, "edgerank.cli") for module in imported)


@pytest.mark.parametrize("package", ["edgerank", "quantize"])
@pytest.mark.parametrize("banned", FRAMEWORKS)
def test_no_module_but_export_and_training_imports_a_training_framework(package, banned):
    files = imports_of(package)
    assert f"{package}/__init__.py" in files
    for file, modules in files.items():
        if file != "quantize/optimum/export.py" and not file.startswith("quantize/training/"):
            assert not any(within(module, banned) for module in modules), file


def test_the_pipeline_loads_a_training_framework_only_to_export():
    loaded = loaded_by("import quantize.optimum.export, quantize.pipeline")
    assert "quantize" in loaded
    assert loaded.isdisjoint(FRAMEWORKS)


def test_the_public_names_are_pinned_sorted_and_there():
    assert edgerank.__all__ == [
        "BundleError",
        "EdgerankError",
        "Hit",
        "InputError",
        "ProviderError",
        "Reranker",
        "ServerError",
    ]
    assert edgerank.__all__ == sorted(edgerank.__all__)
    assert all(hasattr(edgerank, name) for name in edgerank.__all__)


def test_every_benchmark_finds_what_it_imports():
    files = [path for path in (ROOT / "benchmarks").rglob("[a-z]*.py") if not is_worker(path)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files)]
    assert len(names) > 10
    assert "benchmarks.peers.comparison" in names
    subprocess.run([sys.executable, "-c", f"import {', '.join(names)}"], check=True, cwd=ROOT)


def is_worker(path: Path) -> bool:
    """Tell a peer's script, which its own environment runs."""
    return path.parent.name == "workers"


def test_workers_import_a_peer_only_when_they_are_asked_to_run():
    """So that a worker fails, if at all, while somebody listens, and its import can be timed."""
    scripts = [path for path in (ROOT / "benchmarks/peers").rglob("*.py") if is_worker(path)]
    assert len(scripts) > 3
    for path in scripts:
        modules = {
            name.split(".")[0]
            for node in ast.parse(path.read_bytes()).body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert modules <= {*sys.stdlib_module_names, "worker"}, path.name
