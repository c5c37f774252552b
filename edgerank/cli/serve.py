"""``edgerank serve``"""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli.extras import needs_extra
from edgerank.cli.settings import read_settings
from edgerank.errors import InputError

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"auto_envvar_prefix": "EDGERANK", "show_default": True})
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    default=[f"default={DEFAULT_BUNDLE}"],
    show_default="the one in the package",
    metavar="[NAME=]BUNDLE",
    envvar="EDGERANK_MODEL",
    help="A bundle, called by its directory's name unless another is given. The first is the"
    " default; give the option once for each. EDGERANK_MODEL separates several by white space.",
)
@click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=read_settings,
    help="These settings in TOML, by the flags' names; flags and the environment go before it.",
)
@click.option(
    "--listen",
    multiple=True,
    default=["127.0.0.1:50051"],
    metavar="ADDRESS",
    help="HOST:PORT or unix:PATH; may be given several times.",
)
@click.option("--tls-cert", type=FILE, help="Certificate chain, PEM; read anew when it changes.")
@click.option("--tls-key", type=FILE, help="Its key, PEM.")
@click.option("--tls-client-ca", type=FILE, help="Ask clients for certificates signed by this CA.")
@click.option("--tokens", type=FILE, help="Bearer tokens, one a line; read anew when it changes.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS and auth.")
@click.option("--metrics", metavar="HOST:PORT", help="Answer Prometheus' scrapes there.")
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Send OpenTelemetry spans to the collector there (OTLP over gRPC).",
)
@click.option("--threads", type=click.IntRange(1), help="Of the engine; physical cores by default.")
@click.option("--max-length", type=int, help="Tokens of query and document together.")
@click.option("--max-documents", type=click.IntRange(1), default=4096, help="Of a request.")
@click.option(
    "--max-document-bytes",
    type=click.IntRange(1),
    default=1 << 18,
    help="UTF-8 of a document, a query or an instruction.",
)
@click.option("--max-query-tokens", type=click.IntRange(1), default=1024)
@click.option("--max-message-bytes", type=click.IntRange(1024), default=1 << 26)
@click.option("--max-calls", type=click.IntRange(1), default=1024, help="At once.")
@click.option(
    "--max-queue-tokens",
    type=click.IntRange(1),
    default=1 << 19,
    help="Waiting and in progress; beyond, calls are RESOURCE_EXHAUSTED.",
)
@click.option("--drain", type=click.FloatRange(0), default=30.0, help="Seconds after SIGTERM.")
@click.option("--warmup/--no-warmup", default=True, help="Score once with a model before serving.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Each call is a line at info.",
)
def serve(
    models: tuple[str, ...],
    listen: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tokens: Path | None,
    insecure: bool,
    metrics: str | None,
    otlp_endpoint: str | None,
    threads: int | None,
    max_length: int | None,
    max_documents: int,
    max_document_bytes: int,
    max_query_tokens: int,
    max_message_bytes: int,
    max_calls: int,
    max_queue_tokens: int,
    drain: float,
    warmup: bool,
    log_level: str,
) -> None:
    """Serve models over gRPC.

    Every option can be set by the environment, --max-queue-tokens by EDGERANK_MAX_QUEUE_TOKENS, or
    in the file that --config names.
    SIGTERM drains, SIGHUP loads bundles anew that have changed.
    """
    with needs_extra("serving", "server"):
        from edgerank.serving.app import ServerSettings
        from edgerank.serving.app import serve as run
        from edgerank.serving.inference import Limits
        from edgerank.serving.models import ModelSettings
        from edgerank.serving.security import Tls
    if otlp_endpoint is not None:
        with needs_extra("tracing", "tracing"):
            import edgerank.serving.grpc.tracing  # noqa: F401
    if (tls_cert is None) != (tls_key is None):
        raise InputError("tls", "--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise InputError("tls", "--tls-client-ca needs --tls-cert and --tls-key")
    run(
        ServerSettings(
            models=_named(models),
            listen=listen,
            tls=Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None,
            tokens=tokens,
            is_insecure=insecure,
            metrics=None if metrics is None else _host_and_port(metrics),
            otlp_endpoint=otlp_endpoint,
            max_queue_tokens=max_queue_tokens,
            drain_s=drain,
            log_level=log_level,
            limits=Limits(
                max_documents, max_document_bytes, max_query_tokens, max_message_bytes, max_calls
            ),
            model_settings=ModelSettings(threads, max_length, warmup),
        )
    )


def _named(models: tuple[str, ...]) -> dict[str, Path]:
    """Tell names from bundles: the name ends at the first "=".

    :raises InputError: two models have one name
    """
    named: dict[str, Path] = {}
    for model in models:
        name, separator, path = model.partition("=")
        bundle = Path(path if separator else model)
        name = name if separator else bundle.resolve().name
        if not name or name in named:
            raise InputError("model", f"the name {name!r} is empty or given twice; use NAME=BUNDLE")
        named[name] = bundle
    return named


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError("metrics", f"{address!r} is not HOST:PORT")
    return host, int(port)
