"""The server's life, with transports that have no network."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from edgerank.documents import make_pairs
from edgerank.errors import BundleError, EdgerankError
from edgerank.serving import logs
from edgerank.serving.app import ServerSettings, serve
from edgerank.serving.calls import Call, Calls
from edgerank.serving.errors import NotReady
from edgerank.serving.inference import Inference, Scored, ScoringOptions


@pytest.fixture(autouse=True)
def leave_the_log_alone(monkeypatch):
    monkeypatch.setattr(logs, "configure", lambda level: None)


class Transport:
    """Asks one question when it opens and one when it serves."""

    def __init__(self, settings: ServerSettings, inference: Inference, calls: Calls) -> None:
        self.inference, self.calls = inference, calls
        self.events: list[str] = []
        self.scored: Scored | None = None

    async def ask(self) -> Scored:
        with self.calls.answering(Call("ask", "id", "client"), None):
            return await self.inference.score(make_pairs("a query", ["a", "b"]), ScoringOptions())

    async def open(self) -> list[str]:
        self.events.append("open")
        try:
            await self.ask()
        except Exception as error:
            self.events.append(type(error.__cause__).__name__)
        return ["an address"]

    async def serve(self) -> None:
        self.events.append("serve")
        self.scored = await self.ask()

    async def drain(self, seconds: float) -> None:
        self.events.append(f"drain {seconds}")

    async def close(self) -> None:
        self.events.append("close")


class Last(Transport):
    """Has the server stop once it serves."""

    async def serve(self) -> None:
        await super().serve()
        os.kill(os.getpid(), signal.SIGTERM)


def run(bundle: Path, *kinds: type[Transport]) -> list[Transport]:
    """Run a server with transports of these kinds; return the transports."""
    transports: list[Transport] = []

    def maker(kind: type[Transport]):
        def make(*arguments) -> Transport:
            transports.append(kind(*arguments))
            return transports[-1]

        return make

    try:
        serve(ServerSettings({"model": bundle}, drain_s=1.5), [maker(kind) for kind in kinds])
    finally:
        run.transports = transports
    return transports


def test_each_door_is_opened_serves_and_is_drained(bundles):
    transports = run(bundles / "cross-encoder.int8", Transport, Last)
    for transport in transports:
        assert transport.events == ["open", NotReady.__name__, "serve", "drain 1.5", "close"]
        assert transport.scored.scores.shape == (2,)


class Shut(Transport):
    async def open(self) -> list[str]:
        raise EdgerankError("the address cannot be listened on")


def test_a_door_that_cannot_be_opened_ends_the_server(bundles):
    with pytest.raises(EdgerankError, match="cannot be listened on"):
        run(bundles / "cross-encoder.int8", Transport, Shut)
    assert run.transports[0].events == ["open", NotReady.__name__, "close"]


def test_a_bundle_that_cannot_be_opened_ends_the_server(tmp_path):
    with pytest.raises(BundleError):
        run(tmp_path / "absent", Transport)
    assert run.transports[0].events == ["open", NotReady.__name__, "close"]
