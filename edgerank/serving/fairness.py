"""Whose micro-batch is next: the earliest deadline among those who have not had too much.

Clients share the engine, and so do the requests of one client, by virtual time (WF2Q+). A peer's
tag is the virtual time at which it came, plus the tokens that it has been given since. The clock
advances by the tokens given to anyone over the number of peers: by what each peer's share is. A
peer whose tag is not ahead of the clock has had no more than its share and may be next. So a long
request takes turns with those that come later. Nor can a stream of new ones with earlier deadlines
starve it: peers whose tags are far behind the clock go before all others.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    """What waits its turn."""

    client: str
    deadline: float  # seconds of some clock
    tag: float  # kept here

    @property
    def kind(self) -> Hashable:
        """Name what can share a micro-batch."""

    @property
    def is_small(self) -> bool:
        """Whether it fits a micro-batch as a whole."""


class _Tagged(Protocol):
    tag: float


W = TypeVar("W", bound=Work)
T = TypeVar("T", bound=_Tagged)
Place = tuple[float, int]  # deadline, then order of arrival

MAX_LAG = 4096  # tokens behind the clock, from which on fairness goes before deadlines


@dataclass
class Clock:
    """The virtual time of some peers, in tokens."""

    now: float = 0.0

    def eligible(self, peers: Sequence[T]) -> list[T]:
        """Return those who may be next; idle time is skipped."""
        least = min(peer.tag for peer in peers)
        self.now = max(self.now, least)
        limit = self.now if least >= self.now - MAX_LAG else self.now - MAX_LAG
        return [peer for peer in peers if peer.tag <= limit]

    def charge(self, peer: _Tagged, num_tokens: int, num_peers: int) -> None:
        """Count tokens given to a peer, which is one of ``num_peers`` that have work."""
        peer.tag += num_tokens
        self.now += num_tokens / num_peers


@dataclass(eq=False)
class _Client(Generic[W]):
    """A client with work: each lane is sorted, and only its first can be next."""

    tag: float
    clock: Clock = field(default_factory=Clock)
    places: dict[W, Place] = field(default_factory=dict)
    started: list[W] = field(default_factory=list)
    lanes: dict[tuple[Hashable, bool], list[tuple[Place, W]]] = field(default_factory=dict)

    def first(self, may_start_long: bool) -> tuple[Place, W] | None:
        """Return what the client wants next, and its place among all."""
        waiting = [
            lane[0][1] for (_, is_small), lane in self.lanes.items() if is_small or may_start_long
        ]
        candidates = waiting + self.started
        if not candidates:
            return None
        return min((self.places[work], work) for work in self.clock.eligible(candidates))

    def take(self, work: W) -> None:
        """Take work out of its lane."""
        lane = self.lanes[work.kind, work.is_small]
        del lane[bisect_left(lane, (self.places[work],))]
        if not lane:
            del self.lanes[work.kind, work.is_small]


class FairQueue(Generic[W]):
    """Work that waits or has been started, of all clients; for one thread at a time."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client[W]] = {}
        self._clock = Clock()
        self._num_added = 0

    def __len__(self) -> int:
        return sum(len(client.places) for client in self._clients.values())

    @property
    def num_started(self) -> int:
        """How much has been started and is not done."""
        return sum(len(client.started) for client in self._clients.values())

    def add(self, work: W) -> None:
        """Let work wait."""
        client = self._clients.setdefault(work.client, _Client(self._clock.now))
        work.tag = client.clock.now
        self._num_added += 1
        client.places[work] = (work.deadline, self._num_added)
        lane = client.lanes.setdefault((work.kind, work.is_small), [])
        insort(lane, (client.places[work], work))

    def next(self, *, may_start_long: bool) -> W | None:
        """Return what is to be computed next, started or not; it stays here.

        :param may_start_long: whether work that takes several micro-batches may be started
        """
        firsts = {
            name: first
            for name, client in self._clients.items()
            if (first := client.first(may_start_long)) is not None
        }
        if not firsts:
            return None
        eligible = self._clock.eligible([self._clients[name] for name in firsts])
        return min(first for name, first in firsts.items() if self._clients[name] in eligible)[1]

    def company(self, leader: W) -> Iterator[W]:
        """Yield small work that waits and could share the micro-batch of ``leader``.

        Clients who have had least come first, then deadlines.
        """
        for client in sorted(self._clients.values(), key=lambda client: client.tag):
            for _, work in client.lanes.get((leader.kind, True), []):
                if work is not leader:
                    yield work

    def start(self, work: W) -> None:
        """Take work from those that wait: it gets micro-batches from now on."""
        client = self._clients[work.client]
        client.take(work)
        client.started.append(work)

    def charge(self, work: W, num_tokens: int) -> None:
        """Count tokens that were computed for started work; nothing if it is gone."""
        client = self._clients.get(work.client)
        if client is not None and work in client.places:
            client.clock.charge(work, num_tokens, len(client.places))
            self._clock.charge(client, num_tokens, len(self._clients))

    def remove(self, work: W) -> None:
        """Forget work that is done or given up; nothing if it is gone."""
        client = self._clients.get(work.client)
        if client is None or work not in client.places:
            return
        if work in client.started:
            client.started.remove(work)
        else:
            client.take(work)
        del client.places[work]
        if not client.places:
            del self._clients[work.client]
