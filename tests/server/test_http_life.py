"""The HTTP transport: loading, draining, reloading, overload, connections, and who may call."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import httpx
import msgspec
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from edgerank.bundle import read_bundle, write_manifest
from edgerank.client import AsyncClient, Client
from edgerank.manifest import MANIFEST_NAME
from edgerank.serving.http import connections, transport
from tests.support.cli import fail
from tests.support.serving import Authority, ServerProcess, eventually

QUERY = "who wrote dune?"
DOCUMENTS = ["Dune was written by Frank Herbert in 1965", "Paris, since 987"]
LONG = [f"{n} a reranker reads a query and a list of documents " * 4 for n in range(1000)]
BODY = {"query": QUERY, "documents": DOCUMENTS}
PATIENCE_S = 60


def rerank(server: ServerProcess, documents: list[str] | None = None, **options: object):
    """Ask a server on its own connection."""
    body = {"query": QUERY, "documents": documents or DOCUMENTS}
    return httpx.post(f"http://{server.http}/v1/rerank", json=body, timeout=PATIENCE_S, **options)


def copied(bundle: Path, copy: Path) -> Path:
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_server_is_ready_once_its_models_are_loaded(bundles, tmp_path):
    source = bundles / "cross-encoder.int8"
    bundle = copied(source, tmp_path / "slow")
    (bundle / MANIFEST_NAME).unlink()
    os.mkfifo(bundle / MANIFEST_NAME)  # the server waits until someone writes to it
    with ServerProcess("--model", bundle, "--http", "127.0.0.1:0", wait=False) as server:
        url = f"http://{server.http}"
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").status_code == 200
        for path in ("/v1/rerank", "/rerank"):
            response = httpx.post(f"{url}{path}", json=BODY)
            assert response.status_code == 503, path
        assert httpx.post(f"{url}/rerank", json={"query": "a", "texts": ["b"]}).json() == {
            "error": "the models are being loaded",
            "error_type": "Unhealthy",
        }
        with (bundle / MANIFEST_NAME).open("wb") as manifest:
            whole = tmp_path / "manifest"
            whole.write_bytes((source / MANIFEST_NAME).read_bytes())
            whole.replace(bundle / MANIFEST_NAME)
            manifest.write((source / MANIFEST_NAME).read_bytes())
        server.wait_for("serving")
        assert httpx.get(f"{url}/ready").status_code == 200
        assert rerank(server).status_code == 200


def test_a_server_that_is_told_to_stop_finishes_what_it_has_accepted(bundles):
    outcomes: list[str] = []

    async def keep_asking(address: str) -> None:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_S) as client:
            while True:
                try:
                    body = {"query": QUERY, "documents": LONG[:20]}
                    response = await client.post("/v1/rerank", json=body)
                except httpx.TransportError:
                    return  # nobody listens any more, or accepts what the kernel has accepted
                assert response.status_code == 200
                assert len(response.json()["results"]) == 20
                outcomes.append(response.headers.get("connection", ""))

    async def load(server: ServerProcess) -> None:
        tasks = [asyncio.create_task(keep_asking(server.http)) for _ in range(16)]
        while len(outcomes) < 20:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)

    with ServerProcess("--model", bundles / "qwen2.int8", "--http", "127.0.0.1:0") as server:
        asyncio.run(load(server))
        assert server.process.wait(PATIENCE_S) == 0
        server._reader.join()
        codes = [record["code"] for record in server.records("call")]
    assert set(codes) == {"OK"}
    assert len(outcomes) == len(codes)
    assert "close" in outcomes  # told to connect anew, while the server drains


def test_a_server_whose_model_is_broken_says_that_and_nothing_else(bundles, tmp_path):
    bundle = copied(bundles / "cross-encoder.int8", tmp_path / "model")
    os.truncate(bundle / "model.int8.onnx.data", 10)
    options = ("--model", bundle, "--http", "127.0.0.1:0", "--no-grpc")
    with ServerProcess(*options, wait=False) as server:
        assert server.process.wait(PATIENCE_S) == 2
        server._reader.join()
    listening, error = server.lines
    assert "listening" in listening
    assert error.startswith(f"edgerank: error: {bundle}/model.int8.onnx.data: 10 bytes instead of")


def test_a_bundle_is_replaced_under_load_without_a_failed_request(bundles, tmp_path):
    bundle = copied(bundles / "cross-encoder.int8", tmp_path / "model")
    with ServerProcess("--model", bundle, "--http", "127.0.0.1:0", "--no-grpc") as server:
        stop = threading.Event()
        failures: list[object] = []

        def keep_asking() -> None:
            with httpx.Client(base_url=f"http://{server.http}", timeout=PATIENCE_S) as client:
                while not stop.is_set():
                    response = client.post("/v1/rerank", json=BODY)
                    if response.status_code != 200:
                        failures.append(response.text)

        threads = [threading.Thread(target=keep_asking) for _ in range(6)]
        for thread in threads:
            thread.start()

        def digest() -> str:
            models = httpx.get(f"http://{server.http}/v1/models").json()["data"]
            return models[0]["digest"]

        digests = [digest()]
        manifest = read_bundle(bundle).manifest
        for number in range(3):
            source = msgspec.structs.replace(manifest.source, model=f"version {number}")
            write_manifest(bundle, msgspec.structs.replace(manifest, source=source))
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("reload done", number + 1)
            digests.append(digest())
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(set(digests)) == 4


def test_a_full_queue_asks_to_come_again(bundles):
    options = ("--http", "127.0.0.1:0", "--max-queue-tokens", 20_000)
    with ServerProcess("--model", bundles / "qwen2.int8", *options) as server:

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
                body = {"query": QUERY, "documents": LONG[:40]}
                calls = [
                    client.post(f"http://{server.http}/v1/rerank", json=body) for _ in range(12)
                ]
                return await asyncio.gather(*calls)

        responses = asyncio.run(ask())
        refused = [response for response in responses if response.status_code != 200]
        assert 0 < len(refused) < 12
        for response in refused:
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["type"] == "overloaded"
        never = rerank(server, LONG)
        assert (never.status_code, "retry-after" in never.headers) == (429, False)


def test_too_many_calls_at_once_are_told_to_come_again(bundles):
    options = ("--http", "127.0.0.1:0", "--max-calls", 2)
    with ServerProcess("--model", bundles / "qwen2.int8", *options) as server:
        host, port = server.http.split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(2)]
        for connection in held:  # calls whose bodies do not come
            connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        eventually(lambda: rerank(server).status_code == 429, "a refusal")
        for connection in held:
            connection.close()
        eventually(lambda: rerank(server).status_code == 200, "room")


def test_clients_of_both_transports_take_turns(bundles):
    """A client with one short request waits for some micro-batches, not for another's queue."""
    options = ("--http", "127.0.0.1:0", "--max-batch-tokens", 64)
    with ServerProcess("--model", bundles / "qwen2.int8", *options) as server:
        done: list[str] = []

        def long_over_http() -> None:
            assert rerank(server, LONG).status_code == 200
            done.append("long")

        thread = threading.Thread(target=long_over_http)
        thread.start()
        time.sleep(0.2)
        with Client(server.address) as client:
            for _ in range(5):
                client.rank(QUERY, DOCUMENTS)
                done.append("short")
        thread.join()
    assert done == ["short"] * 5 + ["long"]


