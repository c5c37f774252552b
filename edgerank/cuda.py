"""What ONNX Runtime needs to compute on an NVIDIA GPU, and what of it is missing.

It loads the libraries of CUDA into the process that asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import onnxruntime as ort

from edgerank.gpu import Driver

CPU_PACKAGE, GPU_PACKAGE = "onnxruntime", "onnxruntime-gpu"  # both install the same module
INSTALL = "pip install 'edgerank[cuda]'"
# the package for GPUs must be the last that writes the module's files
ONE_MODULE = (
    "pip uninstall --yes onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
)
DRIVER_LIBRARY = "libcuda.so.1"
CURAND, CUDNN = "libcurand.so.10", "libcudnn.so.9"  # of CUDA 12 and 13
CUFFT_VERSIONS = {12: 11, 13: 12}


@dataclass(frozen=True)
class CudaLibrary:
    """A library that the installed ONNX Runtime loads."""

    name: str
    is_needed: bool  # by sessions of most models; the others are for a few operators
    is_found: bool
    version: str | None  # where it says


@dataclass(frozen=True)
class CudaSetup:
    """What is installed for CUDA, and what is to be done before a GPU can be used."""

    driver: Driver | None
    packages: Mapping[str, str]  # of onnxruntime, with their versions
    built_for: str | None  # the version of CUDA; None: the module is for CPUs
    libraries: Sequence[CudaLibrary]
    advice: Sequence[str]


def look_at_cuda(driver: Driver | None) -> CudaSetup:
    """Look for what a GPU needs."""
    packages = dict(_installed())
    built_for = cuda_version()
    libraries = list(find_libraries(built_for))
    advice = _advice(driver, packages, built_for, libraries)
    return CudaSetup(driver, packages, built_for, libraries, list(advice))


def cuda_version() -> str | None:
    """Return the version of CUDA that ONNX Runtime was built for; None if it was not."""
    found = getattr(ort, "cuda_version", None)
    return str(found) if found else None


def preload_libraries() -> None:
    """Load the libraries of CUDA that pip has installed: the system does not look there."""
    with contextlib.redirect_stdout(io.StringIO()):  # what is missing, it prints
        ort.preload_dlls()


def find_libraries(built_for: str | None) -> Iterator[CudaLibrary]:
    """Load the libraries of an ONNX Runtime for this CUDA; nothing on other systems than Linux."""
    if built_for is None or sys.platform != "linux":
        return
    preload_libraries()
    major = _major(built_for)
    needed = ("libcudart.so.{}", "libcublasLt.so.{}", "libcublas.so.{}", CURAND, CUDNN)
    for name in (DRIVER_LIBRARY, *(each.format(major) for each in needed)):
        yield _load(name, is_needed=True)
    for name in (f"libnvrtc.so.{major}", f"libcufft.so.{CUFFT_VERSIONS.get(major, major)}"):
        yield _load(name, is_needed=False)


def load_problem() -> str:
    """Say why CUDA's provider cannot be loaded, and what to do."""
    built_for = cuda_version()
    if built_for is None:
        return f"the installed onnxruntime is for CPUs: {INSTALL}"
    advice = list(_missing(built_for, list(find_libraries(built_for))))
    return "; ".join(advice) or "its libraries are there, and ONNX Runtime does not say why"


def _advice(
    driver: Driver | None,
    packages: Mapping[str, str],
    built_for: str | None,
    libraries: Sequence[CudaLibrary],
) -> Iterator[str]:
    """Yield what keeps a GPU from being used, and what to do."""
    has_gpu = driver is not None and bool(driver.gpus)
    if {CPU_PACKAGE, GPU_PACKAGE} <= packages.keys():
        yield (
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's"
            f" files: {ONE_MODULE}"
        )
    elif has_gpu and built_for is None:
        yield f"there is a GPU, and the installed onnxruntime is for CPUs: {INSTALL}"
    if built_for is None:
        return
    if not has_gpu:
        yield (
            "no NVIDIA driver shows a GPU: install the driver, or let the container see the GPU"
            " (--gpus all), and look at CUDA_VISIBLE_DEVICES"
        )
    yield from _missing(built_for, libraries)
    if driver is not None and driver.cuda_version[0] < _major(built_for):
        newest = ".".join(map(str, driver.cuda_version))
        yield (
            f"the driver {driver.version} runs CUDA up to {newest}, and onnxruntime-gpu is built"
            f" for {built_for}: upgrade the driver, or install an older onnxruntime-gpu"
        )


def _missing(built_for: str, libraries: Sequence[CudaLibrary]) -> Iterator[str]:
    missing = [library.name for library in libraries if library.is_needed and not library.is_found]
    if DRIVER_LIBRARY in missing:
        yield f"{DRIVER_LIBRARY} cannot be loaded: it comes with the NVIDIA driver"
    others = [name for name in missing if name != DRIVER_LIBRARY]
    if others:
        yield (
            f"{', '.join(others)} of CUDA {built_for} cannot be loaded: {INSTALL} brings them, or"
            " add their directory to LD_LIBRARY_PATH"
        )


def _installed() -> Iterator[tuple[str, str]]:
    for package in (CPU_PACKAGE, GPU_PACKAGE):
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)


def _load(name: str, *, is_needed: bool) -> CudaLibrary:
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return CudaLibrary(name, is_needed, False, None)
    return CudaLibrary(name, is_needed, True, _version_of(library))


def _version_of(library: ctypes.CDLL) -> str | None:
    """Ask CUDA's runtime, or cuDNN, for its version; None for the other libraries."""
    if hasattr(library, "cudaRuntimeGetVersion"):
        number = ctypes.c_int()
        library.cudaRuntimeGetVersion(ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"  # 13000 is 13.0
    if hasattr(library, "cudnnGetVersion"):
        library.cudnnGetVersion.restype = ctypes.c_size_t
        found = int(library.cudnnGetVersion())
        return f"{found // 10000}.{found % 10000 // 100}.{found % 100}"  # 91002 is 9.10.2
    return None


def _major(built_for: str) -> int:
    return int(built_for.partition(".")[0])
