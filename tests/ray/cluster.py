"""A cluster of two nodes on this machine, and stages that fail while they score."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from ray.data import DataContext

from edgerank.batch.on_ray import ShardStage
from edgerank.ray import PIECE, RerankStage
from tests.support import ROOT

CPUS = 2  # of a node
STORE_BYTES = 100 << 20
SETTINGS = {
    "PYTHONPATH": str(ROOT),  # for workers, to find this module
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Start two nodes and connect to them."""
    before = dict(os.environ)
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray would leave it as it is
    os.environ.update(SETTINGS)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": CPUS,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        add_node(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        DataContext.get_current().enable_progress_bars = False
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


def add_node(cluster: Cluster):
    return cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES)


class Observed(RerankStage):
    """Notes in a directory which nodes and processes have begun a batch."""

    def __init__(self, notes: str, **options) -> None:
        super().__init__(**options)
        self.notes = Path(notes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        node = ray.get_runtime_context().get_node_id()
        with (self.notes / f"{node}.{os.getpid()}").open("a") as file:
            print(len(batch), file=file)
        return super().__call__(batch)


class KilledOnce(Observed):
    """Ends its process by SIGKILL in the third batch, once in a job."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        killed = self.notes / "killed"
        notes = [path for path in self.notes.iterdir() if path != killed]
        if not killed.exists() and sum(len(path.read_text().split()) for path in notes) >= 3:
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


class Slow(Observed):
    """Takes its time."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        result = super().__call__(batch)
        time.sleep(0.3)
        return result


class Counter:
    """Counts the rows of a piece, and takes a moment for it."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        time.sleep(0.02)
        return pa.table({"rows": [len(rows) for rows in batch.column(PIECE)]})


def killed_shard_stage(notes: Path) -> type[ShardStage]:
    """Make a stage that ends its process by SIGKILL in its third shard, once in a job."""

    class KilledShardStage(ShardStage):
        shards = 0

        def __call__(self, batch: pa.Table) -> pa.Table:
            self.shards += 1
            if self.shards == 3 and not (notes / "killed").exists():
                (notes / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    return KilledShardStage


def slow_shard_stage(seconds: float) -> type[ShardStage]:
    """Make a stage that takes its time for each shard."""

    class SlowShardStage(ShardStage):
        def __call__(self, batch: pa.Table) -> pa.Table:
            time.sleep(seconds)
            return super().__call__(batch)

    return SlowShardStage


def counting_shard_stage(notes: Path) -> type[ShardStage]:
    """Make a stage that notes the threads of its model and of its tokenizer."""

    class CountingShardStage(ShardStage):
        def __call__(self, batch: pa.Table) -> pa.Table:
            told = f"{self._reranker.threads} {os.environ['RAYON_NUM_THREADS']}"
            (notes / "threads").write_text(told)
            return super().__call__(batch)

    return CountingShardStage


def other_version_stage() -> type[ShardStage]:
    """Make a stage of a node that has another edgerank."""

    class OtherVersionStage(ShardStage):
        def __init__(self, task) -> None:
            import edgerank

            edgerank.__version__ = "0"
            super().__init__(task)

    return OtherVersionStage
