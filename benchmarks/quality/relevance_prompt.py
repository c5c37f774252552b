"""Does int8 rank as float32 does where a decoder is asked for the relevance of documents?

The decoder is Gemma 3 270M with trained weights. It is no reranker: its score is how much rather it
says Yes than No. Every system scores the same documents, which BM25 finds for the first queries of
COLLECTIONS, directories in BEIR's layout or names of shared ones. Beside edgerank: llama.cpp's
Q8_0 and OpenVINO's int8 weights with dynamic quantization, in their own environments, and ONNX
Runtime's dynamic quantization per tensor of edgerank's float32 graph. "rho" is Spearman's rank
correlation with float32, "tau" Kendall's; the spread is the mean over queries of the standard
deviation of float32's scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.paths import GEMMA, trained_checkpoint
from benchmarks.common.record import Figure, Row
from benchmarks.peers.processes import PeerError
from benchmarks.quality.agreement import (
    DOCUMENTS_AT_ONCE,
    compare,
    pairs_of,
    spread_of,
    write_template,
)
from benchmarks.quality.dynamic import dynamic_bundle
from benchmarks.quality.systems import System, bundle_system, kept_scores, peer_system

COLLECTIONS = "cisi", "xquad-en"  # shared
REFERENCE = "float32"
DYNAMIC = "ONNX Runtime int8, per tensor"
PRECISIONS = {REFERENCE: "fp32", "edgerank int8": "int8"}
PEERS = {  # peer and setting
    "llama.cpp Q8_0": ("llama.cpp", "q8_0"),
    "OpenVINO int8, dynamic": ("openvino", "int8-dynamic"),
}
SYSTEMS = [*PRECISIONS, *PEERS, DYNAMIC]


@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option("--queries", default=10, show_default=True, help="Queries of a collection.")
@options.candidates(20)
@click.option(
    "--system", "systems", type=click.Choice(SYSTEMS), multiple=True, help="All by default."
)
@options.environments
@options.work
def measure(
    collections: tuple[Path, ...],
    queries: int,
    candidates: int,
    systems: tuple[str, ...],
    environments: Path,
    work: Path | None,
) -> Iterator[Row]:
    pairs = pairs_of(collections, queries, candidates)
    flat = [pair for of_query in pairs for pair in of_query]
    with options.directory(work) as kept:
        directory = Path(kept).absolute() / GEMMA
        expected = None
        for name in dict.fromkeys((REFERENCE, *(systems or SYSTEMS))):
            labels = {"system": name}
            try:
                with opened(name, environments.absolute(), directory) as system:
                    scores = kept_scores(
                        system,
                        flat,
                        directory / "scores",
                        name,
                        documents_at_once=DOCUMENTS_AT_ONCE,
                    )
            except PeerError as error:
                yield Row({**labels, "reason": str(error)})
                continue
            if expected is None:
                expected = scores
                counts = {"queries": Figure(len(pairs)), "pairs": Figure(len(flat))}
                yield Row(
                    {"float32": GEMMA}, {**counts, "spread": Figure(spread_of(scores, pairs))}
                )
            else:
                yield Row(labels, compare(scores, expected, pairs))


def opened(name: str, environments: Path, directory: Path) -> AbstractContextManager[System]:
    """Open a system, made in the directory unless it is there."""
    checkpoint = trained_checkpoint(GEMMA)
    if name in PEERS:
        peer, setting = PEERS[name]
        return peer_system(peer, setting, checkpoint, environments, directory / f"{peer}.{setting}")
    precision = PRECISIONS.get(name, "fp32")
    template = write_template(directory / "template.json")
    bundle = quantized(checkpoint, directory / precision, precision=precision, template=template)
    if name == DYNAMIC:
        return bundle_system(dynamic_bundle(bundle, directory / "dynamic"))
    return bundle_system(bundle)
