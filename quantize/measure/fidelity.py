"""Measures the fidelity of a graph: its scores against those of the original in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.stats import kendalltau
from tqdm import tqdm

from edgerank.gpu import visible_gpus
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER, Compared, Fidelity
from edgerank.packing import Batch
from edgerank.session import Session
from quantize.architectures.layered_model import LayeredModel
from quantize.graph.builder import Graph
from quantize.measure.calibration import TextPair
from quantize.measure.emulation import LARGEST, emulated
from quantize.measure.layerwise import LayerwiseRunner, Streams
from quantize.measure.preparation import PackedCalibration, PackedPairs
from quantize.rounding.rounding import Floats

WORST = 5  # documents with the largest errors
TOP = 10
FOLDING = "ConstantFolding"  # an optimizer, which would hold all weights in float32 at once
TRACED_BATCHES = 4  # micro-batches for the error after each layer


@dataclass(frozen=True)
class Reference:
    """The original model's scores of the held-out pairs."""

    text: str  # source of the pairs
    held_out: PackedPairs
    scores: Floats  # [number of pairs]
    streams: Sequence[Streams] = ()  # after each layer, for the first micro-batches, if observed


@dataclass(frozen=True)
class WrittenGraph:
    """A graph, and its values that correspond to the original's hidden states."""

    graph: Graph
    streams: Sequence[str] = ()  # names of the values after each layer
    align: Callable[[Floats], Floats] = lambda stream: stream  # an original stream to the graph's


def run_reference(
    model: LayeredModel[Any], text: PackedCalibration, scratch: Path, bar: tqdm
) -> Reference:
    """Score the held-out pairs layer by layer in float32."""
    runner, held_out = LayerwiseRunner(model, scratch, bar), text.held_out
    traced: list[Streams] = []
    after: Streams = []
    for run in runner.run_layers(held_out.batches):
        after = run.after
        traced.append(after[:TRACED_BATCHES])
    results = runner.run_head(held_out.batches, after, held_out.prepared.output.name)
    return Reference(text.name, held_out, held_out.scores(results), traced)


def score_graph(path: Path, pairs: PackedPairs) -> Floats:
    """Score pairs by a graph: float32 [number of pairs]."""
    session = Session(path)
    scores = pairs.scores(_run(session, pairs))
    session.close()
    return scores


def measure_graph(written: WrittenGraph, reference: Reference) -> tuple[Fidelity, Floats]:
    """Measure a graph; return its fidelity and its scores."""
    graph = written.graph
    graph.save(extra_outputs=written.streams)
    scores, layers = _measure(Session(graph.path), written, reference)
    graph.save()
    return compare(reference, scores, layers), scores


class RangeExceededError(Exception):
    """A number to be rounded to half precision is too large."""

    def __init__(self, largest: float) -> None:
        super().__init__(largest)
        self.largest = largest


def measure_half_graph(
    written: WrittenGraph, reference: Reference, limit: float
) -> tuple[Fidelity, Floats]:
    """Measure a graph in half precision: on a GPU, or emulated on the CPU if there is none.

    :param limit: the largest magnitude to allow; checked by the emulation
    :return: as ``measure_graph``
    :raises RangeExceededError: there is a larger magnitude, or NaN
    """
    graph = written.graph
    graph.save(extra_outputs=written.streams)
    path = graph.path.with_name(f"emulated.{graph.path.name}")  # beside the weights
    path.write_bytes(emulated(onnx.load(graph.path, load_external_data=False)).SerializeToString())
    try:
        session = Session(path, without=[FOLDING])
    finally:
        path.unlink()  # the weights stay mapped
    for _, (peak,) in session.run(reference.held_out.batches, [LARGEST]):
        if not peak <= limit:
            session.close()
            raise RangeExceededError(float(peak))
    provider, is_emulated = CPU_PROVIDER, True
    if CUDA_PROVIDER in ort.get_available_providers() and visible_gpus():
        session.close()
        session = Session(graph.path, provider=CUDA_PROVIDER)
        provider, is_emulated = CUDA_PROVIDER, False
    scores, layers = _measure(session, written, reference)
    graph.save()
    fidelity = compare(reference, scores, layers)
    return msgspec.structs.replace(fidelity, provider=provider, is_emulated=is_emulated), scores


def _measure(
    session: Session, written: WrittenGraph, reference: Reference
) -> tuple[Floats, list[float]]:
    """Score the held-out text, and follow the error from layer to layer; close the session."""
    scores = reference.held_out.scores(_run(session, reference.held_out))
    layers = list(_layer_errors(session, written, reference)) if written.streams else []
    session.close()
    return scores, layers


def _run(session: Session, pairs: PackedPairs) -> Iterator[tuple[Batch, Floats]]:
    for batch, (raw,) in session.run(pairs.batches, [pairs.prepared.output.name]):
        yield batch, raw


def compare(reference: Reference, scores: Floats, layers: Sequence[float]) -> Fidelity:
    """Compare scores with those of the original.

    :param layers: the relative error of the stream after each layer, where it was followed
    """
    pairs = reference.held_out.pairs
    errors = np.abs(scores - reference.scores)
    by_query = list(_by_query(pairs))
    taus = [_kendall_tau(reference.scores[rows], scores[rows]) for rows in by_query]
    overlaps = [_overlap(reference.scores[rows], scores[rows]) for rows in by_query]
    query_of = {int(row): query for query, rows in enumerate(by_query) for row in rows}
    return Fidelity(
        text=reference.text,
        queries=len(by_query),
        pairs=len(errors),
        spread=float(reference.scores.std()),
        mean_error=float(errors.mean()),
        p99_error=float(np.quantile(errors, 0.99)),
        max_error=float(errors.max()),
        kendall_tau=float(np.mean(taus)),
        min_kendall_tau=min(taus),
        top10_overlap=float(np.mean(overlaps)),
        min_top10_overlap=min(overlaps),
        worst=tuple(
            Compared(
                pairs[row].id,
                query_of[int(row)],
                float(reference.scores[row]),
                float(scores[row]),
            )
            for row in np.argsort(-errors, kind="stable")[:WORST]
        ),
        layers=tuple(layers),
    )


def _layer_errors(session: Session, written: WrittenGraph, reference: Reference) -> Iterator[float]:
    """Yield, after each layer, the rms error of the stream over the rms of the stream."""
    noise, signal = np.zeros(len(written.streams)), np.zeros(len(written.streams))
    traced = reference.held_out.batches[:TRACED_BATCHES]
    for number, (_, results) in enumerate(session.run(traced, written.streams)):
        for index, result in enumerate(results):
            original = written.align(reference.streams[index][number])
            noise[index] += np.square(result - original, dtype=np.float64).sum()
            signal[index] += np.square(original, dtype=np.float64).sum()
    yield from np.sqrt(noise / signal).tolist()


def _by_query(pairs: Sequence[TextPair]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each query's pairs; all rows at once if no query has two documents."""
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.query, []).append(row)
    if max(map(len, rows.values())) < 2:
        yield np.arange(len(pairs))
        return
    yield from (np.array(found) for found in rows.values())


def _kendall_tau(reference: Floats, scores: Floats) -> float:
    """Return tau-b; 1 if all original scores are equal, 0 if only the others are."""
    if reference.min() == reference.max():
        return 1.0
    return float(np.nan_to_num(kendalltau(reference, scores).statistic))


def _overlap(reference: Floats, scores: Floats) -> float:
    """Return the share of the first ten that is the same."""
    first, second = (set(np.argsort(-x, kind="stable")[:TOP].tolist()) for x in (reference, scores))
    return len(first & second) / len(first)