def test_200_clients_at_once_are_all_answered_beside_those_of_grpc(bundles):
    with ServerProcess("--model", bundles / "qwen2.int8", "--http", "127.0.0.1:0") as server:

        async def over_http(client: httpx.AsyncClient) -> None:
            for _ in range(3):
                response = await client.post("/v1/rerank", json=BODY)
                assert response.status_code == 200

        async def over_grpc(client: AsyncClient) -> None:
            for _ in range(30):
                assert len(await client.rank(QUERY, DOCUMENTS)) == 2

        async def load() -> None:
            limits = httpx.Limits(max_connections=None)
            async with (
                httpx.AsyncClient(
                    base_url=f"http://{server.http}", timeout=PATIENCE_S, limits=limits
                ) as http,
                AsyncClient(server.address, max_attempts=1) as grpc,
            ):
                await asyncio.gather(
                    *(over_http(http) for _ in range(200)), *(over_grpc(grpc) for _ in range(10))
                )

        asyncio.run(load())
        eventually(lambda: len(server.records("call")) == 900, "all calls in the log")
        assert {record["code"] for record in server.records("call")} == {"OK"}


# connections


def test_small_packets_are_sent_at_once():
    listener = transport._bind("127.0.0.1:0")
    try:
        assert listener.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on
    finally:
        listener.close()


def test_a_connection_without_a_request_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "IDLE_S", 0.2)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)  # longer than a connection may be idle
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> tuple[bytes, bytes, bytes]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=connections.Connection, lifespan="off", log_config=None, ws="none"
        )
        server = uvicorn.Server(config)
        server.capture_signals = lambda: __import__("contextlib").nullcontext()
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        port = listener.getsockname()[1]

        async def silent() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
            return received

        async def dripping() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.create_task(reader.read())
            while not reading.done():
                writer.write(b"G")
                await asyncio.sleep(0.02)
            writer.close()
            return await reading

        async def working() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            received = await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
            return received

        received = await asyncio.gather(silent(), dripping(), working())
        server.should_exit = True
        await task
        return tuple(received)

    silent, dripping, working = asyncio.run(run())
    assert (silent, dripping) == (b"", b"")
    assert working.startswith(b"HTTP/1.1 204")


