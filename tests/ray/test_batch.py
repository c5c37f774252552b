"""``edgerank batch --engine ray``: the bytes of the job on one machine, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ray = pytest.importorskip("ray", reason="needs the environment .venv/ray: make test-ray")

from edgerank import BatchError, cpu
from edgerank.batch import on_ray
from edgerank.batch.job import Cluster
from edgerank.batch.run import run_batch
from tests.ray import cluster as stages
from tests.ray.cluster import SETTINGS, two_nodes
from tests.support import ROOT
from tests.support.batch import contents

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray itself, in this process

ROWS, SHARD_PAIRS = 60, 20
TEXT = "a reranker reads the query and each document then gives it a score"
TIMEOUT_S = 240
SLOW_JOB = """
import sys
from edgerank.batch import on_ray
from edgerank.batch.job import Cluster
from edgerank.batch.run import run_batch
from tests.ray.cluster import slow_shard_stage

on_ray.ShardStage = slow_shard_stage(0.5)
run_batch(sys.argv[1], sys.argv[2], shard_pairs=int(sys.argv[3]), cluster=Cluster("local"))
"""
ON_RAY = ("--engine", "ray", "--address", "local")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Rows with 0 to 8 documents; some rows are bad."""
    random.seed(1)

    def text(most):
        return " ".join(random.choices(TEXT.split(), k=random.randint(1, most)))

    rows = [
        {"id": f"q{n}", "query": text(9), "documents": [text(40) for _ in range(n % 9)]}
        for n in range(ROWS)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[7] = '{"query": "no documents"}'
    lines[31] = json.dumps({"id": "blank", "query": " ", "documents": ["a"]})
    path = tmp_path_factory.mktemp("input") / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """The files of the job in one process."""
    output = tmp_path_factory.mktemp("output") / "local"
    run_batch(source, output, shard_pairs=SHARD_PAIRS)
    files = contents(output)
    assert len([name for name in files if name.startswith("part-")]) > 8
    assert len(files["_bad-rows.jsonl"].splitlines()) == 2
    return files


def command(source, output, *options):
    start = [sys.executable, "-m", "edgerank", "batch", source, "--output", output]
    return [*map(str, start), "--shard-pairs", str(SHARD_PAIRS), *options]


def environment():
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def run_command(source, output, *options):
    done = subprocess.run(
        command(source, output, *options),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as running:
        yield running


def processes_of(session: str) -> list[str]:
    """The command lines of processes that name a session of Ray."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if session in line:
            found.append(line)
    return found


def test_the_command_gives_the_bytes_of_one_process_and_leaves_no_process(
    source, expected, tmp_path
):
    done = run_command(source, tmp_path / "out", *ON_RAY, "--actor-cpus", "1")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == expected
    assert "2 bad rows" in done.stdout
    again = run_command(source, tmp_path / "out", *ON_RAY)
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "out") == expected


def test_an_actor_that_is_killed_costs_no_byte(cluster, source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "ShardStage", stages.killed_shard_stage(tmp_path))
    run_batch(source, tmp_path / "out", shard_pairs=SHARD_PAIRS, cluster=Cluster(actors=2))
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "out") == expected


def test_a_job_whose_driver_is_killed_goes_on_and_scores_no_shard_again(source, expected, tmp_path):
    output = tmp_path / "out"
    with TemporaryDirectory(dir="/tmp") as session:  # a short path, for Ray's sockets
        program = [sys.executable, "-c", SLOW_JOB, source, output, str(SHARD_PAIRS)]
        job = subprocess.Popen(
            program,
            cwd=ROOT,
            env={**environment(), "RAY_TMPDIR": session},
            stderr=subprocess.PIPE,
        )
        while len(list(output.glob("part-*"))) < 2:
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.01)
        assert processes_of(session)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        while processes_of(session):  # Ray's end by themselves
            time.sleep(0.1)
    done = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    num_shards = len([name for name in expected if name.startswith("part-")])
    assert 2 <= len(done) < num_shards
    finished = run_command(source, output, *ON_RAY)
    assert finished.returncode == 0, finished.stderr
    assert f"{num_shards} shards ({len(done)} done before)" in finished.stdout
    assert contents(output) == expected
    assert {name: (output / name).stat().st_mtime_ns for name in done} == done


def test_a_job_that_began_on_ray_ends_in_one_process_and_the_other_way_round(
    cluster, source, expected, tmp_path
):
    with pytest.raises(BatchError, match="--max-bad-rows"):
        run_batch(
            source, tmp_path / "a", shard_pairs=SHARD_PAIRS, max_bad_rows=1, cluster=Cluster()
        )
    run_batch(source, tmp_path / "a", shard_pairs=SHARD_PAIRS)
    assert contents(tmp_path / "a") == expected
    with pytest.raises(BatchError, match="--max-bad-rows"):
        run_batch(source, tmp_path / "b", shard_pairs=SHARD_PAIRS, max_bad_rows=1)
    run_batch(source, tmp_path / "b", shard_pairs=SHARD_PAIRS, cluster=Cluster())
    assert contents(tmp_path / "b") == expected


def test_pairs_of_ids_take_their_texts_from_a_collection(cluster, tmp_path):
    documents = [{"_id": f"d{n}", "text": f"Frank Herbert {n}"} for n in range(9)]
    queries = [{"_id": f"q{n}", "text": f"who wrote dune {n}?"} for n in range(5)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    run = "".join(f"q{q} Q0 d{d} {d + 1} {9 - d} bm25\n" for q in range(5) for d in range(9))
    (tmp_path / "bm25.trec").write_text(run)
    options = {"collection": tmp_path, "shard_pairs": 10}
    run_batch(tmp_path / "bm25.trec", tmp_path / "local", **options)
    run_batch(tmp_path / "bm25.trec", tmp_path / "ray", cluster=Cluster(), **options)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_empty_input_gives_an_empty_shard(cluster, tmp_path):
    (tmp_path / "rows.jsonl").touch()
    run_batch(tmp_path / "rows.jsonl", tmp_path / "local")
    run_batch(tmp_path / "rows.jsonl", tmp_path / "ray", cluster=Cluster())
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_a_node_that_would_score_otherwise_is_named(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "ShardStage", stages.other_version_stage())
    with pytest.raises(
        BatchError, match=r"node [\d.]+ .*: .* otherwise: the version of edgerank is 0"
    ):
        run_batch(source, tmp_path / "out", cluster=Cluster())


def test_what_cannot_be_reached_or_asked_is_said_in_a_line(source, tmp_path):
    done = run_command(source, tmp_path / "out", "--engine", "ray", "--address", "nowhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no cluster of Ray at nowhere" in done.stderr
    done = run_command(source, tmp_path / "out", "--actor-cpus", "2")
    assert done.returncode == 2
    assert "need --engine ray" in done.stderr


def test_an_actor_of_a_job_keeps_to_its_cpus(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "ShardStage", stages.counting_shard_stage(tmp_path))
    for actor_cpus in (1, 2):
        run_batch(
            source, tmp_path / f"out-{actor_cpus}", cluster=Cluster(actor_cpus=actor_cpus, actors=1)
        )
        threads = min(actor_cpus, cpu.physical_cores())
        assert (tmp_path / "threads").read_text() == f"{threads} {threads}"


def test_nothing_is_reported_to_anyone(cluster):
    assert os.environ[on_ray.NO_TELEMETRY] == SETTINGS[on_ray.NO_TELEMETRY] == "0"
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()
