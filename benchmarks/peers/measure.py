"""Measure: all systems of a workload in turns, round by round, on the same requests."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from benchmarks.engine import bare, bare_operations
from benchmarks.peers import results
from benchmarks.peers.catalogue import BASELINE, REFERENCES, Peer, Setting
from benchmarks.peers.processes import PeerError, Worker, convert, make_environment, size_of
from benchmarks.peers.results import EVERYTHING
from benchmarks.peers.workloads import Job, Request, Workload, draw_texts
from edgerank.bundle import Bundle, read_bundle
from edgerank.preparation import checked_pairs, prepare
from edgerank.prompt import PromptEncoder

FEWEST_ROUNDS = 2  # of every system, however long they take
WARM_UP = 8  # documents of a request that are sent before the rounds
BARE_SECONDS = 0.5  # of a round's bare products

System = tuple[Peer, Setting]


@dataclass(frozen=True)
class Options:
    """How to measure."""

    threads: int
    rounds: int
    seconds: float  # of a system's rounds on a job; who has used them up sits out the rest
    minutes: float  # of a workload's rounds, after which no other begins
    restart: bool  # one process at a time, started anew each round: where memory is short
    environments: Path
    work: Path  # for checkpoints and converted models
    collection: Path | None


@dataclass
class Entry:
    """A system that takes part in a workload."""

    start: Callable[[], Worker]
    facts: results.System
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)  # by job
    scores: dict[str, list[list[float]]] = field(default_factory=dict)
    starts: list[Worker] = field(default_factory=list)


def measure(workload: Workload, systems: Sequence[System], options: Options) -> results.Workload:
    """Build what is missing and measure all systems that can run the workload."""
    checkpoint = write_checkpoint(workload, options.work)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = draw_texts(options.collection, tokenizer)  # before what takes long: it may be unusable
    entries = build(workload, systems, options)
    jobs = workload.jobs(texts)
    rates = run_rounds(workload, entries, jobs, options)
    bundle = read_bundle(work_of(checkpoint, *BASELINE) / "bundle")
    return results.Workload(
        name=workload.name,
        model=workload.geometry.model,
        layers=workload.geometry.layers,
        whole_layers=workload.whole_layers,
        weights=workload.weights,
        texts=texts.source,
        reference=" ".join(REFERENCES[workload.family]),
        baseline=" ".join(BASELINE),
        jobs=[describe(job, workload, bundle, rates[job.name]) for job in jobs],
        systems=[finished(entry) for entry in entries],
    )


def build(workload: Workload, systems: Sequence[System], options: Options) -> list[Entry]:
    """Make the checkpoint and all environments and converted models that are missing."""
    checkpoint = write_checkpoint(workload, options.work)
    entries = []
    for system in systems:
        entries.append(enter(workload, checkpoint, system, options))
        facts = entries[-1].facts
        size = f"ready, {facts.environment_bytes / 1e6:,.0f} MB of packages"
        outcome = facts.reasons.get(EVERYTHING, size)
        print(f"{workload.name}: {facts.name}: {outcome}", file=sys.stderr)
    return entries


def write_checkpoint(workload: Workload, work: Path) -> Path:
    """Write the workload's checkpoint unless it is there."""
    checkpoint = work / f"{workload.name}-{workload.geometry.layers}" / "checkpoint"
    if not checkpoint.exists():
        draft = checkpoint.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        workload.write(draft)
        draft.rename(checkpoint)
    return checkpoint


def work_of(checkpoint: Path, peer: str, setting: str) -> Path:
    return checkpoint.parent / f"{peer}.{setting}"


def enter(workload: Workload, checkpoint: Path, system: System, options: Options) -> Entry:
    """Make a system's environment and convert its model; whatever fails becomes the reason."""
    peer, setting = system
    work = work_of(checkpoint, peer.name, setting.name)
    facts = results.System(peer.name, setting.name, setting.note)
    try:
        if workload.family not in setting.families:
            raise PeerError(peer.absent)
        python = make_environment(options.environments, peer.environment)
        converter = make_environment(options.environments, peer.converter or peer.environment)
        seconds = convert(converter, peer.script, checkpoint, setting.name, work)
        size = size_of(options.environments / peer.environment.name)
        facts = msgspec.structs.replace(facts, convert_s=seconds, environment_bytes=size)
    except PeerError as error:
        return Entry(_never, msgspec.structs.replace(facts, reasons={EVERYTHING: str(error)}))
    command = (python, peer.script, checkpoint, setting.name, work)
    return Entry(lambda: Worker(*command, threads=options.threads), facts)