def test_an_address_that_is_taken_is_one_line(bundles):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ("--model", bundles / "cross-encoder.int8", "--listen", "127.0.0.1:0")
        line = fail("serve", *options, "--http", address, EDGERANK_LOG_LEVEL="error")
    assert f"http: {address} cannot be listened on" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--http", "0.0.0.0:0"], "http: 0.0.0.0:0 can be reached from other machines"),
        (["--http", "nowhere"], "http: 'nowhere' is neither HOST:PORT nor unix:PATH"),
        (["--no-grpc"], "--no-grpc needs --http"),
    ],
)
def test_bad_settings_are_one_line(options, message):
    line = fail("serve", "--model", "absent-bundle", *options, EDGERANK_LOG_LEVEL="error")
    assert message in line


def test_http_on_a_unix_socket_without_grpc(bundles, tmp_path):
    path = tmp_path / "socket"
    path.touch()
    path.unlink()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()  # nobody listens: it is taken over
    options = ("--no-grpc", "--http", f"unix:{path}")
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:
        assert server.wait_for("listening")["addresses"] == [f"unix:{path}"]
        assert path.stat().st_mode & 0o777 == 0o660
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://edgerank") as client:
            assert client.post("/v1/rerank", json=BODY).status_code == 200
        assert server.wait_for("call")["client"] == "unix"
        assert "cannot be listened on" in fail(
            "serve", "--no-grpc", "--http", f"unix:{path}", EDGERANK_LOG_LEVEL="error"
        )
        assert server.terminate() == 0
    assert not path.exists()


# who may call


def test_tokens_are_asked_for_everywhere_but_on_pages_and_probes(bundles, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("token-1\n")
    options = ("--http", "127.0.0.1:0", "--tokens", tokens)
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:

        def status(path: str, token: str | None, **keywords: object) -> int:
            headers = {} if token is None else {"authorization": f"Bearer {token}".strip()}
            url = f"http://{server.http}{path}"
            if keywords:
                return httpx.post(url, headers=headers, **keywords).status_code
            return httpx.get(url, headers=headers).status_code

        for path in ("/v1/models", "/info", "/metrics"):
            assert [status(path, token) for token in (None, "", "no", "token-1")] == [
                *[401] * 3,
                200,
            ], path
        for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
            statuses = [status(path, token, json=BODY) for token in (None, "", "no", "token-1")]
            assert statuses == [*[401] * 3, 200], path
        for path in ("/health", "/ready", "/", "/docs", "/openapi.json"):
            assert status(path, None) == 200, path
        big = httpx.post(f"http://{server.http}/v1/rerank", content=b" " * 1_000_000)
        assert big.status_code == 401
        tokens.write_text("token-2\n")
        assert [status("/info", token) for token in ("token-1", "token-2")] == [401, 200]
        assert "token-" not in "".join(server.lines)


def test_tls_with_certificates_that_are_replaced(bundles, tmp_path):
    authority = Authority.make()
    cert, key = authority.issue(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.crt")
    options = ("--http", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:

        def ask(trusted: Path) -> int:
            context = ssl.create_default_context(cafile=str(trusted))
            url = f"https://{server.http}/v1/rerank"
            return httpx.post(url, json=BODY, verify=context).status_code

        assert ask(ca) == 200
        with pytest.raises(httpx.HTTPError):
            rerank(server)  # in the clear
        other = Authority.make()
        other.issue(tmp_path, "server")
        new = other.write(tmp_path / "new.crt")
        assert ask(new) == 200
        with pytest.raises(httpx.ConnectError):
            ask(ca)
        cert.write_text("not a certificate")  # what was read before stays
        assert ask(new) == 200


def test_mutual_tls_on_a_public_address_names_the_client(bundles, tmp_path):
    authority = Authority.make()
    cert, key = authority.issue(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.crt")
    mine = authority.issue(tmp_path, "indexer")
    with ServerProcess(
        *("--model", bundles / "cross-encoder.int8", "--http", "0.0.0.0:0"),
        *("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca),
    ) as server:
        url = f"https://localhost:{server.http.rpartition(':')[2]}/v1/rerank"

        def ask(pair: tuple[Path, Path] | None) -> int:
            context = ssl.create_default_context(cafile=str(ca))
            if pair is not None:
                context.load_cert_chain(*pair)
            return httpx.post(url, json=BODY, verify=context).status_code

        assert ask(mine) == 200
        assert server.wait_for("call")["client"] == "cn:indexer"
        for pair in (None, Authority.make().issue(tmp_path, "stranger")):
            with pytest.raises(httpx.HTTPError):
                ask(pair)
