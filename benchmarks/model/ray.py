"""What does Ray cost a batch job, and how fast is sentence-transformers in Ray?

Each candidate is a command that scores the same rows from a file into files, in an environment of
its own: `edgerank batch` in one process of all threads, the same on Ray with one actor of all
threads and with an actor a core, and a CrossEncoder in Ray Data. Each runs on few and on many
documents, in turns. The rate is that of the difference, so that starting Python, Ray and the model
does not count in it: it is the start, in seconds. Shards are small, so that actors have as many
each; with the default size, Ray has less to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tokenizers import Tokenizer

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.checkpoints import write_minilm
from benchmarks.common.paths import ROOT
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import alternate, ratio
from benchmarks.peers.catalogue import TORCH, Environment
from benchmarks.peers.processes import OFFLINE, make_environment
from benchmarks.peers.workloads import Texts, draw_texts

RAY = Environment("ray", (*TORCH, "sentence-transformers==5.7.0", "ray[data]==2.60.0", "-e .[ray]"))
WORKERS = Path(__file__).parent / "workers"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
DOCUMENTS_A_QUERY = 20
SMALL = 8  # the job of few documents is so many times smaller
SLOWER = 10  # sentence-transformers has so many times fewer documents
SHARDS = 16  # of the larger job
BATCH = "edgerank batch"
ON_RAY, ON_RAY_SPLIT = "edgerank batch on Ray", "edgerank batch on Ray, an actor a core"
CROSS_ENCODER = "CrossEncoder in Ray"


@dataclass(frozen=True)
class Candidate:
    """What scores an input into an output."""

    command: Callable[[Path, Path], Sequence[str | Path]]
    documents: int  # of its larger job

    @property
    def few(self) -> int:
        """Documents of its smaller job."""
        return max(DOCUMENTS_A_QUERY, self.documents // SMALL)


@options.peers
@options.threads
@click.option(
    "--documents", default=4800, show_default=True, help="Documents of the larger job of edgerank."
)
@options.rounds(2)
def measure(
    collection: Path | None,
    environments: Path,
    work: Path,
    plots_directory: Path | None,
    threads: int,
    documents: int,
    rounds: int,
) -> Iterator[Row]:
    python = make_environment(environments, RAY)
    checkpoint = work / "ray-minilm"
    if not checkpoint.exists():
        write_minilm(checkpoint)
    bundle = quantized(checkpoint, work / "ray-minilm.int8")
    texts = draw_texts(collection, Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    scratch = work / "ray-jobs"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    candidates = make_candidates(python, checkpoint, bundle, threads, documents)
    sizes = {
        (name, size): write_rows(scratch, texts, size)
        for name, one in candidates.items()
        for size in (one.few, one.documents)
    }

    def turn(name: str, size: int) -> float:
        target = scratch / "scored"
        command = candidates[name].command(sizes[name, size], target)
        seconds = run(command)
        shutil.rmtree(target)
        return seconds

    turns = {(name, size): lambda n=name, s=size: turn(n, s) for name, size in sizes}
    times = alternate(turns, rounds)
    yield from rows_of(candidates, times)


def make_candidates(
    python: Path, checkpoint: Path, bundle: Path, threads: int, documents: int
) -> dict[str, Candidate]:
    def batch(*arguments: str) -> Candidate:
        def command(source: Path, target: Path) -> list[str | Path]:
            start = [python, "-m", "edgerank", "batch", source, "-o", target, "--model", bundle]
            return [*start, "--shard-pairs", str(documents // SHARDS), *arguments]

        return Candidate(command, documents)

    def cross_encoder(source: Path, target: Path) -> list[str | Path]:
        script = WORKERS / "cross_encoder_on_ray.py"
        return [python, script, source, checkpoint, str(threads), target]

    ray = ("--engine", "ray")
    return {
        BATCH: batch("--threads", str(threads)),
        ON_RAY: batch(*ray, "--actor-cpus", str(threads)),
        ON_RAY_SPLIT: batch(*ray, "--actor-cpus", "1"),
        CROSS_ENCODER: Candidate(cross_encoder, documents // SLOWER),
    }


def write_rows(directory: Path, texts: Texts, documents: int) -> Path:
    """Write queries with their documents, together so many, unless they are there: the file."""
    path = directory / f"{documents}.jsonl"
    if not path.exists():
        requests = (
            texts.request(DOCUMENTS_A_QUERY, number)
            for number in range(documents // DOCUMENTS_A_QUERY)
        )
        rows = ({"id": number, **request} for number, request in enumerate(requests))
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run(command: Sequence[str | Path]) -> float:
    """Run a command: the seconds it took.

    :raises click.ClickException: it fails
    """
    start = time.perf_counter()
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env={**os.environ, **OFFLINE, **QUIET},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise click.ClickException(f"{command[1]}: {done.stderr.strip()}")
    return seconds


def rows_of(
    candidates: Mapping[str, Candidate], times: Mapping[tuple[str, int], np.ndarray]
) -> Iterator[Row]:
    """Compare the rates, and those of each round with that of `edgerank batch`."""
    seconds_each = {}
    for name, candidate in candidates.items():
        few, many = candidate.few, candidate.documents
        seconds_each[name] = (times[name, many] - times[name, few]) / (many - few)
    for name, candidate in candidates.items():
        start = times[name, candidate.few] - candidate.few * seconds_each[name]
        yield Row(
            {"candidate": name, "documents": f"{candidate.documents:,}"},
            {
                "documents/s": median(1 / seconds_each[name], "documents/s"),
                "time against edgerank batch": median(
                    ratio(seconds_each[name], seconds_each[BATCH]), "×"
                ),
                "start": Figure(float(np.median(start)), "s"),
            },
        )
