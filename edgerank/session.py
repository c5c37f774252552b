"""ONNX Runtime sessions: how they are built, and the thread that one computes in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgerank.cpu import (
    default_threads,
    flush_denormals,
    multiplies_int8_exactly,
    return_freed_memory,
)
from edgerank.errors import EdgerankError
from edgerank.kernels import STOCK, Kernels, choose_kernels, register
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import Batch

ort.disable_telemetry_events()  # for Windows, and for programs that loaded it before edgerank

WARNINGS, ERRORS = 2, 3  # severities of ONNX Runtime's log
# SkipLayerNormalization takes three times its parts (benchmarks/micro/operators.py)
SLOW_FUSIONS = ("SkipLayerNormFusion",)
# merges equal matrices of layers that share weights (ALBERT); making them uint8 then fails
SHARING = "CommonSubexpressionElimination"
INLINE_BYTES = 4096  # smaller initializers of a saved graph lie inside of it


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str] = (CPU_PROVIDER,),
    kernels: Kernels | None = None,
    save_to: Path | None = None,
    without: Sequence[str] = (),
) -> ort.InferenceSession:
    """Build an ONNX Runtime session; every session of edgerank is built here.

    :param model: a file, or a serialized model
    :param threads: threads that one operator may use; ``default_threads()`` by default
    :param providers: execution providers, most wanted first
    :param kernels: what computes if the CPU's provider is the most wanted; ``choose_kernels()`` by
        default
    :param save_to: where to save the graph as ONNX Runtime folds it, with its weights beside it
    :param without: optimizers of ONNX Runtime to leave out
    :raises InputError: EDGERANK_KERNELS names kernels that are not there
    :raises ProviderError: the library of kernels does not fit the installed ONNX Runtime
    :raises Exception: ONNX Runtime cannot load the model; its errors share no base class
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = ERRORS
    # no fusions: some are slow (SLOW_FUSIONS)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.force_spinning_stop", "1")  # no idle spinning
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if providers[0] == CPU_PROVIDER:  # the functions of a graph for a GPU are inlined
        kernels = choose_kernels() if kernels is None else kernels
        register(options, kernels, options.intra_op_num_threads)
    if save_to is None and not multiplies_int8_exactly():  # what is saved is for every CPU
        # an optimizer of this level makes uint8 of the int8 matrices that stock operators read,
        # also beside compiled ones: those of a feed-forward part that is int8 in part
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
        without = [*without, *SLOW_FUSIONS, SHARING]
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        key = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{key}_file_name", f"{save_to.name}.data")
        options.add_session_config_entry(f"{key}_min_size_in_bytes", str(INLINE_BYTES))
    session = ort.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        options,
        providers=list(providers),
        disabled_optimizers=list(without),
    )
    if kernels is None or kernels.name == STOCK:  # they have turned each matrix over several times
        return_freed_memory()
    return session


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
    """A session that computes in a thread of its own, and the cache that its runs share.

    Opening and runs go through that thread one after the other, so that denormals are flushed there
    and not in the callers' threads: a session sets the thread that it is made in.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] = (CPU_PROVIDER,),
        kernels: Kernels | None = None,
    ) -> None:
        """Load ``model``; parameters and errors are those of ``open_session``."""
        self._thread = ThreadPoolExecutor(1, "edgerank", initializer=flush_denormals)
        self._session = self._thread.submit(
            open_session, model, threads=threads, providers=providers, kernels=kernels
        ).result()
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True  # a graph may have several outputs
        self._is_closed = False
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
        :raises EdgerankError: the session is closed
        """
        width = self.inputs[self.pasts[0]][1] if self.pasts else 0
        cache = Cache(len(self.pasts), width)
        feeds = repeat({}) if extra_feeds is None else extra_feeds
        for batch, extra in zip(batches, feeds, strict=False):
            presents = self.presents if len(batch.cache_rows) else []
            results = self._submit([*outputs, *presents], self._feed(batch, cache, extra))
            if presents:
                cache.store(batch.past_length, results[len(outputs) :])
            yield batch, results[: len(outputs)]

    def close(self) -> None:
        """Finish the micro-batch that is being computed and free the model's memory."""
        self._is_closed = True
        self._thread.shutdown()
        self._session = None

    def _submit(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        try:
            future = self._thread.submit(self._session.run, outputs, feed, self._options)
        except (RuntimeError, AttributeError) as error:  # no thread, or no session, to run in
            if not self._is_closed:
                raise
            raise EdgerankError("the model is closed; open it again") from error
        results: list[NDArray[np.float32]] = future.result()
        return results

    def _feed(
        self, batch: Batch, cache: Cache, extra: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[Any]]:
        """Put together the graph's inputs; its views of the cache must not outlive the run."""
        past = dict(zip(self.pasts, cache.leading(batch.past_length), strict=True))
        feed = {**batch.feed, **past, **extra}
        return {name: value for name, value in feed.items() if name in self.inputs}
