"""How close does the engine come to the machine's int8 matrix rate?

The geometry of mxbai-rerank-large-v2 with random weights. In turns: the machine's bare int8 and
float32 matrix rates of ONNX Runtime, and the engine by micro-batch size and without the shared
prefix, by each of the kernels. Rates are of the int8 products alone, over all the time that
documents take, packing included. A bare rate is the best of the rounds, since a limit is what the
machine can do; the engine's is the median.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.bare import LARGE, bare_products
from benchmarks.common.bundles import mxbai_bundle
from benchmarks.common.engines import open_engine, random_documents, random_tokens
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import take_turns
from edgerank.kernels import STOCK, choose_kernels
from edgerank.packing import EMPTY, Group, Tokens, pack

NUM_DOCUMENTS = 32
PREFIX_TOKENS = 40  # system prompt and a short query
TAIL_TOKENS = 55  # the prompt's fixed part after each document


@options.kernels
@options.layers(28)
@options.threads
@options.rounds(5)
@click.option(
    "--batch-tokens",
    type=int,
    multiple=True,
    default=(128, 256, 512, 1024),
    show_default=True,
    help="Tokens of a micro-batch; may be given several times.",
)
@options.work
def measure(
    kernels: list[str],
    layers: int,
    threads: int,
    rounds: int,
    batch_tokens: tuple[int, ...],
    work: Path | None,
) -> Iterator[Row]:
    with options.directory(work) as directory:
        bundle = mxbai_bundle(Path(directory), layers)
        engines = {name: open_engine(bundle, threads, choose_kernels(name)) for name in kernels}
    shared, apart = prompts()
    largest = max(batch_tokens)
    cases = {f"engine, batches of {size}": (shared, size) for size in batch_tokens}
    cases["engine, prefix not shared"] = apart, largest
    products = {
        "bare int8": bare_products(np.int8, threads),
        "bare fp32": bare_products(np.float32, threads),
    }
    runs: dict[tuple[str, str], Callable[[], object]] = {
        (name, STOCK): one.run for name, one in products.items()
    }
    for (name, (group, size)), (used, engine) in product(cases.items(), engines.items()):
        runs[name, used] = partial(engine, group, size)
    times = take_turns(runs, rounds)
    limit = products["bare int8"].operations / min(times["bare int8", STOCK])
    for name, one in products.items():
        best = one.operations / min(times[name, STOCK])
        yield Row({"candidate": name, "kernels": STOCK}, rates(np.array([best]), limit))
    for (name, (group, size)), used in product(cases.items(), kernels):
        seconds = times[name, used]
        speed = {
            "tokens/s": median(len(group) / seconds, "tokens/s"),
            "documents/s": median(NUM_DOCUMENTS / seconds, "documents/s"),
        }
        performed = operations(layers, group, size) / seconds
        yield Row({"candidate": name, "kernels": used}, rates(performed, limit) | speed)


def rates(performed: np.ndarray, limit: float) -> dict[str, Figure]:
    """Show operations/s, and their share of the bare int8 rate."""
    return {
        "rate": median(performed / 1e9, "GOP/s"),
        "of bare int8": median(performed / limit * 100, "%"),
    }


def prompts() -> tuple[Group, Group]:
    """Ragged documents of one query, with a shared prefix and with the prefix in each."""
    rng = np.random.default_rng(1)
    prefix, tail = random_tokens(rng, PREFIX_TOKENS), random_tokens(rng, TAIL_TOKENS)
    documents = [joined(one, tail) for one in random_documents(NUM_DOCUMENTS).sequences]
    whole = [joined(prefix, document) for document in documents]
    ids = range(NUM_DOCUMENTS)
    return Group(prefix, documents, ids), Group(EMPTY, whole, ids)


def joined(*parts: Tokens) -> Tokens:
    return Tokens(
        np.concatenate([part.ids for part in parts]), np.concatenate([part.types for part in parts])
    )


def operations(layers: int, group: Group, size: int) -> float:
    """Count the multiplications and additions of all linear layers, the last one pruned."""
    batches = list(pack([group], max_tokens=size, causal=True))
    tokens = sum(len(batch.token_ids) for batch in batches)
    return LARGE.operations(layers, tokens, sum(len(batch.scored_rows) for batch in batches))
