"""The CPU: its cores, its instruction sets, and the handling of denormals."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
from pathlib import Path

CPU_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
CPU_INFO = Path("/proc/cpuinfo")
CGROUP_V2 = Path("/sys/fs/cgroup")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
NOTEWORTHY = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
X86 = ("x86_64", "amd64", "i386", "i686", "x86")
THREADS_VARIABLE = "OMP_NUM_THREADS"
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 0x8000, 0x0040  # bits of MXCSR


def default_threads() -> int:
    """Return the default number of threads to compute with, at least 1.

    It is the number of physical cores given to this process, or OMP_NUM_THREADS if that is fewer:
    programs that start several processes, such as Ray, limit the threads of each by that variable.
    """
    limit = thread_limit()
    return physical_cores() if limit is None else min(physical_cores(), limit)


def thread_limit() -> int | None:
    """Return the value of OMP_NUM_THREADS, None if it is unset or not a positive number.

    In a list, which OpenMP allows for nested regions ("4,2"), the first number counts.
    """
    first, *_ = os.environ.get(THREADS_VARIABLE, "").split(",")
    return int(first) if first.strip().isdecimal() and int(first) > 0 else None


def physical_cores() -> int:
    """Count the physical cores given to this process, at least 1.

    Honours the affinity mask and, on Linux, the cgroup's CPU quota. Two hardware threads of one
    core count once: int8 matrix products keep a core's multipliers busy with a single thread.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)  # macOS, Windows: no mask to read
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return the cgroup's limit in CPUs, None if there is none."""
    try:
        quota, period = (CGROUP_V2 / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (CGROUP_V1 / "cpu.cfs_quota_us").read_text().strip()
            period = (CGROUP_V1 / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def instruction_sets() -> frozenset[str]:
    """Return the CPU's instruction sets as Linux names them ("avx2", "avx512_vnni").

    Empty if the system does not list them.
    """
    fields = cpu_fields()
    return frozenset(fields.get("flags", fields.get("Features", "")).split())  # x86, Arm


def multiplies_int8_exactly() -> bool:
    """Whether ONNX Runtime's products of uint8 and int8 are exact on this CPU.

    Its kernels for x86 without VNNI add two products in a saturating int16 (``vpmaddubsw``). False
    too on x86 of a system that does not list instruction sets.
    """
    if platform.machine().lower() not in X86:
        return True
    return bool(instruction_sets() & {"avx512_vnni", "avx_vnni"})


def noteworthy_instruction_sets() -> list[str]:
    """Return the CPU's instruction sets that matter for the speed of a model."""
    found = instruction_sets()
    return [name for name in NOTEWORTHY if name in found]


def cpu_name() -> str:
    """Return the CPU's product name, or its architecture if the name is unknown."""
    return cpu_fields().get("model name", platform.processor() or platform.machine())


def cpu_fields() -> dict[str, str]:
    """Return Linux's description of the first logical CPU, by key; empty on other systems."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def flush_denormals() -> None:
    """Make the calling thread treat floats below 1.2e-38 as zero, on x86-64 with glibc.

    A masked key's attention weight is such a float, and x86 handles each in microcode: a softmax
    with half of its keys masked takes several times as long (``benchmarks/micro/operators.py``).
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return
    try:
        libm = ctypes.CDLL("libm.so.6")
    except OSError:  # another C library than glibc
        return
    environment = (ctypes.c_uint32 * 8)()  # fenv_t: seven words of x87 state, then MXCSR
    if libm.fegetenv(environment) == 0:
        environment[7] |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO
        libm.fesetenv(environment)


def return_freed_memory() -> None:
    """Return freed memory to the system; glibc would keep free blocks between used ones."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _siblings(cpu: int) -> str:
    """Name the core of a logical CPU by the list of its hardware threads."""
    try:
        return Path(CPU_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)
