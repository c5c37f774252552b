"""The life of the server with any transport: listen, load, serve, reload, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgerank.errors import EdgerankError
from edgerank.kernels import choose_kernels
from edgerank.serving import logs
from edgerank.serving.addresses import check_exposure
from edgerank.serving.authentication import BearerTokens
from edgerank.serving.calls import Calls
from edgerank.serving.certificates import CertificateFiles
from edgerank.serving.inference import Inference
from edgerank.serving.limits import Limits
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import Models, ModelSettings
from edgerank.serving.notify import tell_systemd
from edgerank.serving.scheduler import Scheduler
from edgerank.serving.settings import DRAIN, HTTP, LISTEN, LOG_LEVEL, MAX_QUEUE_TOKENS, LogLevel
from edgerank.serving.stores import Stores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """The settings of ``edgerank serve``; the module ``settings`` explains each."""

    models: Mapping[str, Path]  # by name, the default one first
    stores: Mapping[str, Path] = field(default_factory=dict)  # by name
    listen: Sequence[str] = LISTEN.default  # for gRPC
    http: Sequence[str] = HTTP.default
    tls: CertificateFiles | None = None
    tokens: Path | None = None
    is_insecure: bool = False
    metrics: tuple[str, int] | None = None  # address and port
    otlp_endpoint: str | None = None
    max_queue_tokens: int = MAX_QUEUE_TOKENS.default
    drain_s: float = DRAIN.default
    log_level: LogLevel = LOG_LEVEL.default
    limits: Limits = field(default_factory=Limits)
    model_settings: ModelSettings = field(default_factory=ModelSettings)


class Transport(Protocol):
    """A transport: it passes each call through ``Calls`` and has ``Inference`` answer it."""

    async def open(self) -> list[str]:
        """Listen, without serving yet; return the addresses with their ports.

        :raises EdgerankError: an address cannot be listened on
        """

    async def serve(self) -> None:
        """Begin to serve: the models are loaded."""

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, and wait for those in progress."""

    async def close(self) -> None:
        """End the calls in progress, if any."""


MakeTransport = Callable[[ServerSettings, Inference, Calls], Transport]


def serve(settings: ServerSettings, make_transports: Sequence[MakeTransport]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    :raises EdgerankError: a setting, an address or a bundle is unusable
    """
    for setting, addresses in (("listen", settings.listen), ("http", settings.http)):
        check_exposure(
            setting,
            addresses,
            has_tls=settings.tls is not None,
            has_authentication=settings.tokens is not None
            or (settings.tls is not None and settings.tls.client_ca is not None),
            is_insecure=settings.is_insecure,
        )
    choose_kernels(settings.model_settings.kernels)  # refuse unusable kernels before listening
    logs.configure(settings.log_level)
    # the engine uses all cores, so a text is tokenised in the calling thread only
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asyncio.run(_serve(settings, make_transports))


async def _serve(settings: ServerSettings, make_transports: Sequence[MakeTransport]) -> None:
    if settings.otlp_endpoint is not None:
        from edgerank.serving.tracing import send_spans  # its libraries belong to an extra

        send_spans(settings.otlp_endpoint)
    metrics = Metrics()
    models = Models(settings.models, settings.model_settings)
    scheduler = Scheduler(
        max_queue_tokens=settings.max_queue_tokens,
        num_engines=settings.model_settings.num_engines,
        observe=metrics.observe_run,
    )
    metrics.watch_queue(lambda: scheduler.queue_tokens)
    stores = Stores(settings.stores)
    inference = Inference(models, scheduler, settings.limits, metrics, stores)
    tokens = None if settings.tokens is None else BearerTokens(settings.tokens)
    calls = Calls(metrics, tokens, settings.limits.max_calls)
    transports = [make_transport(settings, inference, calls) for make_transport in make_transports]
    try:
        addresses = [address for transport in transports for address in await transport.open()]
        if settings.metrics is not None:
            _listen_for_scrapes(metrics, *settings.metrics)
        log.info("listening", extra={"addresses": addresses, "pid": os.getpid()})
        await _serve_until_told(transports, models, stores, metrics, settings.drain_s)
    finally:
        await asyncio.gather(*(transport.close() for transport in transports))
        await asyncio.to_thread(scheduler.close)
        inference.close()
    log.info("stopped")


async def _serve_until_told(
    transports: Sequence[Transport],
    models: Models,
    stores: Stores,
    metrics: Metrics,
    drain_s: float,
) -> None:
    """Load the models, serve, and drain after a signal."""
    stop = asyncio.Event()
    reload = asyncio.Event()
    _handle_signals(stop, reload)
    await asyncio.to_thread(models.load)
    await asyncio.to_thread(stores.load, models)
    _describe(models, metrics)
    for transport in transports:
        await transport.serve()
    log.info("serving", extra={"models": {model.name: model.digest for model in models.all()}})
    tell_systemd("READY=1")
    reloader = asyncio.create_task(_reload_when_asked(models, stores, metrics, reload))
    await stop.wait()
    reloader.cancel()
    tell_systemd("STOPPING=1")
    log.info("draining")
    await asyncio.gather(*(transport.drain(drain_s) for transport in transports))


def _listen_for_scrapes(metrics: Metrics, host: str, port: int) -> None:
    try:
        bound = metrics.listen(host, port)
    except OSError as error:
        raise EdgerankError(f"metrics: {host}:{port} cannot be listened on: {error}") from error
    log.info("metrics", extra={"address": f"{host}:{bound}"})


def _describe(models: Models, metrics: Metrics) -> None:
    for model in models.all():
        opened = model.reranker
        metrics.describe_model(model.name, model.digest, opened.variant.name, opened.kernels.name)


def _handle_signals(stop: asyncio.Event, reload: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, reload.set)


async def _reload_when_asked(
    models: Models, stores: Stores, metrics: Metrics, asked: asyncio.Event
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await asyncio.to_thread(models.reload)
        await asyncio.to_thread(stores.reload, models)
        _describe(models, metrics)
        log.info("reload done")
