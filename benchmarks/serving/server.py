"""A server in a process of its own, on loopback, and the requests for it.

Server and load share the machine's cores, as embedded calls do not: figures are for one machine
against itself.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.bundles import minilm_bundle
from benchmarks.serving.http_client import HttpClient
from edgerank import AsyncClient

GRPC, HTTP = TRANSPORTS = ("grpc", "http")  # in the order in which a server says its addresses
ANY_PORT = "127.0.0.1:0"
ONE, FEW, MANY = 1, 5, 1000  # documents of a request
NUM_CLIENTS = 4  # connections
TIMEOUT_S = 600  # of requests without a deadline of their own
WORDS = (
    *("a", "reranker", "reads", "the", "query", "and", "each", "document", "then", "gives"),
    *("it", "one", "score", "of", "relevance"),
)

bundle_option = click.option(
    "--bundle",
    type=options.DIRECTORY,
    help="The model to serve; by default the real all-MiniLM-L6-v2 in int8.",
)
seconds_option = click.option(
    "--seconds", default=10.0, show_default=True, help="Seconds of each measurement."
)

transports_option = click.option(
    "--transport",
    "transports",
    type=click.Choice(TRANSPORTS),
    multiple=True,
    default=TRANSPORTS,
    help="How callers ask; may be given several times.  [default: both]",
)

Caller = AsyncClient | HttpClient
Addresses = dict[str, str]  # by transport
Request = tuple[str, list[str]]  # a query and documents


class Requests:
    """Random requests, the same ones for every benchmark."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def draw(self, num_documents: int) -> Request:
        """Make a query and documents of 30 to 120 words; a lone one is a title."""
        fewest, most = (4, 12) if num_documents == ONE else (30, 120)
        documents = [self._text(self.random.randint(fewest, most)) for _ in range(num_documents)]
        return self._text(8), documents

    def _text(self, num_words: int) -> str:
        words = self.random.choices(WORDS, k=num_words)
        return " ".join(words) + f" {self.random.getrandbits(16)}"


@contextmanager
def served_bundle(bundle: Path | None) -> Iterator[Path]:
    """Enter the given bundle, or MiniLM quantized on the spot."""
    if bundle is not None:
        yield bundle
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield minilm_bundle(Path(scratch)).directory


@contextmanager
def serving(bundle: Path, threads: int) -> Iterator[Addresses]:
    """Run a server: its address for each transport."""
    command = [sys.executable, "-m", "edgerank", "serve", "--model", str(bundle)]
    server = subprocess.Popen(
        [*command, "--listen", ANY_PORT, "--http", ANY_PORT, "--threads", str(threads)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        addresses = read_addresses(server.stderr or ())
        with subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL):
            try:
                yield addresses
            finally:
                server.terminate()  # which ends what reads its log
    finally:
        server.terminate()
        server.wait()


def read_addresses(log: Iterable[str]) -> Addresses:
    """Read the server's log until it serves.

    :raises click.ClickException: it ends before that
    """
    addresses: list[str] = []
    line = ""
    for line in log:
        record = json.loads(line)
        addresses = record.get("addresses", addresses)
        if record["message"] == "serving":
            return dict(zip(TRANSPORTS, addresses, strict=True))
    raise click.ClickException(f"the server ended: {line.strip() or 'it said nothing'}")


@asynccontextmanager
async def connected(addresses: Addresses, transport: str) -> AsyncIterator[list[Caller]]:
    """Connect clients that do not try again, and let the server warm up."""
    address = addresses[transport]
    clients: list[Caller] = [
        HttpClient(address)
        if transport == HTTP
        else AsyncClient(address, max_attempts=1, timeout=TIMEOUT_S)
        for _ in range(NUM_CLIENTS)
    ]
    try:
        await clients[0].score(*Requests().draw(FEW))
        yield clients
    finally:
        for client in clients:
            await client.aclose()
