"""What does a fleet of servers answer in time, and what do a million and a billion pairs cost?

Computed, not measured: the records `load` and `peers` have the rates of one machine. Servers behind
a load balancer are simulated, with the sizes of requests of the benchmark `load`; the rows of one
server stand beside what was measured. Queries come again as often as by Zipf's law. A server that
keeps a query between requests saves `--saved` of a request that has it; edgerank keeps none yet, so
that sending equal queries to one server gains nothing and costs evenness.

Costs take whole models, in proportion to their layers, on named machines, in proportion to their
cores: prices are on-demand list prices, as assumed here, and `--machine` replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
import numpy as np

from benchmarks.common.paths import RECORDS
from benchmarks.common.record import Figure, Record, Row, read_record
from benchmarks.serving.fleet import (
    BOUND,
    Floats,
    Load,
    by_query,
    draw_load,
    least_requests,
    round_robin,
    simulate,
)

DOCUMENTS, WORDS = 5, (30, 120)  # of a request of `load`, and of a document, the fewest and most
QUERIES, ZIPF = 10_000, 1.1
KEPT_QUERIES = 500
MEASURED = ("25%", "50%", "75%")  # loads that one server was measured at
LOADS = (0.5, 0.7, 0.8, 0.9)
MACHINES = ("AWS c7a.4xlarge=16:0.821", "Hetzner AX102=16:0.17")
MODELS = (  # record, workload in it, name, layers that were measured, and all
    ("peers-C", "C", "ms-marco-MiniLM-L6", 6, 6),
    ("peers-B-D", "B", "mxbai-rerank-base-v2", 4, 24),
    ("peers-A-28", "A", "mxbai-rerank-large-v2", 28, 28),
)
PAIRS = (10**6, 10**9)


@click.option("--servers", type=click.IntRange(1), multiple=True, default=(4, 16))
@click.option("--requests", default=20_000, show_default=True, help="Of each simulation.")
@click.option("--saved", default=0.12, show_default=True, help="By a query that was kept.")
@click.option(
    "--machine",
    "machines",
    multiple=True,
    default=MACHINES,
    show_default=True,
    help="NAME=CORES:PRICE, the price in USD an hour; may be given several times.",
)
def measure(
    servers: Sequence[int], requests: int, saved: float, machines: Sequence[str]
) -> Iterator[Row]:
    load = read_record(RECORDS / "load.json")
    yield from beside_measured(load, requests)
    capacity = capacity_of(load)
    for count in servers:
        yield from policies(count, capacity, requests, saved)
    yield from costs(machines)


def capacity_of(load: Record) -> float:
    """Return the requests/s over gRPC that the benchmark `load` calls 100%."""
    return next(row.figures["offered"].value for row in over_grpc(load, ("100%",)))


def over_grpc(load: Record, shares: Sequence[str]) -> Iterator[Row]:
    """Yield what was measured at some loads."""
    for row in load.rows:
        if row.labels["transport"] == "grpc" and row.labels["load"] in shares:
            yield row


def requests_of(rng: np.random.Generator, share: float, capacity: float, count: int) -> Load:
    """Draw requests that take such a share of a fleet's capacity, in requests/s."""
    words = rng.integers(WORDS[0], WORDS[1] + 1, (count, DOCUMENTS)).sum(axis=1)
    works = words / words.mean()  # of a server with capacity 1
    queries = rng.zipf(ZIPF, count) % QUERIES
    return draw_load(rng, share * capacity, works, queries)


def beside_measured(load: Record, requests: int) -> Iterator[Row]:
    """Compare one simulated server with the measured one."""
    capacity = capacity_of(load)
    for row in over_grpc(load, MEASURED):
        share = float(row.labels["load"].rstrip("%")) / 100
        drawn = requests_of(np.random.default_rng(0), share, 1.0, requests)
        found = simulate(drawn, 1, round_robin) / capacity
        labels = {"servers": "1", "load": row.labels["load"]}
        measured = {f"{name}, measured": row.figures[name] for name in ("p50", "p95", "p99")}
        yield Row(labels, percentiles(found) | measured)


def policies(count: int, capacity: float, requests: int, saved: float) -> Iterator[Row]:
    """Compare ways of balancing; times are of one server's capacity."""
    affine, bounded = by_query(count), by_query(count, bound=BOUND)
    ways = {
        "round robin": (round_robin, 0.0),
        "fewest requests": (least_requests, 0.0),
        "by query": (affine, 0.0),
        f"by query, up to {BOUND:g} of the mean": (bounded, 0.0),
        f"the same, if {saved:.0%} were saved": (bounded, saved),
        f"fewest requests, if {saved:.0%} were saved": (least_requests, saved),
    }
    for name, (policy, share_saved) in ways.items():
        for share in LOADS:
            drawn = requests_of(np.random.default_rng(0), share, count, requests)
            found = simulate(drawn, count, policy, saved=share_saved, kept_queries=KEPT_QUERIES)
            labels = {"servers": str(count), "balancing": name, "load": f"{share:.0%}"}
            yield Row(labels, percentiles(found / capacity))


def percentiles(seconds: Floats) -> dict[str, Figure]:
    settled = seconds[len(seconds) // 10 :]  # the first find empty servers
    values = np.quantile(settled, [0.5, 0.95, 0.99]) * 1000
    return {
        name: Figure(float(value), "ms")
        for name, value in zip(("p50", "p95", "p99"), values, strict=True)
    }


def costs(machines: Sequence[str]) -> Iterator[Row]:
    """Say what pairs cost by the rates of the records of `peers`."""
    for name, workload, model, layers, all_layers in MODELS:
        record = read_record(RECORDS / f"{name}.json")
        rate = rate_of(record, workload) * layers / all_layers / record.machine.physical_cores
        for machine in machines:
            label, _, terms = machine.partition("=")
            cores, _, price = terms.partition(":")
            speed = rate * int(cores)
            for pairs in PAIRS:
                hours = pairs / speed / 3600
                yield Row(
                    {"model": model, "machine": label, "pairs": f"{pairs:,}"},
                    {
                        "documents/s": Figure(speed, "documents/s"),
                        "machine hours": Figure(hours, "h"),
                        "price": Figure(hours * float(price), "USD"),
                    },
                )


def rate_of(record: Record, workload: str) -> float:
    """Return the documents/s of edgerank int8 in a workload's first call."""
    return next(
        row.figures["documents/s"].value
        for row in record.rows
        if row.labels.get("workload", "").startswith(f"{workload}:")
        and row.labels.get("system") == "edgerank int8"
        and "documents/s" in row.figures
    )
