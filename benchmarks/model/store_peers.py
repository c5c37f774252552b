"""How fast is a query compared with stored token vectors, beside other libraries?

The same vectors, a query at a time, its encoding not included. edgerank compares int8, with the
kernels of each instruction set of this CPU, with numba and with NumPy. Others have float32 of the
same vectors, but for fast-plaid, which searches its own index of 4 bits with its defaults.
MatMulInteger is ONNX Runtime's product with the query in int8 too. fastembed makes vectors and
leaves their comparison to Qdrant; its client in memory is what compares here. The largest
difference is that of the mean cosine of a query's tokens to float32's; of documents that fast-plaid
leaves out, there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.common import options
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import alternate, median_seconds, ratio
from benchmarks.model.store import passages_of
from benchmarks.peers.catalogue import Environment
from benchmarks.peers.processes import PeerError, Worker, make_environment
from benchmarks.quality.bfloat16 import ROUNDED
from edgerank import DocumentStore, Reranker
from edgerank.evaluation import read_collection
from edgerank.kernels import available, choose_kernels
from edgerank.scoring import unit_rows
from edgerank.store.backend import Backend
from edgerank.store.by_kernels import kernels_backend
from edgerank.store.comparing import Comparer, choose_backend
from edgerank.store.features import Query, store_rule
from edgerank.store.segments import Segment
from edgerank.store.writing import open_segments

ENVIRONMENT = Environment(
    "late-interaction", ("--no-deps", "-r benchmarks/peers/requirements/late-interaction.txt")
)
PEERS = "pylate", "fast-plaid", "maxsim-cpu", "qdrant-client"

Scores = NDArray[np.float32]


@click.option("--collection", type=options.CollectionPath(), default="xquad-en", show_default=True)
@click.option("--ranked", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=10, show_default=True)
@click.option("--peer", "peers", type=click.Choice(PEERS), multiple=True, default=PEERS)
@options.rounds(5)
@options.threads
@options.environments
def measure(
    collection: Path,
    ranked: int,
    calls: int,
    peers: tuple[str, ...],
    rounds: int,
    threads: int,
    environments: Path,
) -> Iterator[Row]:
    with TemporaryDirectory(prefix="store-peers-") as work, Reranker(threads=threads) as reranker:
        documents = read_collection(collection)
        passages = {f"p{i}": t for i, t in enumerate(passages_of(reranker, documents, ranked))}
        rule = replace(store_rule(reranker.bundle), has_token_ids=False)
        with DocumentStore.build(Path(work) / "store", passages, reranker) as store:
            [segment] = open_segments(store.directory, store.manifest, store_rule(reranker.bundle))
            texts = islice(documents.queries.values(), calls)
            queries = [unweighted(reranker.compute(store.prepare_query(text))) for text in texts]
        parts = np.arange(segment.info.parts)
        candidates: dict[str, Callable[[Query], Scores]] = {}
        for name, backend in backends().items():
            compare = Comparer(rule, threads, backend).features
            candidates[f"edgerank, {name}"] = lambda query, compare=compare: (
                compare(segment, parts, query).nearest
            )
        candidates["MatMulInteger"] = by_matmul_integer(segment, threads)
        workers = {}
        try:
            for name in peers:
                try:
                    workers[name] = started(
                        name, segment, queries, environments, Path(work), threads
                    )
                except PeerError as error:
                    yield Row({"compared by": name, "reason": str(error)})
            yield from rows(segment, queries, candidates, workers, rounds)
        finally:
            for worker in workers.values():
                worker.close()


def backends() -> dict[str, Backend]:
    """Return edgerank's own: the kernels, those of this CPU first, numba and NumPy."""
    names = [name for name in available() if name != ROUNDED]  # which compares as avx512_vnni
    kernels = {name: kernels_backend(choose_kernels(name)) for name in names}
    return kernels | {name: choose_backend(name) for name in ("numba", "numpy")}


def unweighted(query: Query) -> Query:
    """Count all tokens of a query alike, as MaxSim does."""
    return replace(query, shares=np.ones_like(query.shares))


