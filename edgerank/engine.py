"""One ONNX Runtime session and the key/value cache that its micro-batches share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

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
    """Keys and values of earlier rows, one array a layer, grown as needed."""

    def __init__(self, num_layers: int, width: int) -> None:
        self._layers = np.empty((num_layers, 0, width), np.float32)

    def leading(self, length: int) -> list[NDArray[np.float32]]:
        """View the first ``length`` rows of each layer, float32 [length, width] each."""
        return [layer[:length] for layer in self._layers]

    def store(self, start: int, rows: Sequence[NDArray[np.float32]]) -> None:
        """Write each layer's new rows from row ``start`` on; what lay behind is forgotten."""
        end = start + len(rows[0])
        num_layers, capacity, width = self._layers.shape
        if end > capacity:
            grown = np.empty((num_layers, max(end, 2 * capacity), width), np.float32)
            grown[:, :start] = self._layers[:, :start]
            self._layers = grown
        for layer, new in zip(self._layers, rows, strict=True):
            layer[start:end] = new


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
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # no fusions: SkipLayerNormalization takes three times its parts (benchmarks/operators.py)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.force_spinning_stop", "1")  # no idle spinning
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # opening and runs take turns in one thread, so that denormals are flushed there and not in
        # the callers' threads: a session sets the thread that it is made in
        self._thread = ThreadPoolExecutor(1, "edgerank", initializer=flush_denormals)
        try:
            self._session = self._thread.submit(
                ort.InferenceSession, str(bundle.model_path), options, providers=list(providers)
            ).result()
        except Exception as error:  # onnxruntime's own errors share no base class
            raise BundleError(
                f"{bundle.model_path}: ONNX Runtime cannot load it: {error}"
            ) from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        pasts = [value for value in self._session.get_inputs() if value.name.startswith("past.")]
        self._pasts = [value.name for value in pasts]
        self._presents = [name.replace("past", "present", 1) for name in self._pasts]
        self._output = OUTPUTS[bundle.manifest.scoring.rule]
        known = {*self._pasts, *(field.name for field in fields(Batch))}
        has_output = self._output in (value.name for value in self._session.get_outputs())
        if not known.issuperset(self._inputs) or not has_output:
            raise BundleError(f"{bundle.model_path}: not the graph that the manifest describes")
        self._cache_width = pasts[0].shape[1] if pasts else 0

    @property
    def is_causal(self) -> bool:
        """Whether the graph is a decoder with a cache."""
        return bool(self._pasts)

    def run(self, batches: Iterable[Batch], num_scores: int) -> NDArray[np.float32]:
        """Run micro-batches in order.

        :return: float32 [num_scores], or [num_scores, dimension] for embeddings, by score id
        """
        cache = Cache(len(self._pasts), self._cache_width)
        results: NDArray[np.float32] | None = None
        for batch in batches:
            raw = self._step(batch, cache)
            if results is None:
                results = np.zeros((num_scores, *raw.shape[1:]), np.float32)
            scored = batch.score_ids >= 0
            results[batch.score_ids[scored]] = raw[scored]
        return np.zeros(0, np.float32) if results is None else results

    def _step(self, batch: Batch, cache: Cache) -> NDArray[np.float32]:
        feed = {name: getattr(batch, name) for name in self._inputs if not name.startswith("past.")}
        feed.update(zip(self._pasts, cache.leading(batch.past_length), strict=True))
        wanted = [self._output]
        if len(batch.cache_rows):
            wanted += self._presents
        outputs = self._thread.submit(self._session.run, wanted, feed).result()
        if len(batch.cache_rows):
            cache.store(batch.past_length, outputs[1:])
        raw: NDArray[np.float32] = outputs[0]
        return raw
