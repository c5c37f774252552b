"""ONNX Runtime sessions, and the key/value cache that micro-batches share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgerank.bundle import Bundle
from edgerank.cpu import flush_denormals
from edgerank.errors import BundleError, ProviderError
from edgerank.packing import Batch

CPU_PROVIDER = "CPUExecutionProvider"
OUTPUTS = {"logit": "scores", "similarity": "embeddings"}  # by scoring rule


class Cache:
    """Keys and values of earlier rows, an array a layer, which grow one after the other."""

    def __init__(self, num_layers: int, width: int) -> None:
        self._layers = [np.empty((0, width), np.float32) for _ in range(num_layers)]

    def leading(self, length: int) -> list[NDArray[np.float32]]:
        """View the first ``length`` rows of each layer, float32 [length, width] each."""
        return [layer[:length] for layer in self._layers]

    def store(self, start: int, rows: Sequence[NDArray[np.float32]]) -> None:
        """Write each layer's new rows from row ``start`` on; what lay behind is forgotten."""
        end = start + len(rows[0])
        for index, (layer, new) in enumerate(zip(self._layers, rows, strict=True)):
            if end > len(layer):
                grown = np.empty((max(end, 2 * len(layer)), layer.shape[1]), np.float32)
                grown[:start] = layer[:start]
                self._layers[index] = grown
            self._layers[index][start:end] = new


class Session:
    """An ONNX Runtime session that computes in a thread of its own.

    Opening and runs take turns in that thread, so that denormals are flushed there and not in the
    callers' threads: a session sets the thread that it is made in.
    """

    def __init__(self, model: Path, *, threads: int, providers: Sequence[str]) -> None:
        """Load ``model``; the errors are ONNX Runtime's own."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # no fusions: SkipLayerNormalization takes three times its parts (benchmarks/operators.py)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.force_spinning_stop", "1")  # no idle spinning
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._thread = ThreadPoolExecutor(1, "edgerank", initializer=flush_denormals)
        self._session = self._thread.submit(
            ort.InferenceSession, str(model), options, providers=list(providers)
        ).result()
        self.inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]
        self.pasts = [name for name in self.inputs if name.startswith("past.")]
        self.presents = [name.replace("past", "present", 1) for name in self.pasts]

    def run(
        self,
        batches: Iterable[Batch],
        outputs: Sequence[str],
        extra_feeds: Iterable[Mapping[str, NDArray[np.float32]]] | None = None,
    ) -> Iterator[tuple[Batch, list[NDArray[np.float32]]]]:
        """Run micro-batches in order, on what those before cached; yield each with ``outputs``.

        :param extra_feeds: for each micro-batch, inputs that are not its own
        """
        width = self.inputs[self.pasts[0]][1] if self.pasts else 0
        cache = Cache(len(self.pasts), width)
        feeds = repeat({}) if extra_feeds is None else extra_feeds
        for batch, extra in zip(batches, feeds, strict=False):
            presents = self.presents if len(batch.cache_rows) else []
            results: list[NDArray[np.float32]] = self._thread.submit(
                self._session.run, [*outputs, *presents], self._feed(batch, cache, extra)
            ).result()
            if presents:
                cache.store(batch.past_length, results[len(outputs) :])
            yield batch, results[: len(outputs)]

    def _feed(
        self, batch: Batch, cache: Cache, extra: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[Any]]:
        """Put together the graph's inputs; its views of the cache must not outlive the run."""
        past = dict(zip(self.pasts, cache.leading(batch.past_length), strict=True))
        feed = {**batch.feed, **past, **extra}
        return {name: value for name, value in feed.items() if name in self.inputs}


class Engine:
    """Runs micro-batches; safe to share between threads."""

    def __init__(self, bundle: Bundle, *, threads: int, providers: Sequence[str]) -> None:
        """Open a session on the bundle's graph.

        :param threads: threads that one operator may use
        :raises BundleError: ONNX Runtime cannot load the graph, or it is not the manifest's
        :raises ProviderError: a provider is not part of the installed onnxruntime
        """
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise ProviderError(
                f"{missing[0]} is not available: the installed onnxruntime has"
                f" {', '.join(ort.get_available_providers())} (onnxruntime-gpu brings CUDA)"
            )
        try:
            self._session = Session(bundle.model_path, threads=threads, providers=providers)
        except Exception as error:  # onnxruntime's own errors share no base class
            raise BundleError(
                f"{bundle.model_path}: ONNX Runtime cannot load it: {error}"
            ) from error
        self._output = OUTPUTS[bundle.manifest.scoring.rule]
        known = {*self._session.pasts, *(field.name for field in fields(Batch))}
        is_known = known.issuperset(self._session.inputs)
        if not is_known or self._output not in self._session.outputs:
            raise BundleError(f"{bundle.model_path}: not the graph that the manifest describes")

    @property
    def is_causal(self) -> bool:
        """Whether the graph is a decoder with a cache."""
        return bool(self._session.pasts)

    def run(self, batches: Iterable[Batch], num_scores: int) -> NDArray[np.float32]:
        """Run micro-batches in order.

        :return: float32 [num_scores], or [num_scores, dimension] for embeddings, by score id
        """
        return gather_scores(self.steps(batches), num_scores)

    def steps(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """Run micro-batches in order; yield each with its raw scores, or its embeddings."""
        for batch, (raw,) in self.trace(batches, [self._output]):
            yield batch, raw

    def trace(
        self, batches: Iterable[Batch], outputs: Sequence[str]
    ) -> Iterator[tuple[Batch, list[NDArray[np.float32]]]]:
        """Run micro-batches in order; yield each with the ``outputs`` of the graph."""
        return self._session.run(batches, outputs)


def gather_scores(
    results: Iterable[tuple[Batch, NDArray[np.float32]]], num_scores: int
) -> NDArray[np.float32]:
    """Put each micro-batch's results, [B] or [B, dimension], where its score ids say."""
    scores: NDArray[np.float32] | None = None
    for batch, raw in results:
        if scores is None:
            scores = np.zeros((num_scores, *raw.shape[1:]), np.float32)
        place_scores(scores, batch, raw)
    return np.zeros(0, np.float32) if scores is None else scores


def place_scores(scores: NDArray[np.float32], batch: Batch, raw: NDArray[np.float32]) -> None:
    """Put one micro-batch's results where its score ids say."""
    scored = batch.score_ids >= 0
    scores[batch.score_ids[scored]] = raw[scored]