def started(
    name: str,
    segment: Segment,
    queries: list[Query],
    environments: Path,
    work: Path,
    threads: int,
) -> Worker:
    """Start a library with the vectors in float32.

    :raises PeerError: it cannot run here
    """
    python = make_environment(environments.absolute(), ENVIRONMENT)
    if not (work / "vectors.npy").exists():
        np.save(work / "vectors.npy", unit_vectors(segment))
        np.save(work / "ends.npy", segment.part_tokens[1:])
        vectors = {str(number): query.vectors for number, query in enumerate(queries)}
        np.savez(work / "queries.npz", **vectors)
    return Worker(python, "late_interaction_", work, name, work, threads=threads)


def rows(
    segment: Segment,
    queries: list[Query],
    candidates: Mapping[str, Callable[[Query], Scores]],
    workers: Mapping[str, Worker],
    rounds: int,
) -> Iterator[Row]:
    """Time all in turns, and compare their scores."""
    documents = [""] * segment.info.parts
    requests = [{"query": str(number), "documents": documents} for number in range(len(queries))]

    def own_turn(compare: Callable[[Query], Scores]) -> Callable[[], float]:
        def turn() -> float:
            asked = iter(queries)
            return median_seconds(lambda: compare(next(asked)), len(queries))

        return turn

    def peer_turn(worker: Worker) -> Callable[[], float]:
        return lambda: float(np.median([worker.score([each]).seconds for each in requests]))

    scores = {name: [compare(query) for query in queries] for name, compare in candidates.items()}
    for name, worker in workers.items():
        scores[name] = [np.array(worker.score([each]).scores[0]) for each in requests]
    turns = {name: own_turn(compare) for name, compare in candidates.items()}
    turns |= {name: peer_turn(worker) for name, worker in workers.items()}
    times = alternate(turns, rounds)
    first = next(iter(times.values()))
    expected = in_float32(segment, queries)
    own_bytes = segment.vectors.nbytes + segment.scales.nbytes
    for name, seconds in times.items():
        errors = [
            np.abs(np.where(found == 0, 0, found - wanted)).max() / len(query.vectors)
            for found, wanted, query in zip(scores[name], expected, queries, strict=True)
        ]
        size = workers[name].ready.model_bytes if name in workers else own_bytes
        yield Row(
            {"compared by": name},
            {
                "a query": median(seconds * 1e3, "ms"),
                "time against the first": median(ratio(seconds, first), "×"),
                "largest difference": Figure(float(max(errors))),
                "vectors": Figure(size / segment.info.parts, "bytes/passage"),
            },
        )


def unit_vectors(segment: Segment) -> NDArray[np.float32]:
    return unit_rows(segment.vectors.astype(np.float32))


def in_float32(segment: Segment, queries: list[Query]) -> list[Scores]:
    """Compare in float32 as a loop would."""
    vectors, starts = unit_vectors(segment), segment.part_tokens[:-1]
    return [np.maximum.reduceat(vectors @ query.vectors.T, starts).sum(axis=1) for query in queries]


def by_matmul_integer(segment: Segment, threads: int) -> Callable[[Query], Scores]:
    """Multiply int8 by ONNX Runtime."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "compare",
        [
            helper.make_tensor_value_info("a", TensorProto.INT8, ["t", "d"]),
            helper.make_tensor_value_info("b", TensorProto.INT8, ["d", "n"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["t", "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), settings)

    def compare(query: Query) -> Scores:
        scale = np.abs(query.vectors).max(axis=1) / np.float32(127)
        rounded = np.rint(query.vectors / scale[:, None]).astype(np.int8)
        feed = {"a": segment.vectors, "b": np.ascontiguousarray(rounded.T)}
        cosines = session.run(None, feed)[0].astype(np.float32)
        cosines *= segment.scales[:, None]
        nearest: Scores = np.maximum.reduceat(cosines, segment.part_tokens[:-1]) @ scale
        return nearest

    return compare
