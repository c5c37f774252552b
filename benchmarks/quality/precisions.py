"""What do 8 and 4 bits cost in ranking quality, beside others' int8?

MODEL has trained weights. Every system re-ranks the candidates of BM25. Its nDCG@10 is compared
with float32's by a paired randomisation test over queries, and its scores, cosines, with float32's.
Others run in their own environments: OpenVINO with a model that NNCF calibrated and with int8
weights and dynamic quantization, optimum's and sentence-transformers' exports with ONNX Runtime's
dynamic quantization. COLLECTIONS are directories in BEIR's layout or names of shared ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.paths import MINILM, MPNET, trained_checkpoint
from benchmarks.common.record import Figure, Row
from benchmarks.peers.processes import PeerError
from benchmarks.quality.rescoring import draw, part_of
from benchmarks.quality.systems import Scores, System, bundle_system, kept_scores, peer_system
from edgerank.evaluation import (
    NDCG,
    Collection,
    Measured,
    Run,
    bm25,
    evaluate,
    randomisation_test,
    read_collection,
)
from edgerank.manifest import PrecisionName

COLLECTIONS = "cisi", "npl", "xquad-en", "cosqa"  # shared
PRECISIONS: dict[str, PrecisionName] = {
    "float32": "fp32",
    "edgerank int8": "int8",
    "edgerank int8-fine": "int8-fine",
    "edgerank int4": "int4",
}
PEERS = {  # peer and setting
    "OpenVINO int8, NNCF": ("openvino", "int8"),
    "OpenVINO int8, dynamic": ("openvino", "int8-dynamic"),
    "optimum int8": ("optimum", "int8"),
    "sentence-transformers int8": ("sentence-transformers", "onnx-int8"),
}
REFERENCE = "float32"
DOCUMENTS_AT_ONCE = {MINILM: 400, MPNET: 50}  # some seconds' work
SYSTEMS = [*PRECISIONS, *PEERS]


@dataclass(frozen=True)
class Judged:
    """A collection and what is ranked of it."""

    collection: Collection
    candidates: Run

    @property
    def name(self) -> str:
        return f"{self.collection.name}, {len(self.collection.queries)} queries"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        texts = self.collection
        return [
            (texts.queries[query], texts.documents[document])
            for query, found in self.candidates.items()
            for document in found
        ]

    def measured(self, scores: Scores) -> Measured:
        """Evaluate the ranking by scores of the pairs."""
        left = iter(scores.tolist())
        run = {
            query: {document: next(left) for document in found}
            for query, found in self.candidates.items()
        }
        return evaluate(self.collection.qrels, run)


@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option(
    "--model", type=click.Choice(list(DOCUMENTS_AT_ONCE)), default=MINILM, show_default=True
)
@click.option(
    "--system", "systems", type=click.Choice(SYSTEMS), multiple=True, help="All by default."
)
@options.candidates(50)
@click.option(
    "--queries", type=click.IntRange(1), help="Queries of a collection at most; all by default."
)
@options.environments
@options.work
def measure(
    collections: tuple[Path, ...],
    model: str,
    systems: tuple[str, ...],
    candidates: int,
    queries: int | None,
    environments: Path,
    work: Path | None,
) -> Iterator[Row]:
    judged = []
    for path in collections:
        collection = read_collection(path)
        run = bm25(collection, candidates)
        if queries is not None:
            run = draw(run, queries)
            collection = part_of(collection, run)
        judged.append(Judged(collection, run))
    found: dict[str, list[Scores]] = {}
    sizes: dict[str, int] = {}
    with options.directory(work) as kept:
        directory = Path(kept).absolute() / model
        for name in dict.fromkeys((REFERENCE, *(systems or SYSTEMS))):
            try:
                with opened(name, model, environments.absolute(), directory) as system:
                    sizes[name] = system.num_bytes
                    found[name] = [
                        kept_scores(
                            system,
                            one.pairs,
                            directory / "scores",
                            f"{name}: {one.name}",
                            documents_at_once=DOCUMENTS_AT_ONCE[model],
                        )
                        for one in judged
                    ]
            except PeerError as error:
                yield Row({"model": model, "system": name, "reason": str(error)})
    yield from rows(model, judged, found, sizes)


def opened(
    name: str, model: str, environments: Path, directory: Path
) -> AbstractContextManager[System]:
    """Open a system of a model, made in the directory unless it is there."""
    checkpoint = trained_checkpoint(model)
    if name in PRECISIONS:
        precision = PRECISIONS[name]
        return bundle_system(quantized(checkpoint, directory / precision, precision=precision))
    peer, setting = PEERS[name]
    return peer_system(peer, setting, checkpoint, environments, directory / f"{peer}.{setting}")


def rows(
    model: str,
    judged: Sequence[Judged],
    found: Mapping[str, Sequence[Scores]],
    sizes: Mapping[str, int],
) -> Iterator[Row]:
    """Compare systems with float32: a table for each figure, a column for each collection.

    :param found: scores of each collection's pairs, by system
    """
    measured = {
        name: [one.measured(scores) for one, scores in zip(judged, of_system, strict=True)]
        for name, of_system in found.items()
    }
    expected, reference = found[REFERENCE], measured[REFERENCE]

    def row(table: str, name: str, values: Sequence[float]) -> Row:
        columns = zip(judged, values, strict=True)
        figures = {one.name: Figure(float(value)) for one, value in columns}
        return Row({"model": model, table: name}, figures)

    first_stage = [evaluate(one.collection.qrels, one.candidates) for one in judged]
    for name, results in {"BM25": first_stage, **measured}.items():
        yield row(NDCG, name, [one.means[NDCG] for one in results])
    others = [name for name in found if name != REFERENCE]
    pairs = {name: list(zip(measured[name], reference, strict=True)) for name in others}
    for name in others:
        differences = [ours.means[NDCG] - theirs.means[NDCG] for ours, theirs in pairs[name]]
        yield row(f"{NDCG} less float32's", name, differences)
    for name in others:
        p = [
            randomisation_test(ours.per_query[NDCG], theirs.per_query[NDCG])
            for ours, theirs in pairs[name]
        ]
        yield row("p of that difference", name, p)
    for name in others:
        both = zip(found[name], expected, strict=True)
        yield row("mean error of scores", name, [np.abs(a - b).mean() for a, b in both])
    for name, size in sizes.items():
        yield Row(
            {"model": model, "size of": name}, {"graph and weights": Figure(size / 1e6, "MB")}
        )
