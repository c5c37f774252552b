"""How fast does `edgerank batch` score files, and does its memory stay flat?

Queries and documents are cut from a collection's text: MiniLM-L6 as a cross-encoder with a random
classifier, or another bundle. The same rows go through, in turns: the engine alone, on windows that
were read, tokenised and packed before; a loop of ``Reranker.score`` over the rows of the file; and
``run_batch`` with one process of all threads, and with processes of one thread each. ``run_batch``
opens its models, hashes and plans the input and writes and syncs its shards within its time.

``--pairs 1000000`` then scores so many short pairs by the command, which is killed twice on the way
and goes on. The memory of all its processes is read once a second: private memory is what is not
mapped from files, and weights that are mapped are shared by the processes.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import msgspec
import numpy as np

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.checkpoints import write_minilm
from benchmarks.common.paths import ROOT
from benchmarks.common.processes import status_bytes
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import ratio, take_turns
from edgerank import EdgerankError, Reranker
from edgerank.batch import run_batch
from edgerank.batch.inputs import RowRecord
from edgerank.batch.job import SHARD_PAIRS, Asking
from edgerank.batch.job import Row as Texts
from edgerank.batch.output import read_job
from edgerank.batch.scoring import prepared_windows
from edgerank.evaluation import read_collection
from edgerank.files import read_jsonl

KILLED_AT = 1 / 3, 2 / 3  # of the shards
INTERVAL_S = 1.0


@dataclass(frozen=True)
class Sample:
    """The memory of a job's processes at a moment."""

    seconds: float  # since it was started
    resident: int  # bytes; pages that processes share count in each of them
    private: int


