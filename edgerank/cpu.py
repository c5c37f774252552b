"""How many physical cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
CGROUP_V2 = Path("/sys/fs/cgroup")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def physical_cores() -> int:
    """Count the physical cores given to this process, at least 1.

    Honours the affinity mask and, on Linux, the cgroup's CPU quota. Two hardware threads of one
    core count once: int8 matrix products keep a core's multipliers busy with a single thread.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)  # macOS, Windows: no mask to read
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def _siblings(cpu: int) -> str:
    """Name the core of a logical CPU by the list of its hardware threads."""
    try:
        return Path(CPU_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float | None:
    """Read the cgroup's limit in CPUs, None if there is none."""
    try:
        quota, period = (CGROUP_V2 / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (CGROUP_V1 / "cpu.cfs_quota_us").read_text().strip()
            period = (CGROUP_V1 / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
