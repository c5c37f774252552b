"""ONNX Runtime sessions: how they are opened, and the thread in which one computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import onnxruntime as ort

from edgerank.caches import Array, DeviceRuns, Feed, HostRuns, Layer
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
from edgerank.providers import (
    GPU_PROVIDERS,
    RECORD_PLACEMENT,
    check_loaded,
    check_placement,
    preload,
    session_providers,
)

ort.disable_telemetry_events()  # for Windows, and if onnxruntime was imported before edgerank

WARNINGS, ERRORS = 2, 3  # severities of ONNX Runtime's log
# SkipLayerNormalization takes three times as long as its parts (benchmarks/micro/operators.py)
SLOW_FUSIONS = ("SkipLayerNormFusion",)
# merges equal matrices of layers that share weights (ALBERT); making them uint8 then fails
SHARING = "CommonSubexpressionElimination"
HALVES = frozenset({"tensor(float16)", "tensor(bfloat16)"})
CLOSED = "the model is closed; open it again"
INLINE_BYTES = 4096  # smaller initializers of a saved graph are in the graph


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    provider: str = CPU_PROVIDER,
    device: int = 0,
    kernels: Kernels | None = None,
    save_to: Path | None = None,
    without: Sequence[str] = (),
) -> ort.InferenceSession:
    """Build an ONNX Runtime session; every session of edgerank is built here.

    :param model: a file, or a serialized model
    :param threads: threads that one operator may use; ``default_threads()`` by default
    :param provider: execution provider, which must run every operator
    :param device: number of the GPU, for a provider that computes on one
    :param kernels: kernels for the CPU; ``choose_kernels()`` by default
    :param save_to: file to save the optimized graph to, with its weights beside it
    :param without: optimizers of ONNX Runtime to leave out
    :raises InputError: EDGERANK_KERNELS names kernels that are not there
    :raises ProviderError: the library of kernels does not fit the installed ONNX Runtime, or the
        provider cannot be loaded or lacks operators
    :raises Exception: ONNX Runtime cannot load the model; its errors share no base class
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = ERRORS
    # no fusions: some are slow (SLOW_FUSIONS)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.force_spinning_stop", "1")  # no idle spinning
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if provider != CPU_PROVIDER:
        options.add_session_config_entry(RECORD_PLACEMENT, "1")
        preload(provider)
    else:  # the functions of a graph for a GPU are inlined
        kernels = choose_kernels() if kernels is None else kernels
        register(options, kernels, options.intra_op_num_threads)
    is_for_this_cpu = provider == CPU_PROVIDER and save_to is None  # saved graphs are for all
    if is_for_this_cpu and not multiplies_int8_exactly():
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
        providers=session_providers(provider, device),
        disabled_optimizers=list(without),
        enable_fallback=0,  # otherwise it would open the session again on the CPU
    )
    if provider != CPU_PROVIDER:
        check_loaded(session, provider)
        check_placement(session, provider)
    if kernels is None or kernels.name == STOCK:  # optimizers have copied each matrix several times
        return_freed_memory()
    return session


class Session:
    """A session that computes in a separate thread, with a cache for its runs.

    The session is opened and runs in that thread only, so that denormals are flushed there and not
    in the callers' threads: ONNX Runtime sets this for the thread that opens a session.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int | None = None,
        provider: str = CPU_PROVIDER,
        device: int = 0,
        kernels: Kernels | None = None,
        without: Sequence[str] = (),
    ) -> None:
        """Load ``model``; parameters and errors are those of ``open_session``."""
        self._thread = ThreadPoolExecutor(1, "edgerank", initializer=flush_denormals)
        self._session = self._thread.submit(
            open_session,
            model,
            threads=threads,
            provider=provider,
            device=device,
            kernels=kernels,
            without=without,
        ).result()
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True  # a graph may have several outputs
        self._is_closed = False
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = {value.name: value.shape for value in inputs}
        self.outputs = [value.name for value in outputs]
        self._layers = [
            Layer(value.name, value.name.replace("past", "present", 1), value.shape[1], value.type)
            for value in inputs
            if value.name.startswith("past.")
        ]
        self.pasts = [layer.past for layer in self._layers]
        self.presents = [layer.present for layer in self._layers]
        self._device = ("cuda", device) if provider in GPU_PROVIDERS else ("cpu", 0)
        # NumPy arrays if they suffice
        self._are_on_host = provider == CPU_PROVIDER and HALVES.isdisjoint(
            value.type for value in (*inputs, *outputs)
        )

    def run(
        self,
        batches: Iterable[Batch],
        outputs: Sequence[str],
        extra_feeds: Iterable[Mapping[str, Array]] | None = None,
    ) -> Iterator[tuple[Batch, list[Array]]]:
        """Run micro-batches in order, with the cache of those before; yield each with ``outputs``.

        :param extra_feeds: for each micro-batch, further inputs of the graph
        :raises EdgerankError: the session is closed
        """
        runs: HostRuns | DeviceRuns = HostRuns(self._layers)
        if not self._are_on_host:
            runs = DeviceRuns(self._layers, *self._device)
        feeds = repeat({}) if extra_feeds is None else extra_feeds
        for batch, extra in zip(batches, feeds, strict=False):
            given: Feed = {**batch.feed, **extra}
            feed = {name: value for name, value in given.items() if name in self.inputs}
            yield batch, self._submit(runs, batch, feed, outputs)

    def close(self) -> None:
        """Finish the micro-batch that is being computed and free the model's memory."""
        self._is_closed = True
        self._thread.shutdown()
        self._session = None

    def _submit(
        self, runs: HostRuns | DeviceRuns, batch: Batch, feed: Feed, outputs: Sequence[str]
    ) -> list[Array]:
        if self._is_closed:
            raise EdgerankError(CLOSED)
        try:
            future = self._thread.submit(
                runs.run, self._session, self._options, batch, feed, outputs
            )
        except RuntimeError as error:
            if not self._is_closed:
                raise
            raise EdgerankError(CLOSED) from error  # meanwhile
        return future.result()
