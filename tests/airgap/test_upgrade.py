"""An upgrade and a roll-back swap a link, and no request under way notices."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest

from edgerank.airgap.install import Refused, move_link
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.client import Client
from tests.support.serving import ServerProcess, eventually

CLIENTS = 3


@pytest.fixture
def releases(tmp_path) -> tuple[Path, Path]:
    """Two releases whose models differ."""
    first, second = tmp_path / "releases/1", tmp_path / "releases/2"
    for release in (first, second):
        shutil.copytree(DEFAULT_BUNDLE, release / "models/default")
    path = second / "models/default/edgerank.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "max_length": 128}))
    return first, second


class Load:
    """Clients that ask without a pause, and try nothing again."""

    def __init__(self, address: str) -> None:
        self.answers = 0
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(address,)) for _ in range(CLIENTS)
        ]

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

    def _ask(self, address: str) -> None:
        with Client(address, max_attempts=1, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    client.rank("who wrote dune?", ["Frank Herbert", "Paris"])
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
    with server, Load(server.address) as load:
        for count, index in enumerate((1, 0, 1, 0), 1):
            load.wait_for_more()
            move_link(current, releases[index])
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("reload done", count)
            assert digest_served(server.address) == digests[index]
        load.wait_for_more()
    assert load.failures == []
    assert server.records("reload failed") == []


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
    with pytest.raises(Refused, match="is not a link"):
        move_link(tmp_path / "directory", releases[0])
