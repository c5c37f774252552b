"""How much does a server answer in time as the offered load grows past what it can do?

Requests arrive at random times at a given rate whether or not earlier ones have been answered, each
with a deadline. What is answered is counted once the queue has had twice that time to fill, and
until arrivals end; latencies are of what is answered. The load is relative to the rate that 32
callers reach who ask again as soon as they are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.record import Figure, Row
from benchmarks.serving.callers import closed_loop, latencies, open_loop
from benchmarks.serving.server import (
    FEW,
    Addresses,
    Caller,
    Requests,
    bundle_option,
    connected,
    seconds_option,
    served_bundle,
    serving,
    transports_option,
)
from edgerank import ServerError

CALLERS = 32
DEADLINE_S = 2.0
OFFERED = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
PAUSE_S = 1.0  # between loads


@dataclass(frozen=True)
class Window:
    """The time in which answers are counted."""

    start: float  # of time.perf_counter()
    seconds: float

    @property
    def end(self) -> float:
        return self.start + self.seconds

    def has_now(self) -> bool:
        return self.start <= time.perf_counter() < self.end


@bundle_option
@seconds_option
@transports_option
@options.threads
def measure(
    bundle: Path | None, seconds: float, transports: Sequence[str], threads: int
) -> Iterator[Row]:
    with served_bundle(bundle) as directory, serving(directory, threads) as addresses:
        for transport in transports:
            yield from asyncio.run(sweep(addresses, transport, seconds))


async def sweep(addresses: Addresses, transport: str, seconds: float) -> list[Row]:
    requests = Requests()
    async with connected(addresses, transport) as clients:
        capacity = await closed_loop(clients, requests, FEW, CALLERS, seconds) / FEW
        rows = [
            await offer(clients, requests, share, share * capacity, seconds) for share in OFFERED
        ]
    return [Row({"transport": transport, **row.labels}, row.figures) for row in rows]


async def offer(
    clients: Sequence[Caller], requests: Requests, share: float, rate: float, seconds: float
) -> Row:
    """Offer a load: what is answered in time, how fast, and what becomes of the others."""
    drawn = [requests.draw(FEW) for _ in range(200)]
    answered: list[float] = []
    others: Counter[str] = Counter()
    window = Window(time.perf_counter() + 2 * DEADLINE_S, seconds)

    async def call(number: int) -> None:
        query, documents = drawn[number % len(drawn)]
        start = time.perf_counter()
        try:
            client = clients[number % len(clients)]
            await client.score(query, documents, timeout=DEADLINE_S)
            if window.has_now():
                answered.append(time.perf_counter() - start)
        except ServerError as error:
            if window.has_now():
                others[error.code] += 1

    await open_loop(call, rate, window.end, requests.random)
    await asyncio.sleep(PAUSE_S)
    labels = {"documents": str(FEW), "deadline": f"{DEADLINE_S:g} s", "load": f"{share:.0%}"}
    figures = {
        "offered": Figure(rate, "requests/s"),
        "answered": Figure(len(answered) / seconds, "requests/s"),
        **latencies(answered),
        **{code: Figure(count / seconds, "requests/s") for code, count in others.items()},
    }
    return Row(labels, figures)
