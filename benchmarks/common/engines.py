"""A bundle's engine, opened for measuring, and random token ids to run it on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerank.bundle import Bundle
from edgerank.cpu import default_threads
from edgerank.engine import Engine, Results, gather
from edgerank.kernels import Kernels, choose_kernels
from edgerank.packing import EMPTY, Group, Tokens, default_batch_tokens, pack
from edgerank.rules import scoring_rule

TOKEN_IDS = 5, 4096  # not special, and known to every model here
DOCUMENT_TOKENS = 40, 250  # the fewest and the most

Run = Callable[..., Results]  # of a group, and a micro-batch's tokens


def open_engine(bundle: Bundle, threads: int | None = None, kernels: Kernels | None = None) -> Run:
    """Open a bundle's first variant: what packs a group, runs it, and returns its raw results.

    It takes the tokens of a micro-batch as ``max_tokens``; ``Reranker``'s default by default.

    :param kernels: what computes; ``choose_kernels()`` by default
    """
    kernels = kernels or choose_kernels()
    default = default_batch_tokens(compiled=kernels.are_compiled)
    output = scoring_rule(bundle.manifest.scoring).output
    engine = Engine(
        bundle.graph_path(bundle.manifest.variants[0]),
        [output.name],
        threads=threads or default_threads(),
        kernels=kernels,
    )

    def run(group: Group, max_tokens: int = default) -> Results:
        batches = pack([group], max_tokens=max_tokens, causal=engine.is_causal)
        results = ((batch, raw) for batch, (raw,) in engine.run(batches, [output.name]))
        return gather(results, output, len(group.sequences))

    return run


def random_tokens(rng: np.random.Generator, count: int) -> Tokens:
    return Tokens(rng.integers(*TOKEN_IDS, count), np.zeros(count, np.int64))


def random_documents(
    count: int, tokens: tuple[int, int] = DOCUMENT_TOKENS, prefix: Tokens = EMPTY
) -> Group:
    """Draw documents of real lengths, the same ones every time, behind a shared prefix.

    :param tokens: of a document, the fewest and, exclusive, the most
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(*tokens, count)
    sequences = [random_tokens(rng, int(length)) for length in lengths]
    return Group(prefix, sequences, range(count))
