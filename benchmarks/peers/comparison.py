"""All systems of a workload in turns, round by round, on the same requests."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
from tokenizers import Tokenizer

from benchmarks.common.bare import bare_products
from benchmarks.common.turns import Seconds, alternate
from benchmarks.peers.catalogue import BASELINE, PEERS, REFERENCES, Peer, Setting
from benchmarks.peers.processes import PeerError, Worker, convert, make_environment, size_of
from benchmarks.peers.results import EVERYTHING, Asked, Outcome, System, Timing
from benchmarks.peers.workloads import Job, Request, Workload, draw_texts
from edgerank.bundle import Bundle, read_bundle
from edgerank.documents import make_pairs
from edgerank.prompt import PromptEncoder
from edgerank.rules import scoring_rule
from edgerank.tokenization import open_tokenizer

WARM_UP = 8  # documents of a request that are sent before the rounds
BARE_SECONDS = 0.5  # of a round's bare products
BARE = "bare int8 products"


@dataclass(frozen=True)
class Options:
    """How to measure."""

    threads: int
    environments: Path
    work: Path  # for checkpoints and converted models
    collection: Path | None = None
    rounds: int = 9
    seconds: float = 12  # of a system's rounds on a job; who has used them up sits out the rest
    minutes: float = 6  # of a workload's rounds, after which no other begins
    restart: bool = False  # one process at a time, anew each round: where memory is short


@dataclass
class Entry:
    """A system that takes part in a workload."""

    system: System
    start: Callable[[], Worker]
    started: list[Worker] = field(default_factory=list)
    line_seconds: dict[str, list[float]] = field(default_factory=dict)  # by job
    scores: dict[str, list[list[float]]] = field(default_factory=dict)


def select(
    wanted: Sequence[str], needed: set[tuple[str, str]], full: bool = False
) -> list[tuple[Peer, Setting]]:
    """Choose systems in the catalogue's order.

    :param wanted: PEER or PEER/SETTING; none of them means the quick set, or all with ``full``
    :param needed: peers and settings that take part anyhow
    :raises click.BadParameter: there is no such system
    """
    known = {f"{peer.name}/{one.name}" for peer in PEERS for one in peer.settings}
    unknown = set(wanted) - known - {peer.name for peer in PEERS}
    if unknown:
        raise click.BadParameter(
            f"no {min(unknown)}; there are {', '.join(sorted(known))}", param_hint="--peer"
        )
    return [
        (peer, setting)
        for peer in PEERS
        for setting in peer.settings
        if (peer.name, setting.name) in needed
        or not {peer.name, f"{peer.name}/{setting.name}"}.isdisjoint(wanted)
        or (not wanted and (setting.is_quick or full))
    ]


def compare(
    workload: Workload, systems: Sequence[tuple[Peer, Setting]], options: Options
) -> Outcome:
    """Build what is missing and measure all systems that can run the workload."""
    checkpoint = write_checkpoint(workload, options.work)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = draw_texts(options.collection, tokenizer)  # before what takes long: it may be unusable
    entries = build(workload, systems, options)
    jobs = workload.jobs(texts)
    rates = run_rounds(workload, entries, jobs, options)
    bundle = read_bundle(work_of(checkpoint, *BASELINE) / "bundle")
    return Outcome(
        workload=workload.name,
        model=workload.model,
        layers=workload.layers,
        whole_layers=workload.whole_layers,
        weights=workload.weights,
        texts=texts.source,
        reference=" ".join(REFERENCES[workload.family]),
        baseline=" ".join(BASELINE),
        jobs=[describe(job, workload, bundle, rates[job.name]) for job in jobs],
        systems=[entry.system for entry in entries],
    )


def build(
    workload: Workload, systems: Sequence[tuple[Peer, Setting]], options: Options
) -> list[Entry]:
    """Make the checkpoint and all environments and converted models that are missing."""
    checkpoint = write_checkpoint(workload, options.work)
    entries = []
    for peer, setting in systems:
        entries.append(enter(workload, checkpoint, peer, setting, options))
        system = entries[-1].system
        size = f"ready, {system.environment_bytes / 1e6:,.0f} MB of packages"
        outcome = system.reasons.get(EVERYTHING, size)
        click.echo(f"{workload.name}: {system.name}: {outcome}", err=True)
    return entries


def write_checkpoint(workload: Workload, work: Path) -> Path:
    """Write the workload's checkpoint unless it is there."""
    checkpoint = work / f"{workload.name}-{workload.layers}" / "checkpoint"
    if not checkpoint.exists():
        draft = checkpoint.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        workload.write(draft)
        draft.rename(checkpoint)
    return checkpoint


def work_of(checkpoint: Path, peer: str, setting: str) -> Path:
    return checkpoint.parent / f"{peer}.{setting}"


def enter(
    workload: Workload, checkpoint: Path, peer: Peer, setting: Setting, options: Options
) -> Entry:
    """Make a system's environment and convert its model; whatever fails becomes the reason."""
    work = work_of(checkpoint, peer.name, setting.name)
    system = System(peer.name, setting.name, setting.note)
    try:
        if workload.family not in setting.families:
            raise PeerError(peer.absent)
        python = make_environment(options.environments, peer.environment)
        converter = make_environment(options.environments, peer.converter or peer.environment)
        system.convert_s = convert(converter, peer.script, checkpoint, setting.name, work)
        system.environment_bytes = size_of(options.environments / peer.environment.name)
    except PeerError as error:
        system.reasons[EVERYTHING] = str(error)
        return Entry(system, _never)
    command = (python, peer.script, checkpoint, setting.name, work)
    return Entry(system, lambda: Worker(*command, threads=options.threads))


