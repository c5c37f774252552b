"""GPUs, CUDA's libraries and execution providers, on a machine that has none of them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import onnxruntime as ort
import pytest

from edgerank import ProviderError, cuda, gpu
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.cuda import CudaLibrary, look_at_cuda
from edgerank.gpu import Driver, Gpu, gpu_number, read_driver, visible_gpus
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER
from edgerank.providers import (
    RECORD_PLACEMENT,
    TENSORRT_PROVIDER,
    check_loaded,
    check_placement,
    session_providers,
)
from tests.support.gpus import compile_nvml
from tests.support.kernels import compile_library

GPU = Gpu("a card", 80 << 30, 60 << 30, (9, 0))
DRIVER = Driver("580.65", (13, 0), (GPU,))
CUDA_RUNTIME = """
int cudaRuntimeGetVersion(int* version) { *version = 13020; return 0; }
"""
CUDNN = """
unsigned long cudnnGetVersion(void) { return 91002; }
"""


@pytest.fixture
def nvml(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "LIBRARY", str(compile_nvml(tmp_path / "nvml.so")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


# the driver


def test_there_are_no_gpus_without_the_driver_s_library(monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARY", "libabsent.so.1")
    assert read_driver() is None
    assert visible_gpus() == ()


def test_a_driver_that_does_not_answer_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "LIBRARY", str(compile_nvml(tmp_path / "nvml.so", status=9)))
    assert read_driver() is None


def test_the_driver_tells_its_version_and_its_gpus(nvml):
    driver = read_driver()
    assert (driver.version, driver.cuda_version) == ("580.65", (13, 0))
    first, second = driver.gpus
    assert first == Gpu("first", 1 << 40, 5 << 30, (9, 0))
    assert (second.name, second.compute_capability) == ("second", (0, 0))
    assert str(first) == "first, 5.0 of 1024.0 GiB free, compute capability 9.0"


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("1", ["second"]),
        ("1,0", ["second", "first"]),
        ("GPU-second, 0", ["second", "first"]),
        ("0,7,1", ["first"]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_numbered_as_cuda_shows_them_to_the_process(nvml, monkeypatch, listed, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert [each.name for each in visible_gpus()] == names


def test_a_gpu_that_is_not_there_is_refused():
    assert gpu_number((GPU,), 0) is GPU
    with pytest.raises(ProviderError, match="GPU 1 is not there: this process sees 1, numbered"):
        gpu_number((GPU,), 1)


# what CUDA needs


def test_libraries_that_are_found_tell_their_versions(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    runtime = compile_library(tmp_path / "curand.so", source=CUDA_RUNTIME)
    cudnn = compile_library(tmp_path / "cudnn.so", source=CUDNN)
    monkeypatch.setattr(cuda, "CURAND", str(runtime))
    monkeypatch.setattr(cuda, "CUDNN", str(cudnn))
    found = {library.name: library for library in cuda.find_libraries("99.1")}
    assert found[str(runtime)] == CudaLibrary(str(runtime), True, True, "13.2")
    assert found[str(cudnn)] == CudaLibrary(str(cudnn), True, True, "9.10.2")
    assert found["libcublas.so.99"] == CudaLibrary("libcublas.so.99", True, False, None)
    assert list(cuda.find_libraries(None)) == []


@dataclass
class Machine:
    """What is installed, for ``look_at_cuda``."""

    packages: dict[str, str]
    built_for: str | None = None
    missing: tuple[str, ...] = ()

    def advice(self, monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> list[str]:
        libraries = [
            CudaLibrary(name, True, name not in self.missing, None)
            for name in ("libcuda.so.1", "libcublas.so.13", "libcudart.so.13")
        ]
        monkeypatch.setattr(cuda, "_installed", lambda: self.packages.items())
        monkeypatch.setattr(cuda, "cuda_version", lambda: self.built_for)
        monkeypatch.setattr(
            cuda, "find_libraries", lambda built_for: libraries if built_for else []
        )
        return list(look_at_cuda(driver).advice)


FOR_CPUS = Machine({"onnxruntime": "1.32"})
FOR_GPUS = Machine({"onnxruntime-gpu": "1.32"}, "13.0")


def test_nothing_is_advised_where_nothing_is_missing_or_wanted(monkeypatch):
    assert FOR_CPUS.advice(monkeypatch, None) == []
    assert FOR_GPUS.advice(monkeypatch, DRIVER) == []


@pytest.mark.parametrize(
    ("machine", "driver", "advice"),
    [
        (FOR_CPUS, DRIVER, ["there is a GPU, and .* pip install 'edgerank.cuda.'"]),
        (FOR_GPUS, None, ["no NVIDIA driver shows a GPU: install the driver"]),
        (
            Machine({"onnxruntime": "1.32", "onnxruntime-gpu": "1.32"}, "13.0"),
            DRIVER,
            ["both installed.* pip uninstall --yes onnxruntime && .*--no-deps onnxruntime-gpu"],
        ),
        (
            Machine({"onnxruntime-gpu": "1.32"}, "13.0", ("libcublas.so.13", "libcudart.so.13")),
            DRIVER,
            [r"^libcublas.so.13, libcudart.so.13 of CUDA 13.0 cannot be loaded: pip install"],
        ),
        (
            Machine({"onnxruntime-gpu": "1.32"}, "13.0", ("libcuda.so.1",)),
            None,
            ["no NVIDIA driver shows a GPU", "libcuda.so.1 cannot .* comes with the NVIDIA driver"],
        ),
        (
            FOR_GPUS,
            Driver("535.1", (12, 2), (GPU,)),
            ["the driver 535.1 runs CUDA up to 12.2, and onnxruntime-gpu is built for 13.0"],
        ),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(monkeypatch, machine, driver, advice):
    found = machine.advice(monkeypatch, driver)
    assert len(found) == len(advice)
    for said, expected in zip(found, advice, strict=True):
        assert re.search(expected, said), said


# providers


def test_a_session_is_asked_for_with_its_gpu_and_what_stands_behind_it():
    assert session_providers(CPU_PROVIDER, 3) == [CPU_PROVIDER]
    [(name, options), last] = session_providers(CUDA_PROVIDER, 3)
    assert (name, options["device_id"], last) == (CUDA_PROVIDER, "3", CPU_PROVIDER)
    [first, second, last] = session_providers(TENSORRT_PROVIDER, 1)
    assert (first[0], second[0], last) == (TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER)
    assert first[1]["device_id"] == second[1]["device_id"] == "1"


@pytest.fixture(scope="module")
def on_the_cpu():
    """A session of the model in the package, all of it on the CPU, that tells where nodes are."""
    bundle = read_bundle(DEFAULT_BUNDLE)
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    path = str(bundle.graph_path(bundle.manifest.variants[0]))
    return ort.InferenceSession(path, options, providers=[CPU_PROVIDER])


def test_a_provider_that_onnx_runtime_left_out_is_an_error(on_the_cpu, monkeypatch):
    monkeypatch.setattr(cuda, "cuda_version", lambda: "99.1")
    with pytest.raises(ProviderError) as raised:
        check_loaded(on_the_cpu, CUDA_PROVIDER)
    message = str(raised.value)
    assert message.startswith("CUDAExecutionProvider cannot be loaded: ")
    if sys.platform == "linux":
        assert "libcublas.so.99" in message
    assert "edgerank doctor" in message
    check_loaded(on_the_cpu, CPU_PROVIDER)


def test_operators_that_would_run_on_the_cpu_are_named(on_the_cpu):
    with pytest.raises(ProviderError) as raised:
        check_placement(on_the_cpu, CUDA_PROVIDER)
    message = str(raised.value)
    assert message.startswith(f"CUDAExecutionProvider of onnxruntime {ort.__version__} has no")
    assert "com.microsoft." in message
    assert "Shape" not in message  # where ONNX Runtime wants it


@dataclass
class Node:
    op_type: str
    domain: str = ""


@dataclass
class Part:
    ep_name: str
    nodes: list[Node]

    def get_nodes(self):
        return self.nodes


class Placed:
    """A session whose nodes are where it is told."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def get_provider_graph_assignment_info(self):
        return self.parts


def test_arithmetic_of_shapes_may_be_on_the_cpu_and_nothing_else():
    shapes = Part(CPU_PROVIDER, [Node("Shape"), Node("Gather"), Node("Concat")])
    graph = Part(CUDA_PROVIDER, [Node("MatMul"), Node("MultiHeadAttention", "com.microsoft")])
    check_placement(Placed(shapes, graph), CUDA_PROVIDER)
    left = Part(CPU_PROVIDER, [Node("MatMul"), Node("MatMul"), Node("Shape", "com.example")])
    with pytest.raises(ProviderError, match=r"MatMul \(2\), com.example.Shape \(1\); upgrade"):
        check_placement(Placed(shapes, graph, left), CUDA_PROVIDER)


def test_an_onnx_runtime_that_does_not_say_where_nodes_are_is_refused():
    with pytest.raises(ProviderError, match=r"does not say which operators CUDA.*upgrade it: pip"):
        check_placement(object(), CUDA_PROVIDER)
