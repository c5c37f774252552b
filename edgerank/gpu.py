"""NVIDIA GPUs as the driver's own library (NVML) describes them; there are none without it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from edgerank.errors import ProviderError

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the GPUs of a process, and their order; CUDA reads it, too
TEXT_BYTES = 96  # the longest text that is asked for


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    name: str
    total_memory: int  # bytes
    free_memory: int  # bytes, of all processes together
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.compute_capability
        gib = 1 << 30
        return (
            f"{self.name}, {self.free_memory / gib:.1f} of {self.total_memory / gib:.1f} GiB free,"
            f" compute capability {major}.{minor}"
        )


@dataclass(frozen=True)
class Driver:
    """The driver and its GPUs, which are numbered as CUDA numbers them in this process."""

    version: str
    cuda_version: tuple[int, int]  # the newest that the driver runs
    gpus: tuple[Gpu, ...]


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _NvmlError(Exception):
    """A call failed."""


def read_driver() -> Driver | None:
    """Ask the driver; None if there is none, or if it does not answer."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    try:
        _call(nvml, "nvmlInit_v2")
    except _NvmlError:  # a library without its kernel module, as in a container
        return None
    try:
        return Driver(_driver_version(nvml), _cuda_version(nvml), tuple(_visible(nvml)))
    except _NvmlError:
        return None
    finally:
        nvml.nvmlShutdown()


def gpu_number(gpus: tuple[Gpu, ...], number: int) -> Gpu:
    """Return a GPU by its number.

    :raises ProviderError: it is not there
    """
    if number >= len(gpus):
        raise ProviderError(
            f"GPU {number} is not there: this process sees {len(gpus)}, numbered from 0"
        )
    return gpus[number]


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this process; none without a driver."""
    driver = read_driver()
    return () if driver is None else driver.gpus


def _visible(nvml: ctypes.CDLL) -> Iterator[Gpu]:
    """Yield the GPUs that CUDA shows to this process, in its order.

    CUDA ends the list at the first entry that names none. Where GPUs of several kinds are in one
    machine, the orders agree if CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    listed = os.environ.get(VISIBLE)
    if listed is None:
        count = ctypes.c_uint()
        _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        listed = ",".join(map(str, range(count.value)))
    for entry in listed.split(","):
        handle = ctypes.c_void_p()
        name = entry.strip()
        try:
            if name.isdecimal():
                index = ctypes.c_uint(int(name))
                _call(nvml, "nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            else:
                _call(nvml, "nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(handle))
        except _NvmlError:
            return
        yield _describe(nvml, handle)


def _describe(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> Gpu:
    name = ctypes.create_string_buffer(TEXT_BYTES)
    _call(nvml, "nvmlDeviceGetName", handle, name, ctypes.c_uint(TEXT_BYTES))
    memory = _Memory()
    _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    major, minor = ctypes.c_int(), ctypes.c_int()
    with contextlib.suppress(_NvmlError):  # a part of a GPU (MIG) does not say
        references = ctypes.byref(major), ctypes.byref(minor)
        _call(nvml, "nvmlDeviceGetCudaComputeCapability", handle, *references)
    return Gpu(
        name.value.decode(errors="replace"),
        int(memory.total),
        int(memory.free),
        (major.value, minor.value),
    )


def _driver_version(nvml: ctypes.CDLL) -> str:
    text = ctypes.create_string_buffer(TEXT_BYTES)
    _call(nvml, "nvmlSystemGetDriverVersion", text, ctypes.c_uint(TEXT_BYTES))
    return text.value.decode(errors="replace")


def _cuda_version(nvml: ctypes.CDLL) -> tuple[int, int]:
    number = ctypes.c_int()
    _call(nvml, "nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10  # 12040 is 12.4


def _call(nvml: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of NVML.

    :raises _NvmlError: it says that it failed, or the library has no such function
    """
    try:
        status = getattr(nvml, function)(*arguments)
    except AttributeError as error:
        raise _NvmlError(function) from error
    if status != 0:
        raise _NvmlError(f"{function}: {status}")
