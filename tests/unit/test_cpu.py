"""The cores that a process may use, on machines that are made up."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgerank import cpu


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make up CPUs with their hardware threads, an affinity mask and a cgroup quota."""

    def make(siblings: dict[int, str], allowed: set[int], quota: str | None) -> None:
        for number, text in siblings.items():
            (tmp_path / f"cpu{number}").write_text(text + "\n")
        if quota is not None:
            (tmp_path / "cpu.max").write_text(quota + "\n")
        monkeypatch.setattr(cpu, "CPU_TOPOLOGY", str(tmp_path / "cpu{}"))
        monkeypatch.setattr(cpu, "CGROUP_V2", tmp_path)
        monkeypatch.setattr(cpu, "CGROUP_V1", tmp_path / "none")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)

    return make


HYPERTHREADED = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"),
    [
        (set(range(8)), None, 4),  # two hardware threads of a core count once
        (set(range(8)), "max 100000", 4),
        ({0, 4}, None, 1),  # pinned to both threads of one core
        ({0, 1, 2}, None, 3),
        (set(range(8)), "200000 100000", 2),  # docker run --cpus 2
        (set(range(8)), "150000 100000", 2),
        (set(range(8)), "10000 100000", 1),
        ({3}, "800000 100000", 1),
    ],
)
def test_cores_honour_hardware_threads_affinity_and_quota(machine, allowed, quota, expected):
    machine(HYPERTHREADED, allowed, quota)
    assert cpu.physical_cores() == expected


def test_a_machine_that_does_not_tell_its_topology_counts_its_cpus(machine):
    machine({}, {0, 1, 2}, None)
    assert cpu.physical_cores() == 3


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, 4),
        ("1", 1),
        ("3", 3),
        (" 2 ", 2),
        ("2,8", 2),  # of OpenMP's list, the outermost level
        ("64", 4),  # it bounds, and adds no cores
        ("0", 4),
        ("-1", 4),
        ("many", 4),
        ("", 4),
    ],
)
def test_omp_num_threads_bounds_the_threads_and_not_the_cores(
    machine, monkeypatch, variable, expected
):
    machine(HYPERTHREADED, set(range(8)), None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert cpu.default_threads() == expected
    assert cpu.physical_cores() == 4


def test_a_reranker_and_its_session_keep_to_omp_num_threads():
    program = (
        "import os; from edgerank import Reranker;"
        "before = len(os.listdir('/proc/self/task'));"
        "reranker = Reranker(); reranker.score('query', ['a', 'b']);"
        "print(reranker.threads, len(os.listdir('/proc/self/task')) - before)"
    )
    told = {}
    for variable in ("1", str(cpu.physical_cores())):
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": variable, "TOKENIZERS_PARALLELISM": "false"},
        )
        told[int(variable)] = [int(word) for word in done.stdout.split()]
    for variable, (threads, started) in told.items():
        assert threads == variable
        assert started == told[1][1] + variable - 1  # the engine's own thread is one of them


def test_this_machine_has_at_least_one_core_and_no_more_than_its_cpus():
    assert 1 <= cpu.physical_cores() <= (os.cpu_count() or 1)


def test_only_the_thread_that_asks_for_it_flushes_denormals():
    tiny = np.full(1, 1e-40, np.float32)

    def halved() -> float:
        cpu.flush_denormals()
        return float((tiny * np.float32(0.5))[0])

    with ThreadPoolExecutor(1) as thread:
        flushed = thread.submit(halved).result()
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert flushed == 0
    assert float((tiny * np.float32(0.5))[0]) > 0


def test_ranking_leaves_the_callers_arithmetic_alone():
    program = (
        "import numpy as np; from edgerank import Reranker;"
        "Reranker().rank('query', ['a', 'b']);"
        "assert (np.full(1, 1e-40, np.float32) * np.float32(0.5))[0] > 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("machine_name", "flags", "expected"),
    [
        ("x86_64", "avx2 avx512f avx512_vnni", True),
        ("x86_64", "avx2 avx_vnni", True),
        ("x86_64", "avx2 avx512f avx512bw", False),
        ("AMD64", "", False),  # nothing is listed
        ("aarch64", "asimd asimddp", True),
    ],
)
def test_only_x86_without_vnni_cannot_multiply_int8_exactly(
    monkeypatch, tmp_path, machine_name, flags, expected
):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: machine_name)
    assert cpu.multiplies_int8_exactly() is expected
