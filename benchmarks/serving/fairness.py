"""How long does a short request take while a long one is always running?

Latencies of one caller's short requests, alone and beside requests of 1,000 documents.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import options
from benchmarks.common.record import Row
from benchmarks.serving.callers import latencies
from benchmarks.serving.server import (
    FEW,
    MANY,
    Addresses,
    Caller,
    Request,
    Requests,
    bundle_option,
    connected,
    seconds_option,
    served_bundle,
    serving,
    transports_option,
)

HEAD_START_S = 0.5  # of the long request
PAUSE_S = 0.02  # between short ones


@bundle_option
@seconds_option
@transports_option
@options.threads
def measure(
    bundle: Path | None, seconds: float, transports: Sequence[str], threads: int
) -> Iterator[Row]:
    with served_bundle(bundle) as directory, serving(directory, threads) as addresses:
        for transport in transports:
            for beside, found in asyncio.run(measure_both(addresses, transport, seconds)).items():
                labels = {"transport": transport, "documents": str(FEW), "beside": beside}
                yield Row(labels, latencies(found))


async def measure_both(
    addresses: Addresses, transport: str, seconds: float
) -> dict[str, list[float]]:
    requests = Requests()
    drawn, long = [requests.draw(FEW) for _ in range(40)], requests.draw(MANY)
    async with connected(addresses, transport) as (client, other, *_):
        alone = await ask(client, drawn, seconds)
        busy = asyncio.create_task(keep_busy(other, long))
        await asyncio.sleep(HEAD_START_S)
        beside = await ask(client, drawn, seconds)
        busy.cancel()
    return {"nothing": alone, f"requests of {MANY} documents": beside}


async def keep_busy(client: Caller, request: Request) -> None:
    while True:
        await client.score(*request)


async def ask(client: Caller, requests: Sequence[Request], seconds: float) -> list[float]:
    """Ask one after the other: the seconds of each."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        await client.score(*requests[len(taken) % len(requests)])
        taken.append(time.perf_counter() - start)
        await asyncio.sleep(PAUSE_S)
    return taken
