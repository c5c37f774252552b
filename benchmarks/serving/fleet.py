"""A simulation of servers behind a load balancer: who gets which request, and when it is answered.

A server shares its time equally among the requests that it has, as edgerank's scheduler does among
clients. What a balancer knows is how many requests each server has.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BOUND = 1.25  # of the mean number of requests, above which a query goes to the next server
RING_POINTS = 100  # of a server, so that queries spread evenly


@dataclass(frozen=True)
class Load:
    """Requests in the order in which they arrive."""

    arrivals: Floats  # seconds [n], ascending
    works: Floats  # seconds [n] that each takes of a server that has nothing else
    queries: Integers  # [n], equal where a query comes again


@dataclass
class Server:
    """Requests that share a server: each has had ``served`` seconds since the server began."""

    now: float = 0.0
    served: float = 0.0
    active: list[tuple[float, int]] = field(default_factory=list)  # heap of ends, in served seconds
    kept: OrderedDict[int, None] = field(default_factory=OrderedDict)  # queries, the latest last

    def advance(self, now: float, ended: Floats) -> None:
        """Serve until a time, and note when requests ended."""
        while self.active:
            end, request = self.active[0]
            at = self.now + (end - self.served) * len(self.active)
            if at > now:
                self.served += (now - self.now) / len(self.active)
                break
            heapq.heappop(self.active)
            self.now, self.served = at, end
            ended[request] = at
        self.now = now


Policy = Callable[[list[Server], int, int], int]  # of servers, a request's number and its query


def round_robin(servers: list[Server], number: int, query: int) -> int:
    """Each server in its turn."""
    return number % len(servers)


def least_requests(servers: list[Server], number: int, query: int) -> int:
    """The server with the fewest requests; of several, the one whose turn it is."""
    count = len(servers)
    return min(range(count), key=lambda n: (len(servers[n].active), (n - number) % count))


def by_query(count: int, *, bound: float | None = None) -> Policy:
    """Make a policy that sends equal queries to one server, by consistent hashing.

    :param bound: of the mean number of requests: a server above it is passed over
    """
    rng = np.random.default_rng(0)
    points = rng.random(count * RING_POINTS)
    order = np.argsort(points)
    ring, owners = points[order], np.repeat(np.arange(count), RING_POINTS)[order]

    def choose(servers: list[Server], number: int, query: int) -> int:
        place = int(np.searchsorted(ring, (query * 0.6180339887498949) % 1))
        most = np.inf
        if bound is not None:
            most = bound * (sum(len(server.active) for server in servers) + 1) / count
        for step in range(len(ring)):
            owner = int(owners[(place + step) % len(ring)])
            if len(servers[owner].active) < most:
                return owner
        return int(owners[place % len(ring)])

    return choose


def simulate(
    load: Load, count: int, policy: Policy, *, saved: float = 0.0, kept_queries: int = 0
) -> Floats:
    """Return the seconds from each request's arrival to its answer: float64 [n].

    :param saved: share of its work that a request does not need if the server has kept its query
    :param kept_queries: how many queries a server keeps, the latest
    """
    servers = [Server() for _ in range(count)]
    ended = np.zeros(len(load.arrivals))
    requests = zip(load.arrivals.tolist(), load.works.tolist(), load.queries.tolist(), strict=True)
    for number, (arrival, work, query) in enumerate(requests):
        for server in servers:
            server.advance(arrival, ended)
        server = servers[policy(servers, number, query)]
        if query in server.kept:
            work *= 1 - saved
            server.kept.move_to_end(query)
        elif kept_queries:
            server.kept[query] = None
            if len(server.kept) > kept_queries:
                server.kept.popitem(last=False)
        heapq.heappush(server.active, (server.served + work, number))
    for server in servers:
        server.advance(np.inf, ended)
    return ended - load.arrivals


def draw_load(rng: np.random.Generator, rate: float, works: Floats, queries: Integers) -> Load:
    """Let requests arrive at random at so many a second."""
    return Load(np.cumsum(rng.exponential(1 / rate, len(works))), works, queries)
