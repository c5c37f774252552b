"""The gRPC transport: the server and its services."""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgerank._proto import rerank_pb2_grpc, tei_pb2_grpc
from edgerank.errors import EdgerankError
from edgerank.serving.addresses import SOCKET_MODE, UNIX, host_and_port, is_socket
from edgerank.serving.app import ServerSettings
from edgerank.serving.calls import Calls
from edgerank.serving.grpc import messages, tei
from edgerank.serving.grpc.health import Health
from edgerank.serving.grpc.interceptor import CallInterceptor
from edgerank.serving.grpc.service import RerankerService
from edgerank.serving.grpc.tls import server_credentials
from edgerank.serving.inference import Inference
from edgerank.serving.limits import Limits

SERVICES = ["edgerank.v1.Reranker", "tei.v1.Info", "tei.v1.Rerank"]
WORDINGS = {  # of errors, by method; those of ``messages.WORDING`` for all others
    "/edgerank.v1.Reranker/RerankStream": messages.STREAM_WORDING,
    "/tei.v1.Rerank/Rerank": tei.WORDING,
    "/tei.v1.Rerank/RerankStream": tei.WORDING,
}


class GrpcTransport:
    """A gRPC server on the addresses of ``--listen``; see ``serving.app.Transport``."""

    def __init__(self, settings: ServerSettings, inference: Inference, calls: Calls) -> None:
        self._settings = settings
        self._health = Health(SERVICES)
        self._server = grpc.aio.server(
            interceptors=_interceptors(settings, calls),
            maximum_concurrent_rpcs=settings.limits.max_calls,
            options=_options(settings.limits),
        )
        rerank_pb2_grpc.add_RerankerServicer_to_server(RerankerService(inference), self._server)
        tei_pb2_grpc.add_InfoServicer_to_server(tei.InfoService(inference), self._server)
        tei_pb2_grpc.add_RerankServicer_to_server(tei.RerankService(inference), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*SERVICES, health.SERVICE_NAME], self._server)

    async def open(self) -> list[str]:
        """Listen, without serving yet; return the addresses with their ports.

        :raises EdgerankError: an address cannot be listened on
        """
        await self._health.set_serving(False)
        addresses = self._bind()
        await self._server.start()
        for address in filter(is_socket, addresses):
            Path(address.removeprefix(UNIX)).chmod(SOCKET_MODE)
        return addresses

    async def serve(self) -> None:
        """Begin to serve: the models are loaded."""
        await self._health.set_serving(True)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, and wait for those in progress."""
        await self._health.drain()
        await self._server.stop(seconds)

    async def close(self) -> None:
        """End the calls in progress, if any."""
        await self._server.stop(None)

    def _bind(self) -> list[str]:
        """Bind the addresses, with TLS except on Unix sockets."""
        tls = self._settings.tls
        credentials = None if tls is None else server_credentials(tls)
        bound = []
        for address in self._settings.listen:
            try:
                if credentials is None or is_socket(address):
                    port = self._server.add_insecure_port(address)
                else:
                    port = self._server.add_secure_port(address, credentials)
            except RuntimeError as error:
                raise EdgerankError(f"listen: {address} cannot be listened on: {error}") from error
            bound.append(address if is_socket(address) else f"{host_and_port(address)[0]}:{port}")
        return bound


def _interceptors(settings: ServerSettings, calls: Calls) -> list[grpc.aio.ServerInterceptor]:
    adapter = CallInterceptor(calls, WORDINGS)
    if settings.otlp_endpoint is None:
        return [adapter]
    from edgerank.serving.grpc.tracing import span_interceptor  # its libraries belong to an extra

    return [span_interceptor(), adapter]


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),  # an answer may be as large as a request
        ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
