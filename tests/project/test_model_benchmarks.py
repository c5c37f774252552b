"""The benchmarks of whole models: geometries, the choice of kernels, the neighbour, memory."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import edgerank.kernels
from benchmarks.common import options
from benchmarks.common.processes import run_program
from benchmarks.common.random_models import build_random, geometries
from benchmarks.model import batch, neighbour
from benchmarks.model import ray as ray_benchmark
from benchmarks.model.architectures import int8_weights
from edgerank.errors import EdgerankError
from edgerank.kernels import STOCK, VARIABLE, Library
from tests.support.batch import write_collection


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of transformers' ModernBERT
@pytest.mark.parametrize(
    "model", ["Qwen3-Reranker-0.6B", "Gemma 3", "MiniLM", "mpnet", "modernbert", "base-v1"]
)
def test_a_geometry_has_the_matrices_of_its_bundle(tmp_path, monkeypatch, model):
    monkeypatch.setenv(VARIABLE, STOCK)  # the weights are the same, whatever computes
    (geometry,) = geometries((model,))
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 32} if geometry.is_decoder else {}
    geometry = replace(geometry, config={**geometry.config, **small, **heads})
    shallow, deep = (int8_weights(build_random(geometry, tmp_path, depth)) for depth in (1, 2))
    matrices = geometry.layer.matrices.values()
    assert deep - shallow == sum(depth * width for depth, width in matrices)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["stock", "auto", "stock"], ["stock", "avx2"]),
        (["every"], ["avx2", "avx"]),
        (["avx"], ["avx"]),
        (["none"], "'none' cannot be used here"),
    ],
)
def test_kernels_are_named_once_and_those_that_are_not_there_are_refused(
    monkeypatch, names, chosen
):
    library = Library(Path("library"), ("avx2", "avx"), None)
    monkeypatch.setattr(edgerank.kernels, "find_library", lambda: library)

    @click.command()
    @options.kernels
    def command(kernels: list[str]) -> None:
        click.echo(kernels)

    done = CliRunner().invoke(command, [word for name in names for word in ("--kernels", name)])
    assert str(chosen) in done.output


def test_the_neighbour_stays_on_its_core_and_is_stopped_until_it_is_wanted():
    with neighbour.neighbour() as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert os.sched_getaffinity(process.pid) == {min(os.sched_getaffinity(0))}
        stopped = cpu_ticks(process.pid)
        process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while cpu_ticks(process.pid) == stopped:  # it computes
            assert time.monotonic() < deadline
    assert process.returncode is not None


def cpu_ticks(pid: int) -> int:
    """Read the time that a process has computed in its own code."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_memory_is_told_with_what_of_it_is_private():
    done = run_program("block = bytearray(50_000_000); block[::4096] = block[::4096]; del block")
    assert 0 < done.private_bytes <= done.memory_bytes
    assert done.memory_bytes + 40e6 < done.peak_bytes


def test_rows_of_a_batch_are_as_many_and_as_long_as_asked_for_and_the_same_each_time(tmp_path):
    collection = write_collection(tmp_path / "collection", judged=True)
    first, second = (
        batch.write_rows(tmp_path / name, collection, queries=5, documents=7, words=8)
        for name in ("first", "second")
    )
    assert first.read_bytes() == second.read_bytes()
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert [len(row["documents"]) for row in rows] == [7] * 5
    lengths = {len(document.split()) for row in rows for document in row["documents"]}
    assert lengths <= set(range(2, 9))
    assert len(lengths) > 3


def test_memory_of_a_batch_is_shown_at_its_begin_and_at_its_end():
    [sample] = batch._sample(os.getpid(), 1.0)
    assert sample.resident > sample.private > 1e6
    assert list(batch._sample(2**22 + 1, 1.0)) == []  # no such process
    samples = [batch.Sample(n, n * 10_000_000, n * 1_000_000) for n in range(1, 10)]
    figures = batch._memory(samples, 900)
    shown = {name: figure.value for name, figure in figures.items()}
    assert shown == {
        "speed": 100,
        "time": 9,
        "peak memory": 90,
        "memory, first third": 20,
        "memory, last third": 80,
        "private, first third": 2,
        "private, last third": 8,
    }
    with pytest.raises(EdgerankError, match="too short"):
        batch._memory(samples[:2], 900)


def test_starting_does_not_count_in_the_rates_of_jobs_on_ray():
    commands = ray_benchmark.make_candidates(Path("python"), Path("a"), Path("b"), 2, 4800)
    rates = dict(zip(commands, (200, 190, 195, 20), strict=True))
    starts = dict(zip(commands, (2, 20, 25, 30), strict=True))
    times = {
        (name, size): np.array([starts[name] + size / rates[name]] * 2)
        for name, one in commands.items()
        for size in (one.few, one.documents)
    }
    rows = {row.labels["candidate"]: row.figures for row in ray_benchmark.rows_of(commands, times)}
    for name in commands:
        assert rows[name]["documents/s"].value == pytest.approx(rates[name])
        assert rows[name]["start"].value == pytest.approx(starts[name])
        compared = rows[name]["time against edgerank batch"].value
        assert compared == pytest.approx(rates[ray_benchmark.BATCH] / rates[name])
    assert commands[ray_benchmark.CROSS_ENCODER].documents == 480