def run_rounds(
    workload: Workload, entries: Sequence[Entry], jobs: Sequence[Job], options: Options
) -> dict[str, list[float]]:
    """Let every entry have its turn at each job in each round.

    :return: the bare rates by round, in operations/s, by job
    """
    products = bare_products(np.int8, options.threads, workload.layer)
    turns: dict[tuple[str, str], Callable[[], float]] = {}
    with ExitStack() as stack:
        field = Field(workload.name, jobs, stack, options.restart)
        for job in jobs:
            turns[job.name, BARE] = partial(products.best_seconds, BARE_SECONDS)
            for entry in entries:
                turns[job.name, entry.system.name] = partial(field.turn, entry, job)
        times = alternate(
            turns, options.rounds, seconds_each=options.seconds, seconds=60 * options.minutes
        )
    for entry in entries:
        finish(entry, {job.name: times.get((job.name, entry.system.name)) for job in jobs})
    return {job.name: (products.operations / times[job.name, BARE]).tolist() for job in jobs}


class Field:
    """The workers of a workload that are running."""

    def __init__(self, workload: str, jobs: Sequence[Job], stack: ExitStack, restart: bool) -> None:
        self._workload, self._jobs, self._stack, self._restart = workload, jobs, stack, restart
        self._running: dict[str, Worker] = {}

    def turn(self, entry: Entry, job: Job) -> float:
        """Have all lines of a job scored, one by one: the worker's seconds.

        :raises PeerError: the entry cannot, now or since an earlier turn; the reason is noted
        """
        system = entry.system
        for what in (EVERYTHING, job.name):
            if what in system.reasons:
                raise PeerError(system.reasons[what])
        click.echo(f"{self._workload}: {job.name}: {system.name}", err=True)
        try:
            if system.name not in self._running:
                self._running[system.name] = start(entry, self._jobs)
                self._stack.callback(self._running[system.name].close)
            return score(entry, self._running[system.name], job)
        except PeerError as error:
            system.reasons[job.name if system.name in self._running else EVERYTHING] = str(error)
            raise
        finally:
            is_over = self._restart or job.name in system.reasons
            if is_over and system.name in self._running:
                self._running.pop(system.name).close()


def start(entry: Entry, jobs: Sequence[Job]) -> Worker:
    """Start a worker and let it warm up; a failure then is one of the whole system."""
    worker = entry.start()
    entry.started.append(worker)
    try:
        for job in jobs:
            if job.name not in entry.system.reasons:
                worker.score([cut(request) for request in job.lines[0]])
    except PeerError:
        worker.close()
        raise
    return worker


def cut(request: Request) -> Request:
    return {**request, "documents": request["documents"][:WARM_UP]}


def score(entry: Entry, worker: Worker, job: Job) -> float:
    """Have a job scored, and keep its scores: the seconds that it took."""
    answers = [worker.score(line) for line in job.lines]
    seconds = [answer.seconds for answer in answers]
    entry.line_seconds.setdefault(job.name, []).extend(seconds)
    entry.scores[job.name] = [scores for answer in answers for scores in answer.scores]
    entry.system.peak_bytes = max(entry.system.peak_bytes, worker.peak_bytes())
    return sum(seconds)


def finish(entry: Entry, times: dict[str, Seconds | None]) -> None:
    """Put together what is known of an entry; None are the times of a job that it failed at."""
    if not entry.started:
        return
    system, ready = entry.system, [worker.ready for worker in entry.started]
    system.versions, system.model_bytes = ready[0].versions, ready[0].model_bytes
    system.import_s = statistics.median(one.import_s for one in ready)
    system.start_s = statistics.median(worker.start_s for worker in entry.started)
    system.timings = {
        name: Timing(seconds, entry.line_seconds[name], entry.scores[name])
        for name, seconds in times.items()
        if seconds is not None
    }


def describe(job: Job, workload: Workload, bundle: Bundle, bare_rates: list[float]) -> Asked:
    """Count what a job asks for, as the baseline's prompt makes tokens of it."""
    manifest = bundle.manifest
    rule, tokenizer = scoring_rule(manifest.scoring), open_tokenizer(bundle.tokenizer_path)
    encoder = PromptEncoder(manifest.prompt, manifest.truncation, tokenizer, manifest.max_length)
    tokens = needed = 0
    for line in job.lines:
        for request in line:
            pairs = make_pairs(request["query"], request["documents"])
            for group in rule.prepare_pairs(pairs, encoder.encode).groups:
                needed += len(group)
                tokens += sum(len(group.prefix) + len(part) for part in group.sequences)
    return Asked(
        job.name,
        sum(len(line) for line in job.lines),
        job.documents,
        tokens,
        workload.layer.operations(workload.layers, needed, job.documents),
        bare_rates,
    )


def _never() -> Worker:
    raise AssertionError("a system with a reason not to run was started")
