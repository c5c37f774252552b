"""Load on a server: callers who wait for their answer, and requests that come at their own rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from benchmarks.common.record import Figure
from benchmarks.serving.server import MANY, Caller, Requests

PERCENTILES = (50, 95, 99)


async def closed_loop(
    clients: Sequence[Caller], requests: Requests, size: int, num_callers: int, seconds: float
) -> float:
    """Return documents/s of callers who ask again as soon as they are answered."""
    drawn = [requests.draw(size) for _ in range(2 if size == MANY else 40)]
    start, done = time.perf_counter(), 0

    async def call(number: int) -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            query, documents = drawn[(number + done) % len(drawn)]
            scores = await clients[number % len(clients)].score(query, documents)
            done += len(scores)  # not in one statement: it would read ``done`` before the await

    await asyncio.gather(*map(call, range(num_callers)))
    return done / (time.perf_counter() - start)


async def open_loop(
    call: Callable[[int], Coroutine[Any, Any, None]], rate: float, end: float, random: random.Random
) -> None:
    """Start calls at random times, answered or not, at a mean rate until some time."""
    tasks: list[asyncio.Task[None]] = []
    due = time.perf_counter()
    while due < end:
        due += random.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(call(len(tasks))))
    await asyncio.gather(*tasks)


def latencies(seconds: Sequence[float]) -> dict[str, Figure]:
    """Show percentiles, nothing where there is no sample."""
    if not seconds:
        return {}
    values = np.percentile(seconds, PERCENTILES) * 1e3
    return {
        f"p{percentile}": Figure(float(value), "ms", samples=len(seconds))
        for percentile, value in zip(PERCENTILES, values, strict=True)
    }