def run_rounds(
    workload: Workload, entries: Sequence[Entry], jobs: Sequence[Job], options: Options
) -> dict[str, list[float]]:
    """Let every entry have its turn at each job in each round: the jobs' bare rates by round."""
    matrices = workload.geometry.matrices
    products = bare(np.int8, options.threads, matrices)
    rates: dict[str, list[float]] = {job.name: [] for job in jobs}
    deadline = time.perf_counter() + 60 * options.minutes
    with ExitStack() as stack:
        running: dict[str, Worker] = {}
        for number, job in product(range(options.rounds), jobs):
            if number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
                break
            rates[job.name].append(bare_operations(matrices) / best_of(products))
            for entry in entries:
                if is_out(entry, job, options.seconds):
                    continue
                name = entry.facts.name
                print(f"{workload.name}: {job.name}, round {number + 1}: {name}", file=sys.stderr)
                try:
                    if name not in running:
                        running[name] = start(entry, jobs)
                        stack.callback(running[name].close)
                    turn(entry, running[name], job)
                except PeerError as error:
                    failed = job.name if name in running else EVERYTHING
                    entry.facts.reasons[failed] = str(error)
                    entry.seconds.pop(job.name, None)
                if name in running and (options.restart or job.name in entry.facts.reasons):
                    running.pop(name).close()
    return rates


def best_of(products: Callable[[], object]) -> float:
    """Return the least seconds of several calls: a limit is what the machine does at its best."""
    times = []
    while sum(times) < BARE_SECONDS or len(times) < 2:
        begin = time.perf_counter()
        products()
        times.append(time.perf_counter() - begin)
    return min(times)


def is_out(entry: Entry, job: Job, seconds: float) -> bool:
    """Tell whether an entry has had its share of a job, or cannot do it."""
    if not entry.facts.reasons.keys().isdisjoint({job.name, EVERYTHING}):
        return True
    rounds = entry.seconds.get(job.name, [])
    return len(rounds) >= FEWEST_ROUNDS and sum(map(sum, rounds)) > seconds


def start(entry: Entry, jobs: Sequence[Job]) -> Worker:
    """Start a worker and let it warm up; a failure then is one of the whole system."""
    worker = entry.start()
    entry.starts.append(worker)
    try:
        for job in jobs:
            if job.name not in entry.facts.reasons:
                worker.score([cut(request) for request in job.lines[0]])
    except PeerError:
        worker.close()
        raise
    return worker


def cut(request: Request) -> Request:
    return {**request, "documents": request["documents"][:WARM_UP]}


def turn(entry: Entry, worker: Worker, job: Job) -> None:
    """Have all lines of a job scored, one by one."""
    answers = [worker.score(line) for line in job.lines]
    entry.seconds.setdefault(job.name, []).append([answer.seconds for answer in answers])
    entry.scores[job.name] = [scores for answer in answers for scores in answer.scores]
    peak = max(entry.facts.peak_bytes, worker.peak_bytes())
    entry.facts = msgspec.structs.replace(entry.facts, peak_bytes=peak)


def finished(entry: Entry) -> results.System:
    """Put together what is known of an entry."""
    if not entry.starts:
        return entry.facts
    ready = [worker.ready for worker in entry.starts]
    return msgspec.structs.replace(
        entry.facts,
        versions=ready[0].versions,
        model_bytes=ready[0].model_bytes,
        import_s=statistics.median(one.import_s for one in ready),
        start_s=statistics.median(worker.start_s for worker in entry.starts),
        jobs={
            name: results.Timing(seconds, entry.scores[name])
            for name, seconds in entry.seconds.items()
        },
    )


def describe(job: Job, workload: Workload, bundle: Bundle, bare_rates: list[float]) -> results.Job:
    """Count what a job asks for, as the baseline's prompt makes tokens of it."""
    encoder = PromptEncoder(bundle, bundle.manifest.max_length)
    tokens = needed = 0
    for line in job.lines:
        for request in line:
            pairs = checked_pairs((request["query"], text) for text in request["documents"])
            for group in prepare(pairs, encoder.encode, "logit").groups:
                needed += len(group)
                tokens += sum(len(group.prefix) + len(part) for part in group.sequences)
    return results.Job(
        job.name,
        sum(len(line) for line in job.lines),
        job.documents,
        tokens,
        workload.geometry.operations(needed, job.documents),
        bare_rates,
    )


def _never() -> Worker:
    raise AssertionError("a system with a reason not to run was started")
