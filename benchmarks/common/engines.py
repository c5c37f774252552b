"""Graphs and bundles opened for measuring, and random token ids to run them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgerank.bundle import Bundle
from edgerank.cpu import physical_cores
from edgerank.engine import CPU_PROVIDER, Engine
from edgerank.packing import EMPTY, Batch, Group, Tokens, pack

TOKEN_IDS = 5, 4096  # not special, and known to every model here
DOCUMENT_TOKENS = 40, 250  # the fewest and the most
BATCH_TOKENS = 512


def open_graph(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """Open a graph by itself, without fusions; unlike the engine, it does not flush denormals."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.force_spinning_stop", "1")  # sessions take turns
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=[CPU_PROVIDER])


def run_graph(
    session: ort.InferenceSession, values: Mapping[str, NDArray]
) -> Callable[[], list[NDArray]]:
    """Return a run of the graph on those of the values that it takes."""
    feed = {given.name: values[given.name] for given in session.get_inputs()}
    return lambda: session.run(None, feed)


def open_engine(bundle: Bundle, threads: int | None = None) -> Engine:
    return Engine(bundle, threads=threads or physical_cores(), providers=[CPU_PROVIDER])


def random_tokens(rng: np.random.Generator, count: int) -> Tokens:
    return Tokens(rng.integers(*TOKEN_IDS, count), np.zeros(count, np.int64))


def random_documents(rng: np.random.Generator, count: int) -> list[Tokens]:
    """Draw documents of real lengths."""
    return [random_tokens(rng, int(length)) for length in rng.integers(*DOCUMENT_TOKENS, count)]


def pack_documents(documents: Iterable[Tokens], *, causal: bool) -> list[Batch]:
    """Pack documents without a shared prefix, as the runtime packs them."""
    sequences = list(documents)
    group = Group(EMPTY, sequences, range(len(sequences)))
    return list(pack([group], max_tokens=BATCH_TOKENS, causal=causal))


def run_engine(engine: Engine, documents: Iterable[Tokens]) -> Callable[[], NDArray[np.float32]]:
    """Return a run of the engine on documents that are packed beforehand."""
    sequences = list(documents)
    batches = pack_documents(sequences, causal=engine.is_causal)
    return lambda: engine.run(batches, len(sequences))
