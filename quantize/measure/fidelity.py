"""What a precision costs: a bundle's scores against those of the original model in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from tqdm import tqdm

from edgerank.cpu import physical_cores
from edgerank.engine import Engine
from edgerank.manifest import CPU_PROVIDER, Compared, Fidelity
from edgerank.packing import Batch
from quantize.architectures.layered_model import LayeredModel
from quantize.measure.calibration import Calibration, Draft, TextPair, batches_of
from quantize.measure.layerwise import LayerRun, Layerwise
from quantize.rounding.rounding import Floats

WORST = 5  # documents that are named
TOP = 10
TRACED_BATCHES = 4  # micro-batches on which the error is followed from layer to layer


@dataclass(frozen=True)
class Reference:
    """What the original model makes of the held-out pairs."""

    text: str  # where the pairs came from
    pairs: Sequence[TextPair]
    scores: Floats  # [len(pairs)]
    batches: Sequence[Batch]  # the first of those that they were run in
    streams: Sequence[Sequence[Floats]]  # after each layer, for these micro-batches


def run_reference(
    draft: Draft, model: LayeredModel[Any], texts: Calibration, scratch: Path, bar: tqdm
) -> Reference:
    """Score the held-out pairs layer by layer in float32, by the original ``model``."""
    streams: list[Sequence[Floats]] = []

    def keep(step: LayerRun) -> None:
        streams.append(step.after[:TRACED_BATCHES])

    engine = Layerwise(model, scratch, bar, keep)
    batches = batches_of(draft, engine, texts.held_out)[:TRACED_BATCHES]
    scores = draft.score(engine, texts.held_out)
    return Reference(texts.name, texts.held_out, scores, batches, streams)


def compare(
    draft: Draft, streams: Sequence[str], model: LayeredModel[Any], reference: Reference
) -> tuple[Fidelity, Floats]:
    """Measure a bundle; return its fidelity and the scores that it was measured by.

    :param draft: one that has its graph, which also puts out its ``streams``, one after each layer
    :param model: the model as it was written, to align the original's streams with
    """
    engine = open_engine(draft, draft.graph_path)
    scores = draft.score(engine, reference.pairs)
    layers = list(_layer_errors(engine, streams, model, reference))
    return measure(reference, scores, layers), scores


def open_engine(draft: Draft, graph: Path) -> Engine:
    """Open an engine on a graph of the draft's model, as the runtime does by default."""
    outputs = draft.rule.outputs
    return Engine(graph, outputs, threads=physical_cores(), providers=[CPU_PROVIDER])


def measure(reference: Reference, scores: Floats, layers: Sequence[float]) -> Fidelity:
    """Compare scores with those of the original.

    :param layers: the relative error of the stream after each layer, where it was followed
    """
    errors = np.abs(scores - reference.scores)
    by_query = list(_by_query(reference.pairs))
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
                reference.pairs[row].id,
                query_of[int(row)],
                float(reference.scores[row]),
                float(scores[row]),
            )
            for row in np.argsort(-errors, kind="stable")[:WORST]
        ),
        layers=tuple(layers),
    )


def _layer_errors(
    engine: Engine, streams: Sequence[str], model: LayeredModel[Any], reference: Reference
) -> Iterator[float]:
    """Yield, after each layer, the rms error of the stream over the rms of the stream."""
    noise, signal = np.zeros(len(streams)), np.zeros(len(streams))
    for number, (_, results) in enumerate(engine.run(reference.batches, streams)):
        for index, result in enumerate(results):
            original = model.aligned(reference.streams[index][number])
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
    """Return tau-b; 1 where there is nothing to order, 0 where an order was lost altogether."""
    if reference.min() == reference.max():
        return 1.0
    return float(np.nan_to_num(kendalltau(reference, scores).statistic))


def _overlap(reference: Floats, scores: Floats) -> float:
    """Return which share of the first ten is the same."""
    first, second = (set(np.argsort(-x, kind="stable")[:TOP].tolist()) for x in (reference, scores))
    return len(first & second) / len(first)
