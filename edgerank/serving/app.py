"""The server's life: listen, load, serve, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgerank._proto import rerank_pb2, rerank_pb2_grpc, tei_pb2, tei_pb2_grpc
from edgerank.errors import EdgerankError
from edgerank.serving import logs
from edgerank.serving.grpc.health import Health
from edgerank.serving.grpc.interceptor import CallInterceptor
from edgerank.serving.grpc.service import RerankerService
from edgerank.serving.grpc.tei import InfoService, RerankService
from edgerank.serving.inference import Inference, Limits
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import Models, ModelSettings
from edgerank.serving.scheduler import Scheduler
from edgerank.serving.security import Tls, Tokens, check_exposure

SERVICES = [
    rerank_pb2.DESCRIPTOR.services_by_name["Reranker"].full_name,
    tei_pb2.DESCRIPTOR.services_by_name["Info"].full_name,
    tei_pb2.DESCRIPTOR.services_by_name["Rerank"].full_name,
]
SOCKET_MODE = 0o660  # owner and group

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """What ``edgerank serve`` is told; the README's table explains each."""

    models: Mapping[str, Path]  # by name, the default one first
    listen: Sequence[str] = ("127.0.0.1:50051",)
    tls: Tls | None = None
    tokens: Path | None = None
    is_insecure: bool = False
    metrics: tuple[str, int] | None = None  # address and port
    otlp_endpoint: str | None = None  # of the collector that gets spans
    max_queue_tokens: int = 1 << 19
    drain_s: float = 30.0  # seconds that calls have to end after SIGTERM
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)
    model_settings: ModelSettings = field(default_factory=ModelSettings)


def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    :raises EdgerankError: a setting, an address or a bundle is unusable
    """
    check_exposure(
        settings.listen,
        has_tls=settings.tls is not None,
        has_auth=settings.tokens is not None
        or (settings.tls is not None and settings.tls.client_ca is not None),
        is_insecure=settings.is_insecure,
    )
    logs.configure(settings.log_level)
    # the engine has the cores: a text is tokenised by the thread that asks for it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asyncio.run(_serve(settings))


async def _serve(settings: ServerSettings) -> None:
    metrics = Metrics()
    tokens = None if settings.tokens is None else Tokens(settings.tokens)
    interceptors: list[grpc.aio.ServerInterceptor] = [CallInterceptor(metrics, tokens)]
    if settings.otlp_endpoint is not None:
        from edgerank.serving.grpc.tracing import trace  # its libraries are an extra of their own

        interceptors.insert(0, trace(settings.otlp_endpoint))
    server = _make_server(settings.limits, interceptors)
    models = Models(settings.models, settings.model_settings)
    scheduler = Scheduler(max_queue_tokens=settings.max_queue_tokens, observe=metrics.observe_run)
    metrics.watch_queue(lambda: scheduler.queue_tokens)
    inference = Inference(models, scheduler, settings.limits, metrics)
    rerank_pb2_grpc.add_RerankerServicer_to_server(RerankerService(inference), server)
    tei_pb2_grpc.add_InfoServicer_to_server(InfoService(inference), server)
    tei_pb2_grpc.add_RerankServicer_to_server(RerankService(inference), server)
    health_service = Health(SERVICES)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection([*SERVICES, health.SERVICE_NAME], server)
    await health_service.set_serving(False)

    addresses = _bind(server, settings)
    await server.start()
    _share_sockets(addresses)
    if settings.metrics is not None:
        _listen_for_scrapes(metrics, *settings.metrics)
    log.info("listening", extra={"addresses": addresses, "pid": os.getpid()})
    stop = asyncio.Event()
    reload = asyncio.Event()
    _handle_signals(stop, reload)
    try:
        await asyncio.to_thread(models.load)
        await health_service.set_serving(True)
        log.info("serving", extra={"models": {m.name: m.digest for m in models.all()}})
        reloader = asyncio.create_task(_reload_when_asked(models, reload))
        await stop.wait()
        reloader.cancel()
        log.info("draining")
        await health_service.drain()
    finally:
        await server.stop(settings.drain_s if stop.is_set() else None)
        await asyncio.to_thread(scheduler.close)
        inference.close()
    log.info("stopped")


def _make_server(
    limits: Limits, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=interceptors,
        maximum_concurrent_rpcs=limits.max_calls,
        options=[
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),  # what came in may go back
            ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )


def _bind(server: grpc.aio.Server, settings: ServerSettings) -> list[str]:
    """Bind the addresses, TLS on all that are not sockets; return them with their ports."""
    credentials = None if settings.tls is None else settings.tls.credentials()
    bound = []
    for address in settings.listen:
        is_socket = address.startswith("unix:")
        try:
            if credentials is None or is_socket:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise EdgerankError(f"listen: {address} cannot be listened on: {error}") from error
        bound.append(address if is_socket else f"{address.rpartition(':')[0]}:{port}")
    return bound


def _share_sockets(addresses: Sequence[str]) -> None:
    for address in addresses:
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).chmod(SOCKET_MODE)


def _listen_for_scrapes(metrics: Metrics, host: str, port: int) -> None:
    try:
        bound = metrics.listen(host, port)
    except OSError as error:
        raise EdgerankError(f"metrics: {host}:{port} cannot be listened on: {error}") from error
    log.info("metrics", extra={"address": f"{host}:{bound}"})


def _handle_signals(stop: asyncio.Event, reload: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, reload.set)


async def _reload_when_asked(models: Models, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await asyncio.to_thread(models.reload)
        log.info("reload done")
