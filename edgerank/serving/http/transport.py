"""The HTTP transport: the server that listens, and how it opens and closes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgerank.errors import EdgerankError
from edgerank.serving.addresses import SOCKET_MODE, UNIX, host_and_port, is_socket
from edgerank.serving.app import ServerSettings
from edgerank.serving.calls import Calls
from edgerank.serving.http.application import application
from edgerank.serving.http.connections import IDLE_S, Connection
from edgerank.serving.http.tls import server_context
from edgerank.serving.inference import Inference

LAME_DUCK_S = 0.2  # for those who ask /ready to hear that the server drains before it does
LEAST_S = 0.1  # in less, uvicorn does not see that there are no calls
BACKLOG = 2048


class _Server(uvicorn.Server):
    """A server that leaves signals to ``serving.app``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpTransport:
    """An HTTP server on the addresses of ``--http``; see ``serving.app.Transport``."""

    def __init__(self, settings: ServerSettings, inference: Inference, calls: Calls) -> None:
        """:raises InputError: a certificate cannot be used"""
        self._addresses = settings.http
        self._is_serving = False
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # or garbage fills the log
        app = self._closing(application(inference, calls, lambda: self._is_serving))
        if settings.otlp_endpoint is not None:
            from edgerank.serving.http.tracing import with_spans  # its libraries are an extra

            app = with_spans(app)
        self._in_clear = _Server(_config(app, None))
        context = None if settings.tls is None else server_context(settings.tls)
        self._protected = self._in_clear if context is None else _Server(_config(app, context))
        self._tasks: dict[_Server, asyncio.Task[None]] = {}

    async def open(self) -> list[str]:
        """Listen, not ready yet; return the addresses with their ports.

        :raises EdgerankError: an address cannot be listened on
        """
        bound = [(address, _bind(address)) for address in self._addresses]
        for server in {self._in_clear, self._protected}:  # TLS on all that are not sockets
            sockets = [
                listener
                for address, listener in bound
                if server is (self._in_clear if is_socket(address) else self._protected)
            ]
            if sockets:
                self._tasks[server] = asyncio.create_task(server.serve(sockets))
                while not server.started:
                    await asyncio.sleep(0.001)
        return [_name(address, listener) for address, listener in bound]

    async def serve(self) -> None:
        """Say that the models are loaded."""
        self._is_serving = True

    async def drain(self, seconds: float) -> None:
        """Take no more calls, and let those in progress end."""
        self._is_serving = False
        await asyncio.sleep(LAME_DUCK_S)
        await self._stop(seconds)

    async def close(self) -> None:
        """End the calls in progress, if any."""
        await self._stop(0)

    async def _stop(self, seconds: float) -> None:
        for server in self._tasks:
            server.config.timeout_graceful_shutdown = max(seconds, LEAST_S)  # type: ignore[assignment]
            server.should_exit = True
        await asyncio.gather(*self._tasks.values())
        for address in filter(is_socket, self._addresses):
            Path(address.removeprefix(UNIX)).unlink(missing_ok=True)

    def _closing(self, app: ASGIApp) -> ASGIApp:
        """Have clients open no more than one call on a connection while the server drains."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def tell(message: Message) -> None:
                if message["type"] == "http.response.start" and not self._is_serving:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)

            await app(scope, receive, tell)

        return answer


def _config(app: ASGIApp, context: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=2 * int(IDLE_S),  # ``connections`` closes them sooner
        ssl_context_factory=None if context is None else lambda *_: context,
    )


def _bind(address: str) -> socket.socket:
    """Bind an address.

    :raises EdgerankError: it cannot be listened on
    """
    try:
        if is_socket(address):
            return _bind_path(Path(address.removeprefix(UNIX)))
        return _bind_port(*host_and_port(address))
    except OSError as error:
        raise EdgerankError(f"http: {address} cannot be listened on: {error}") from error


def _bind_port(host: str, port: int) -> socket.socket:
    host = host.removeprefix("[").removesuffix("]")
    ((family, kind, _, _, where), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # asyncio sends small packets at once (TCP_NODELAY) only where the protocol is named
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # a port that was closed just now may be taken again
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_path(path: Path) -> socket.socket:
    """Bind a socket, in place of one that nobody listens on any more."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError("another process listens there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(SOCKET_MODE)
    listener.listen(BACKLOG)
    return listener


def _name(address: str, listener: socket.socket) -> str:
    if is_socket(address):
        return address
    return f"{host_and_port(address)[0]}:{listener.getsockname()[1]}"
