"""An upgrade and a roll-back swap a link, and no request under way notices."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from edgerank.airgap.install import Refused, move_link
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.client import Client
from edgerank.client.connection import MAX_ATTEMPTS
from tests.support.serving import ServerProcess, eventually

QUERY, DOCUMENTS = "who wrote dune?", ["Frank Herbert", "Paris"]
CLIENTS = 3

Ask = Callable[[], object]


@pytest.fixture
def releases(tmp_path) -> tuple[Path, Path]:
    """Two releases whose models differ."""
    first, second = tmp_path / "releases/1", tmp_path / "releases/2"
    for release in (first, second):
        shutil.copytree(DEFAULT_BUNDLE, release / "models/default")
    path = second / "models/default/edgerank.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "max_length": 128}))
    return first, second


@contextmanager
def over_grpc(address: str, max_attempts: int = 1) -> Iterator[Ask]:
    with Client(address, max_attempts=max_attempts, timeout=60) as client:
        yield lambda: client.rank(QUERY, DOCUMENTS)


@contextmanager
def over_http(path: Path) -> Iterator[Ask]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=60) as client:

        def ask() -> None:
            body = {"query": QUERY, "documents": DOCUMENTS}
            client.post("http://edgerank/v1/rerank", json=body).raise_for_status()

        yield ask


class Load:
    """Clients that ask without a pause, over a connection each."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Ask]]) -> None:
        self.answers = 0
        self.failures: list[Exception] = []
        self._connect = connect
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Wait until every client has had an answer to a question that it asked after this."""
        wanted = self.answers + 2 * CLIENTS
        eventually(lambda: self.answers >= wanted or bool(self.failures), "answers")

    def _ask(self) -> None:
        with self._connect() as ask:
            while not self._stop.is_set():
                try:
                    ask()
                except Exception as error:
                    self.failures.append(error)
                    return
                self.answers += 1


def digest_served(address: str) -> str:
    with Client(address) as client:
        [model] = client.models()
        return model.digest


def test_no_request_fails_while_models_are_upgraded_and_rolled_back(releases, tmp_path):
    current = tmp_path / "current"
    move_link(current, releases[0])
    digests = [read_bundle(release / "models/default").digest for release in releases]
    server = ServerProcess("--model", current / "models/default")
    with server, Load(lambda: over_grpc(server.address)) as load:
        for count, index in enumerate((1, 0, 1, 0), 1):
            load.wait_for_more()
            move_link(current, releases[index])
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("reload done", count)
            assert digest_served(server.address) == digests[index]
        load.wait_for_more()
    assert load.failures == []
    assert server.records("reload failed") == []


def test_no_request_fails_while_a_server_of_another_release_takes_over(releases, tmp_path):
    """The new one serves before the link to the sockets is swapped, and then the old one drains."""
    link = tmp_path / "sockets"
    digests = [read_bundle(release / "models/default").digest for release in releases]

    def start(release: int) -> ServerProcess:
        sockets = tmp_path / f"run/{release}"
        sockets.mkdir(parents=True, exist_ok=True)
        listen = ["--listen", f"unix:{sockets}/grpc", "--http", f"unix:{sockets}/http"]
        server = ServerProcess("--model", releases[release] / "models/default", *listen)
        move_link(link, sockets)
        return server

    grpc, http = f"unix:{link}/grpc", link / "http"
    with ExitStack() as servers:
        old = servers.enter_context(start(0))
        calls = Load(lambda: over_grpc(grpc, MAX_ATTEMPTS))
        requests = Load(lambda: over_http(http))
        with calls, requests:
            for release in (1, 0, 1, 0):
                for load in (calls, requests):
                    load.wait_for_more()
                new = servers.enter_context(start(release))
                assert old.terminate() == 0
                for load in (calls, requests):
                    load.wait_for_more()
                assert digest_served(grpc) == digests[release]
                old = new
    assert (calls.failures, requests.failures) == ([], [])


def test_a_link_is_never_away_and_nothing_else_is_replaced(releases, tmp_path):
    current = tmp_path / "current"
    move_link(current, releases[0])
    stop, missing = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if not (current / "models/default/edgerank.json").exists():
                missing.append(True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for count in range(200):
        move_link(current, releases[count % 2])
    stop.set()
    watcher.join()
    assert missing == []
    (tmp_path / "directory").mkdir()
    with pytest.raises(Refused, match="exists and is not a link"):
        move_link(tmp_path / "directory", releases[0])
