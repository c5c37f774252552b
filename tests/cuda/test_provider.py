"""ONNX Runtime's own provider for CUDA, on a machine without a GPU.

onnxruntime-gpu is in an environment of its own. Libraries of the test's stand in for CUDA's, the
driver and NVML: the provider places operators, moves data and fails as it does on a GPU, and
computes nothing. So this shows where graphs run and what is copied, and no score.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.gpus import compile_nvml
from tests.support.kernels import compile_library
from tests.support.variants import with_variants

HERE = ROOT / "tests/cuda"
PYTHON = ROOT / ".venv/cuda/bin/python"  # `make test-cuda` makes it

PROGRAM = r"""
import ctypes, json, sys
from edgerank import EdgerankError, Reranker, session
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.cuda import cuda_version
from edgerank.documents import make_pairs
from edgerank.engine import Engine
from edgerank.manifest import CUDA_PROVIDER

decoder, embedding = sys.argv[1:]
runtime = ctypes.CDLL(f"libcudart.so.{cuda_version().partition('.')[0]}")
for name in ("stand_in_copies", "stand_in_bytes"):
    getattr(runtime, name).restype = ctypes.c_size_t
documents = ["Frank Herbert", "Paris, since 987. " * 30, "? " * 400, "", "Dune"]
told = {}

def refusal(attempt):
    try:
        attempt()
    except EdgerankError as error:
        return f"{type(error).__name__}: {error}"

int8 = read_bundle(DEFAULT_BUNDLE)
graph = int8.graph_path(int8.manifest.variants[0])
told["int8"] = refusal(lambda: Engine(graph, [], threads=1, provider=CUDA_PROVIDER))

places = {}
def note(opened, provider, check=session.check_placement):
    for part in opened.get_provider_graph_assignment_info():
        places.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    check(opened, provider)
session.check_placement = note
reranker = Reranker(decoder, providers=["cuda"], max_batch_tokens=64)
told["places"] = places
told["variant"] = str(reranker.variant)
prepared = reranker.prepare(make_pairs("who wrote dune?", documents))
runs = list(reranker.steps(prepared.groups, prepared.output))
runtime.stand_in_reset()
runs = list(reranker.steps(prepared.groups, prepared.output))
told["cached"] = sum(len(batch.cache_rows) > 0 for batch, _ in runs)
told["results"] = [raw.nbytes for _, raw in runs]
told["copies"] = runtime.stand_in_copies(2)
told["bytes"] = runtime.stand_in_bytes(2)
told["default tokens"] = Reranker(decoder, providers=["cuda"]).max_batch_tokens
told["second GPU"] = refusal(lambda: Reranker(decoder, providers=["cuda"], device=9))

told["cuDNN"] = refusal(lambda: Reranker(embedding, providers=["cuda"]).score("a", ["b"]))

runtime.stand_in_fail(35)
told["failure"] = refusal(lambda: Reranker(decoder, providers=["cuda"]))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment that has onnxruntime-gpu."""
    if sys.platform != "linux" or not PYTHON.exists() or shutil.which("nm") is None:
        pytest.skip("`make test-cuda` installs onnxruntime-gpu and runs this; it needs nm")
    return PYTHON


@pytest.fixture(scope="module")
def libraries(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what stands in for CUDA, for the driver and for NVML."""
    directory = tmp_path_factory.mktemp("cuda")
    code = "import onnxruntime as o; print(o.__file__, o.cuda_version.partition('.')[0])"
    module, major = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    provider = Path(module).parent / "capi/libonnxruntime_providers_cuda.so"
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", provider], check=True, capture_output=True, text=True
    ).stdout
    own = (HERE / "stand_in.c").read_text()
    wanted = sorted(set(re.findall(r" U ((?:__cuda|cu)\w+)", listed)))
    others = [name for name in wanted if not re.search(rf"\b{name}\(", own)]
    source = own + "".join(f"int {name}(void) {{ return 0; }}\n" for name in others)
    compile_library(directory / f"libcudart.so.{major}", source=source)
    empty = (f"libcublas.so.{major}", f"libcublasLt.so.{major}", "libcurand.so.10", "libcuda.so.1")
    for name in empty:
        compile_library(directory / name, source="int stand_in_of_nothing;\n")
    compile_nvml(directory / "libnvidia-ml.so.1")
    return directory


def run(python: Path, libraries: Path | None, code: str, *arguments: Path) -> str:
    """Run code where onnxruntime-gpu is; return what it prints."""
    hidden = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told(python: Path, libraries: Path, bundles: Path, tmp_path_factory: pytest.TempPathFactory):
    """What the provider does with a decoder, an embedding model and an int8 graph."""
    work = tmp_path_factory.mktemp("bundles")
    made = [
        with_variants(bundles / f"{name}.fp32", work / name, "cuda-fp32")
        for name in ("qwen2", "embedding")
    ]
    return json.loads(run(python, libraries, PROGRAM, *made))


def test_a_graph_of_float_operators_is_placed_on_the_gpu_but_for_its_shapes(told):
    assert told["variant"].startswith("cuda-fp32 on CUDAExecutionProvider: ")
    assert "MatMul" in told["places"]["CUDAExecutionProvider"]
    on_the_cpu = told["places"].get("CPUExecutionProvider", [])
    assert set(on_the_cpu) <= {"Squeeze", "Concat", "Shape", "Gather", "Unsqueeze"}


def test_an_int8_graph_is_refused_with_the_operators_that_cuda_lacks(told):
    assert told["int8"].startswith("ProviderError: CUDAExecutionProvider of onnxruntime ")
    assert "has no kernel for operators of the graph" in told["int8"]
    assert "com.microsoft.MatMulIntegerToFloat (" in told["int8"]


def test_only_results_are_copied_from_the_gpu(told):
    assert told["cached"] > 2
    assert told["copies"] == len(told["results"])
    assert told["bytes"] == sum(told["results"])


def test_a_micro_batch_is_as_the_card_s_free_memory_allows(told):
    assert told["default tokens"] == 7936  # four fifths of 5 GiB, less the weights


def test_what_a_gpu_lacks_or_fails_at_is_an_error_with_what_to_do(told):
    assert "GPU 9 is not there: this process sees 2" in told["second GPU"]
    assert told["cuDNN"].startswith("ProviderError: ")
    assert "pip install 'edgerank[cuda]'" in told["cuDNN"]
    assert "CUDA failure 35: the stand-in fails" in told["failure"]
    assert told["failure"].startswith("ProviderError: ")
