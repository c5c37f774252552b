"""A job's shards on a Ray cluster: Ray Data gives them to actors, each with a model of its own.

What goes through Ray is a shard's number and, back, the content of its file, which the process of
the job writes. The input, the corpus and the bundle are read by the actors, from the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from edgerank.batch.job import Cluster, Scorer
from edgerank.batch.opening import describe_scorer
from edgerank.batch.reading import Indexes, Reader
from edgerank.batch.settings import differences, scorer_settings
from edgerank.batch.shards import ShardResult, score_shards
from edgerank.batch.workers import Task
from edgerank.errors import BatchError, EdgerankError
from edgerank.ray import keep_to_share

MAX_BLOCKS = 10_000  # of shards; more would be slow to hand to Ray, and each is a task
NO_TELEMETRY = "RAY_USAGE_STATS_ENABLED"  # "1" allows it
LOCAL = {"include_dashboard": False}  # of a cluster that is started for the job


def score_on_ray(
    task: Task, numbers: Sequence[int], cluster: Cluster, tell: Callable[[int], None]
) -> Generator[ShardResult, None, None]:
    """Score shards on a cluster, in any order; an actor that is lost is replaced.

    Closing the iterator ends the actors. They end by themselves if this process is killed.

    :param tell: called with the number of pairs of each shard
    :raises BatchError: the cluster is not reached or fails, or an actor cannot score
    """
    with _connected(cluster.address):
        try:
            blocks = _dataset(_absolute(task), numbers, cluster).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for block in blocks:
                for answer in block.column("answer"):
                    result = pickle.loads(answer.as_py())
                    if isinstance(result, Exception):
                        raise result
                    tell(task.job.shards[result.number].pairs)
                    yield result
        except RayError as error:
            raise BatchError(f"Ray: {error}") from error


class ShardStage:
    """Scores the shards whose numbers come, in an actor.

    What goes wrong is an answer, too: an error would be shown with all of Ray's own frames.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._failure: EdgerankError | None = None
        try:
            threads = keep_to_share(task.opening.threads)
            self._reranker = replace(task.opening, threads=threads).open()
            _check_same_scores(
                task.job.scorer, describe_scorer(self._reranker, task.job.scorer.asking)
            )
            self._reader = Reader(task.source, task.job.format, task.indexes)
        except (EdgerankError, OSError) as error:
            self._failure = _named(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        numbers = batch.column("shard").to_pylist()
        answers: list[ShardResult | EdgerankError] = []
        try:
            if self._failure is not None:
                raise self._failure
            answers += score_shards(self._reranker, self._reader, self._task.job, numbers)
        except EdgerankError as error:
            answers.append(_named(error))
        return pa.table({"answer": pa.array(map(pickle.dumps, answers), pa.large_binary())})


def _dataset(task: Task, numbers: Sequence[int], cluster: Cluster) -> Dataset:
    """Return the answers of the actors as a dataset that is not computed yet.

    Its blocks are made here: a task that made them would wait for a CPU that the actors have.
    """
    DataContext.get_current().enable_progress_bars = False  # the job has one
    size = -(-len(numbers) // MAX_BLOCKS)
    blocks = [
        pa.table({"shard": pa.array(numbers[start : start + size], pa.int64())})
        for start in range(0, len(numbers), size)
    ]
    most = min(cluster.actors or len(blocks), len(blocks))
    room = int(ray.cluster_resources().get("CPU", 1)) // cluster.actor_cpus
    return ray.data.from_arrow(blocks).map_batches(
        ShardStage,
        fn_constructor_kwargs={"task": task},
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(room, most))),
        num_cpus=cluster.actor_cpus,
    )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or to one that is started for the job, unless the caller has.

    :raises BatchError: it is not reached
    """
    os.environ.setdefault(NO_TELEMETRY, "0")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    try:
        options = LOCAL if address in (None, "local") else {}
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BatchError(f"no cluster of Ray at {address or 'local'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_same_scores(wanted: Scorer, here: Scorer) -> None:
    """Check that an actor's scores are those of the job: compiled kernels give the same bits.

    :raises BatchError: they may not be
    """
    if wanted.threads is here.threads is None:
        here = msgspec.structs.replace(here, kernels=wanted.kernels)
    found = [
        f"{name} is {own} there and {needed} here"
        for name, needed, own in differences(scorer_settings(wanted), scorer_settings(here))
    ]
    if found:
        raise BatchError(
            f"it would score otherwise: {'; '.join(found)}; install the same versions and the same"
            " bundle, and name --threads if ONNX Runtime's own operators compute"
        )


def _named(error: Exception) -> BatchError:
    """Name the node that an error is of."""
    return BatchError(f"node {ray.util.get_node_ip_address()} of the cluster: {error}")


def _absolute(task: Task) -> Task:
    """Name files as every node has them."""
    source, indexes = task.source, task.indexes
    return replace(
        task,
        source=replace(
            source,
            files=tuple(path.resolve() for path in source.files),
            corpus=None if source.corpus is None else source.corpus.resolve(),
            queries=None if source.queries is None else source.queries.resolve(),
        ),
        indexes=None
        if indexes is None
        else Indexes(indexes.queries.resolve(), indexes.corpus.resolve()),
        opening=replace(
            task.opening,
            bundle=Path(task.opening.bundle).resolve(),
            trust=None if task.opening.trust is None else Path(task.opening.trust).resolve(),
        ),
    )
