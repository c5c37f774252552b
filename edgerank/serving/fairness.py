"""Fair queueing: chooses whose micro-batch is next.

Among flows that have not had more than their share, the earliest deadline goes first. Clients share
the engine, and so do the requests of one client, by virtual time (WF2Q+). Each of them is a flow. A
flow's virtual time begins with the clock's when the flow comes, and grows by the tokens that are
computed for it. The clock advances by the tokens computed for all flows, divided by the number of
flows: that is the share of each. A flow whose virtual time is not ahead of the clock has had no
more than its share and may be next. So the micro-batches of a long request alternate with those of
later requests. Nor can a stream of new requests with earlier deadlines starve a long one: flows
whose virtual time is far behind the clock go before all others.

Several engines take their work from one queue. An engine keeps the work that it has started;
waiting work is for every engine that can run it. The clocks count the tokens of all engines.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Flow(Protocol):
    """A client or a request that shares the engine with others."""

    virtual_time: float  # tokens


class Schedulable(Flow, Protocol):
    """Work that waits for the engine; the queue updates its virtual time."""

    client: str
    deadline: float  # seconds of some clock
    engine: int | None  # the engine that has started it; set by the queue

    @property
    def num_engines(self) -> int:
        """How many engines can run it: the first ones."""

    @property
    def batch_key(self) -> Hashable:
        """Equal for work that may share a micro-batch."""

    @property
    def is_small(self) -> bool:
        """Whether it fits a micro-batch as a whole."""


F = TypeVar("F", bound=Flow)
W = TypeVar("W", bound=Schedulable)
Urgency = tuple[float, int]  # deadline, then order of arrival: the least is the most urgent
LineKey = tuple[Hashable, bool]  # batch key, and whether its items are small

MAX_LAG = 4096  # tokens; flows further behind the clock go before all others


@dataclass
class VirtualClock:
    """The virtual time of some flows, in tokens."""

    now: float = 0.0

    def eligible(self, flows: Sequence[F]) -> list[F]:
        """Return the flows that may be next; idle time is skipped."""
        least = min(flow.virtual_time for flow in flows)
        self.now = max(self.now, least)
        limit = self.now if least >= self.now - MAX_LAG else self.now - MAX_LAG
        return [flow for flow in flows if flow.virtual_time <= limit]

    def charge(self, flow: Flow, num_tokens: int, num_flows: int) -> None:
        """Count tokens computed for a flow, which is one of ``num_flows`` that have work."""
        flow.virtual_time += num_tokens
        self.now += num_tokens / num_flows


@dataclass(eq=False)
class _Client(Generic[W]):
    """A client with work. Waiting work is in sorted lines; only the first of each can be next."""

    virtual_time: float
    clock: VirtualClock = field(default_factory=VirtualClock)
    urgency_of: dict[W, Urgency] = field(default_factory=dict)
    started: list[W] = field(default_factory=list)
    lines: dict[LineKey, list[tuple[Urgency, W]]] = field(default_factory=dict)

    def first(self, engine: int, may_start_long: bool) -> tuple[Urgency, W] | None:
        """Return the client's next work for an engine, and its urgency."""
        firsts = [
            line[0][1] for (_, is_small), line in self.lines.items() if is_small or may_start_long
        ]
        waiting = [work for work in firsts if engine < work.num_engines]
        candidates = waiting + [work for work in self.started if work.engine == engine]
        if not candidates:
            return None
        return min((self.urgency_of[work], work) for work in self.clock.eligible(candidates))

    def add(self, work: W, urgency: Urgency) -> None:
        """Put work into its line."""
        work.virtual_time = self.clock.now
        self.urgency_of[work] = urgency
        insort(self.lines.setdefault(_line_key(work), []), (urgency, work))

    def take(self, work: W) -> None:
        """Take work out of its line."""
        key = _line_key(work)
        line = self.lines[key]
        del line[bisect_left(line, (self.urgency_of[work],))]
        if not line:
            del self.lines[key]


class FairQueue(Generic[W]):
    """Work that waits or has been started, of all clients; for one thread at a time."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client[W]] = {}
        self._clock = VirtualClock()
        self._num_added = 0

    def __len__(self) -> int:
        return sum(len(client.urgency_of) for client in self._clients.values())

    def num_started(self, engine: int) -> int:
        """Number of unfinished jobs that an engine has started."""
        started = (work for client in self._clients.values() for work in client.started)
        return sum(work.engine == engine for work in started)

    def add(self, work: W) -> None:
        """Add waiting work."""
        self._num_added += 1
        client = self._clients.setdefault(work.client, _Client(self._clock.now))
        client.add(work, (work.deadline, self._num_added))

    def next(self, engine: int, *, may_start_long: bool) -> W | None:
        """Return the next work for an engine, started or not, without removing it.

        :param may_start_long: whether work that takes several micro-batches may be started
        """
        firsts = {
            name: first
            for name, client in self._clients.items()
            if (first := client.first(engine, may_start_long)) is not None
        }
        if not firsts:
            return None
        eligible = self._clock.eligible([self._clients[name] for name in firsts])
        return min(first for name, first in firsts.items() if self._clients[name] in eligible)[1]

    def batchable(self, work: W) -> Iterator[W]:
        """Yield small work that waits and may share the micro-batch of ``work``.

        Clients with the least virtual time come first, then deadlines.
        """
        for client in sorted(self._clients.values(), key=lambda client: client.virtual_time):
            for _, other in client.lines.get((work.batch_key, True), []):
                if other is not work:
                    yield other

    def start(self, work: W, engine: int) -> None:
        """Move work from waiting to started: it then gets micro-batches of an engine."""
        client = self._clients[work.client]
        client.take(work)
        work.engine = engine
        client.started.append(work)

    def charge(self, work: W, num_tokens: int) -> None:
        """Count computed tokens of started work; ignored if the work was removed."""
        client = self._clients.get(work.client)
        if client is not None and work in client.urgency_of:
            client.clock.charge(work, num_tokens, len(client.urgency_of))
            self._clock.charge(client, num_tokens, len(self._clients))

    def remove(self, work: W) -> None:
        """Remove work that is done or cancelled; ignored if it was removed before."""
        client = self._clients.get(work.client)
        if client is None or work not in client.urgency_of:
            return
        if work in client.started:
            client.started.remove(work)
        else:
            client.take(work)
        del client.urgency_of[work]
        if not client.urgency_of:
            del self._clients[work.client]


def _line_key(work: Schedulable) -> LineKey:
    return work.batch_key, work.is_small
