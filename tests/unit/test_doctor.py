"""What ``edgerank doctor`` finds: on this machine, and on machines that are made up."""

from __future__ import annotations

import json
import os
import platform
import sys

import numpy as np
import onnxruntime as ort
import pytest
import tokenizers
from click.testing import CliRunner

import edgerank
from edgerank import Reranker, cpu, cuda, doctor, kernels
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli import cli
from edgerank.cuda import CudaLibrary, CudaSetup
from edgerank.gpu import Driver, Gpu
from edgerank.kernels import available, choose_kernels
from tests.support.cli import edgerank as run
from tests.support.cli import succeed
from tests.support.kernels import compile_library


@pytest.fixture(autouse=True)
def measure_briefly(monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.delenv("EDGERANK_KERNELS", raising=False)


def test_json_has_what_this_machine_runs():
    found = json.loads(succeed("doctor", "--json"))
    assert list(found) == [
        "cpu",
        "memory",
        "versions",
        "library",
        "providers",
        "cuda",
        "kernels",
        "model",
        "speed",
        "problems",
    ]
    assert found["cpu"]["architecture"] == platform.machine()
    assert found["cpu"]["physical_cores"] == cpu.physical_cores()
    assert found["cpu"]["quota"] == cpu.cpu_quota()
    assert set(found["cpu"]["instruction_sets"]) <= cpu.instruction_sets()
    assert found["memory"]["total"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["versions"] == {
        "edgerank": edgerank.__version__,
        "Python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "tokenizers": tokenizers.__version__,
    }
    assert found["providers"] == ort.get_available_providers()
    assert found["library"]["path"] == str(kernels.LIBRARY)
    assert found["library"]["instruction_sets"] == list(available())
    used = choose_kernels()
    assert (found["kernels"]["name"], found["kernels"]["reason"]) == (used.name, used.reason)
    with Reranker() as reranker:
        assert found["model"]["bundle"] == str(DEFAULT_BUNDLE)
        assert found["model"]["source"] == reranker.bundle.manifest.source.model
        assert found["model"]["variant"] == reranker.variant.name
        assert found["model"]["reason"] == reranker.variant.reason
    assert set(found["speed"]["pairs_per_second"]) == {used.name, "stock"}
    assert all(rate > 0 for rate in found["speed"]["pairs_per_second"].values())
    assert found["problems"] == []


def test_the_table_says_the_same_to_people():
    table = succeed("doctor", COLUMNS="300")
    rows = {line[:16].strip(): line[18:].strip() for line in table.splitlines()}
    assert rows["CPU"] == f"{cpu.cpu_name()} ({platform.machine()})"
    assert f"onnxruntime {ort.__version__}" in rows["versions"]
    assert rows["kernels"] == str(choose_kernels())
    assert "stock" in rows["pairs a second"]
    assert "problem" not in rows


def test_gpus_are_shown_with_what_they_lack(monkeypatch):
    gpus = (Gpu("a card", 80 << 30, 60 << 30, (9, 0)),)
    setup = CudaSetup(
        Driver("535.1", (12, 2), gpus),
        {"onnxruntime-gpu": "1.32"},
        "13.0",
        [
            CudaLibrary("libcudart.so.13", True, True, "13.0"),
            CudaLibrary("libcublas.so.13", True, False, None),
            CudaLibrary("libnvrtc.so.13", False, True, None),
        ],
        ["the driver is too old"],
    )
    monkeypatch.setattr(cuda, "look_at_cuda", lambda driver: setup)
    shown = CliRunner().invoke(cli, ["doctor"], env={"COLUMNS": "300"})
    rows = {line[:16].strip(): line[18:].strip() for line in shown.output.splitlines()}
    assert rows["driver"] == "535.1, which runs CUDA up to 12.2"
    assert rows["GPU 0"] == "a card, 60.0 of 80.0 GiB free, compute capability 9.0"
    assert rows["CUDA"] == "onnxruntime is built for 13.0"
    assert rows["libcudart.so.13"] == "13.0"
    assert rows["libcublas.so.13"] == "not found"
    assert rows["libnvrtc.so.13"] == "found, not needed by every model"
    assert rows["advice"] == "the driver is too old"
    assert shown.exit_code == 0  # the CPU computes all the same

    found = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)["cuda"]
    assert found["driver"]["gpus"][0]["total_memory"] == 80 << 30
    assert found["libraries"][1] == {
        "name": "libcublas.so.13",
        "is_needed": True,
        "is_found": False,
        "version": None,
    }


def test_what_keeps_edgerank_from_running_is_said_with_all_else_and_status_1(tmp_path):
    done = run("doctor", "--model", tmp_path / "absent", COLUMNS="300")
    assert (done.returncode, done.stderr) == (1, b"")
    lines = done.stdout.decode().splitlines()
    assert any(line.startswith("kernels") for line in lines)
    [problem] = [line for line in lines if line.startswith("problem")]
    assert "absent" in problem
    assert "a bundle is a directory" in problem

    done = run("doctor", "--json", EDGERANK_KERNELS="avx9")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["kernels"] is found["model"] is found["speed"] is None
    assert found["versions"]["onnxruntime"] == ort.__version__
    [problem] = found["problems"]
    assert problem.startswith("kernels: 'avx9' in EDGERANK_KERNELS cannot be used here")


def test_a_library_that_cannot_be_imported_is_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = doctor.diagnose(DEFAULT_BUNDLE)
    [problem] = found.problems
    assert "tokenizers" in problem
    assert (found.model, found.speed) == (None, None)


def test_the_kernels_in_use_are_measured_against_the_fastest_and_stock(monkeypatch, tmp_path):
    path = compile_library(tmp_path / "library.so", "fast", "slow")
    monkeypatch.setattr(kernels, "LIBRARY", path)
    found = doctor.diagnose(DEFAULT_BUNDLE)
    assert (found.kernels.name, found.library.path) == ("fast", path)
    assert list(found.speed.pairs_per_second) == ["fast", "stock"]
    rates = found.speed.pairs_per_second
    assert found.speed.ratio == rates["fast"] / rates["stock"]

    monkeypatch.setenv("EDGERANK_KERNELS", "slow")
    assert list(doctor.diagnose(DEFAULT_BUNDLE).speed.pairs_per_second) == ["slow", "fast", "stock"]

    monkeypatch.setenv("EDGERANK_KERNELS", "stock")
    found = doctor.diagnose(DEFAULT_BUNDLE)
    assert list(found.speed.pairs_per_second) == ["stock", "fast"]
    assert found.speed.ratio is None


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", None), ("1073741824", 1 << 30), (str(1 << 62), None)]
)
def test_the_memory_s_limit_is_the_cgroup_s_where_it_is_less_than_there_is(
    monkeypatch, tmp_path, limit, expected
):
    (tmp_path / "memory.max").write_text(limit + "\n")
    monkeypatch.setattr(doctor, "CGROUP_V2", tmp_path)
    monkeypatch.setattr(doctor, "CGROUP_V1_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(doctor, "_total_memory", lambda: 1 << 34)
    assert doctor.diagnose(DEFAULT_BUNDLE).memory.limit == expected
