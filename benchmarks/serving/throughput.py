"""What does serving cost beside embedded calls, and what does it gain by batching callers?

Documents/s of embedded calls, and of callers who ask a server again as soon as they are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.record import Figure, Row
from benchmarks.serving.callers import closed_loop
from benchmarks.serving.server import (
    FEW,
    MANY,
    ONE,
    Addresses,
    Requests,
    bundle_option,
    connected,
    seconds_option,
    served_bundle,
    serving,
    transports_option,
)
from edgerank import Reranker

CALLERS = ((ONE, 1), (ONE, 32), (FEW, 1), (FEW, 32), (MANY, 2))  # documents of a call, callers


@bundle_option
@seconds_option
@transports_option
@options.threads
def measure(
    bundle: Path | None, seconds: float, transports: Sequence[str], threads: int
) -> Iterator[Row]:
    with served_bundle(bundle) as directory:
        embedded = embedded_rates(directory, threads, seconds)
        with serving(directory, threads) as addresses:
            rates = asyncio.run(served_rates(addresses, seconds, transports))
    for size, rate in embedded.items():
        labels = {"calls": "embedded", "documents of a call": str(size), "callers": "1"}
        yield Row(labels, {"documents/s": Figure(rate, "documents/s")})
    for (transport, size, callers), rate in rates.items():
        labels = {"calls": transport, "documents of a call": str(size), "callers": str(callers)}
        yield Row(
            labels, {"documents/s": Figure(rate, "documents/s")} | shares(size, rate, embedded)
        )


def shares(size: int, rate: float, embedded: dict[int, float]) -> dict[str, Figure]:
    return {"of embedded": Figure(rate / embedded[size], "×")} if size in embedded else {}


def embedded_rates(bundle: Path, threads: int, seconds: float) -> dict[int, float]:
    """Return documents/s of calls in this process, by the documents of a call."""
    requests = Requests()
    reranker = Reranker(bundle, threads=threads)
    reranker.score(*requests.draw(MANY))
    rates = {}
    for size in (ONE, FEW, MANY):
        drawn = [requests.draw(size) for _ in range(2 if size == MANY else 20)]
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            done += len(reranker.score(*drawn[done // size % len(drawn)]))
        rates[size] = done / (time.perf_counter() - start)
    return rates


async def served_rates(
    addresses: Addresses, seconds: float, transports: Sequence[str]
) -> dict[tuple[str, int, int], float]:
    """Return documents/s by transport, the documents of a call and the number of callers."""
    rates = {}
    for size, callers in CALLERS:
        for transport in transports:
            async with connected(addresses, transport) as clients:
                rate = await closed_loop(clients, Requests(), size, callers, seconds)
                rates[transport, size, callers] = rate
    return rates