@click.option(
    "--bundle", type=options.DIRECTORY, help="Score with it.  [default: MiniLM-L6, quantized]"
)
@click.option("--collection", type=options.CollectionPath(), default="cisi", show_default=True)
@click.option("--queries", type=click.IntRange(1), default=200, show_default=True)
@click.option("--documents", type=click.IntRange(1), default=100, show_default=True)
@click.option("--words", type=click.IntRange(1), default=60, show_default=True, help="Of most.")
@click.option(
    "--processes",
    type=click.IntRange(2),
    multiple=True,
    default=[2],
    show_default=True,
    help="Of one thread each; may be given several times.",
)
@click.option("--shard-pairs", type=click.IntRange(1), default=SHARD_PAIRS, show_default=True)
@click.option("--pairs", type=click.IntRange(0), default=0, help="Of the job that is killed twice.")
@click.option("--pairs-words", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--pairs-processes", type=click.IntRange(1), default=1, show_default=True, help="Of that job."
)
@options.rounds(3)
@options.threads
@options.work
def measure(
    bundle: Path | None,
    collection: Path,
    queries: int,
    documents: int,
    words: int,
    processes: Sequence[int],
    shard_pairs: int,
    pairs: int,
    pairs_words: int,
    pairs_processes: int,
    rounds: int,
    threads: int,
    work: Path | None,
) -> Iterator[Row]:
    with options.directory(work) as directory:
        place = Path(directory)
        bundle = bundle or _minilm(place)
        path = write_rows(place / "rows.jsonl", collection, queries, documents, words)
        num_pairs = queries * documents
        yield from _speeds(bundle, path, num_pairs, processes, shard_pairs, rounds, threads, place)
        if pairs:
            path = write_rows(place / "pairs.jsonl", collection, -(-pairs // 10), 10, pairs_words)
            yield from _killed(bundle, path, place / "pairs", threads, pairs_processes, shard_pairs)


def write_rows(path: Path, collection: Path, queries: int, documents: int, words: int) -> Path:
    """Write rows whose documents are cut from a collection anywhere, of up to so many words."""
    rng = random.Random(0)
    found = read_collection(collection)
    asked = list(found.queries.values())
    text = [word for document in found.documents.values() for word in document.split()]

    def document() -> str:
        size = rng.randint(max(1, words // 4), words)
        start = rng.randrange(max(1, len(text) - size))
        return " ".join(text[start : start + size])

    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for number in range(queries):
            record = RowRecord(
                asked[number % len(asked)], [document() for _ in range(documents)], number
            )
            file.write(encoder.encode(record) + b"\n")
    return path


def _minilm(work: Path) -> Path:
    checkpoint = work / "ms-marco-minilm"
    if not checkpoint.exists():
        write_minilm(checkpoint)
    return quantized(checkpoint, work / "ms-marco-minilm.int8")


def _speeds(
    bundle: Path,
    path: Path,
    num_pairs: int,
    processes: Sequence[int],
    shard_pairs: int,
    rounds: int,
    threads: int,
    work: Path,
) -> Iterator[Row]:
    reranker = Reranker(bundle, threads=threads)
    windows = [window.prepared for window in prepared_windows(reranker, _rows(path), Asking(), "")]

    def engine() -> None:
        for prepared in windows:
            reranker.compute(prepared)

    def loop() -> None:
        for _, record in read_jsonl(path, RowRecord):
            reranker.score(record.query, record.documents)

    def batch(number: int, each: int) -> None:
        run_batch(
            path,
            work / f"out-{number}",
            bundle=bundle,
            processes=number,
            threads=each,
            shard_pairs=shard_pairs,
            restart=True,
        )

    candidates = {"the engine alone": engine, "a loop of Reranker.score": loop}
    candidates[f"1 process of {threads} threads"] = partial(batch, 1, threads)
    for number in processes:
        candidates[f"{number} processes of 1 thread"] = partial(batch, number, 1)
    times = take_turns(candidates, rounds)
    for name, seconds in times.items():
        figures = {
            "speed": median(num_pairs / seconds, "pairs/s"),
            "of the engine": median(ratio(times["the engine alone"], seconds), "×"),
            "of the loop": median(ratio(times["a loop of Reranker.score"], seconds), "×"),
        }
        yield Row({"scored by": name}, figures)
    reranker.close()


def _rows(path: Path) -> Iterator[Texts]:
    for number, record in read_jsonl(path, RowRecord):
        texts = tuple(map(str, record.documents))
        yield Texts(number, number, record.query, texts, texts)


def _killed(
    bundle: Path, path: Path, output: Path, threads: int, processes: int, shard_pairs: int
) -> Iterator[Row]:
    """Score a large file by the command, and kill it on the way."""
    command = [sys.executable, "-m", "edgerank", "batch", str(path), "-o", str(output)]
    command += ["--model", str(bundle), "--shard-pairs", str(shard_pairs)]
    command += ["--processes", str(processes), "--threads", str(max(1, threads // processes))]
    shutil.rmtree(output, ignore_errors=True)  # of an earlier run of the benchmark
    done = 0
    for number, share in enumerate((*KILLED_AT, None), 1):
        samples = _run(command, output, share)
        now = len(list(output.glob("part-*")))
        job = read_job(output)
        if job is None or (share is None and not job.is_complete):
            raise EdgerankError(f"{output}: the job did not end")
        scored = sum(shard.pairs for shard in job.shards) * (now - done) / len(job.shards)
        yield Row(
            {"run": f"{number}, {'to its end' if share is None else 'killed'}"},
            {"shards": Figure(now - done), **_memory(samples, scored)},
        )
        done = now


def _run(command: list[str], output: Path, share: float | None) -> list[Sample]:
    """Run the command until that share of the shards is there, or to its end."""
    samples: list[Sample] = []
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(INTERVAL_S)
            samples += _sample(process.pid, time.perf_counter() - start)
            if share is not None and _share_done(output) >= share:
                process.send_signal(signal.SIGKILL)
                process.wait()
    if share is None and process.returncode != 0:
        raise EdgerankError(f"{output}: the command ended with status {process.returncode}")
    return samples


def _share_done(output: Path) -> float:
    job = read_job(output) if output.exists() else None
    return 0.0 if job is None else len(list(output.glob("part-*"))) / len(job.shards)


def _sample(pid: int, seconds: float) -> Iterator[Sample]:
    """Read the memory of a process and of those that it started; nothing once it has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = [Path(f"/proc/{each}/status").read_text() for each in (str(pid), *children)]
        sizes = [[status_bytes(one, name) for one in found] for name in ("VmRSS", "RssAnon")]
    except (OSError, ValueError):
        return
    yield Sample(seconds, *map(sum, sizes))


def _memory(samples: Sequence[Sample], scored: float) -> dict[str, Figure]:
    """Show the peak, and what is held in the first and in the last third of the time."""
    if len(samples) < 3:
        raise EdgerankError("a run was too short to be measured; score more pairs")
    resident, private = (
        np.array([getattr(sample, name) for sample in samples]) / 1e6
        for name in ("resident", "private")
    )
    third = len(samples) // 3
    return {
        "speed": Figure(scored / samples[-1].seconds, "pairs/s"),
        "time": Figure(samples[-1].seconds, "s"),
        "peak memory": Figure(float(resident.max()), "MB"),
        "memory, first third": median(resident[:third], "MB"),
        "memory, last third": median(resident[-third:], "MB"),
        "private, first third": median(private[:third], "MB"),
        "private, last third": median(private[-third:], "MB"),
    }
