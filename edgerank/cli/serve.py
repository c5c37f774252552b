"""``edgerank serve``"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edgerank.cli.models import named_directories
from edgerank.cli.settings import read_settings
from edgerank.errors import InputError
from edgerank.extras import needs_extra
from edgerank.serving import settings as table
from edgerank.serving.addresses import host_and_port
from edgerank.serving.settings import SettingSpec

if TYPE_CHECKING:
    from edgerank.serving.app import MakeTransport, ServerSettings
    from edgerank.serving.certificates import CertificateFiles

Command = Callable[..., Any]
T = TypeVar("T")


def settings_options(command: Command) -> Command:
    """Give a command an option for each setting of the table."""
    for setting in reversed(table.SETTINGS):  # as decorators apply: the last one first
        is_config = setting is table.CONFIG
        command = click.option(
            *(["-m"] if setting is table.MODEL else []),
            f"{setting.flag}/{setting.negative_flag}" if setting.default is True else setting.flag,
            type=_type(setting),
            default=setting.default,
            multiple=setting.is_repeatable,
            is_flag=setting.kind == "switch",
            envvar=setting.variable,
            show_default=setting.default_words or True,
            metavar=setting.metavar or None,
            help=setting.help,
            is_eager=is_config,
            expose_value=not is_config,
            callback=read_settings if is_config else None,
        )(command)
    return command


def _type(setting: SettingSpec[object]) -> click.ParamType[Any] | None:
    if setting.kind == "integer":
        return click.IntRange(setting.least)
    if setting.kind == "number":
        return click.FloatRange(setting.least)
    if setting.kind == "file":
        return click.Path(path_type=Path, dir_okay=False)
    return click.Choice(setting.choices) if setting.choices else None


class Values:
    """The values of the settings."""

    def __init__(self, by_parameter: dict[str, Any]) -> None:
        """:param by_parameter: by the names that click gives to options"""
        self._by_parameter = by_parameter

    def __getitem__(self, setting: SettingSpec[T]) -> T:
        return cast(T, self._by_parameter[setting.name.replace("-", "_")])


@click.command()
@settings_options
def serve(**by_parameter: Any) -> None:
    """Serve models over gRPC, HTTP, or both.

    The default is gRPC at 127.0.0.1:50051. --http adds HTTP, and --no-grpc turns gRPC off.

    Every option can also be set by an environment variable, such as EDGERANK_MAX_QUEUE_TOKENS for
    --max-queue-tokens, or in the file that --config names. If an option may be given several
    times, its variable separates the values by white space.

    After SIGTERM, the server finishes the calls in progress, refuses new ones, and ends. After
    SIGHUP, it opens the bundles that have changed.
    """
    values = Values(by_parameter)
    transports: list[MakeTransport] = []
    if values[table.GRPC]:
        with needs_extra("serving gRPC", "server"):
            from edgerank.serving.grpc.transport import GrpcTransport
        transports.append(GrpcTransport)
    if values[table.HTTP]:
        with needs_extra("serving HTTP", "http"):
            from edgerank.serving.http.transport import HttpTransport
        transports.append(HttpTransport)
    if not transports:
        raise InputError("http", "there is nothing to serve: --no-grpc needs --http")
    with needs_extra("serving", "server"):
        from edgerank.serving.app import serve as run
    if values[table.OTLP_ENDPOINT] is not None:
        with needs_extra("tracing", "tracing"):
            import opentelemetry.instrumentation.asgi
            import opentelemetry.instrumentation.grpc  # noqa: F401

            import edgerank.serving.tracing  # noqa: F401
    run(_server_settings(values), transports)


def _server_settings(values: Values) -> ServerSettings:
    from edgerank.serving.app import ServerSettings
    from edgerank.serving.limits import Limits
    from edgerank.serving.models import ModelSettings

    return ServerSettings(
        models=named_directories("model", values[table.MODEL]),
        stores=named_directories("store", values[table.STORE]),
        listen=values[table.LISTEN] if values[table.GRPC] else (),
        http=values[table.HTTP],
        tls=_certificate_files(values),
        tokens=values[table.TOKENS],
        is_insecure=values[table.INSECURE],
        metrics=_address(values[table.METRICS]),
        otlp_endpoint=values[table.OTLP_ENDPOINT],
        max_queue_tokens=values[table.MAX_QUEUE_TOKENS],
        drain_s=values[table.DRAIN],
        log_level=values[table.LOG_LEVEL],
        limits=Limits(
            max_documents=values[table.MAX_DOCUMENTS],
            max_document_bytes=values[table.MAX_DOCUMENT_BYTES],
            max_query_tokens=values[table.MAX_QUERY_TOKENS],
            max_message_bytes=values[table.MAX_MESSAGE_BYTES],
            max_calls=values[table.MAX_CALLS],
        ),
        model_settings=ModelSettings(
            threads=values[table.THREADS],
            providers=values[table.PROVIDERS],
            devices=values[table.DEVICES],
            kernels=values[table.KERNELS],
            max_length=values[table.MAX_LENGTH],
            max_batch_tokens=values[table.MAX_BATCH_TOKENS],
            warmup=values[table.WARMUP],
            trust=values[table.TRUST],
        ),
    )


def _certificate_files(values: Values) -> CertificateFiles | None:
    from edgerank.serving.certificates import CertificateFiles

    cert, key = values[table.TLS_CERT], values[table.TLS_KEY]
    if (cert is None) != (key is None):
        raise InputError("tls", "--tls-cert and --tls-key go together")
    if cert is None or key is None:
        if values[table.TLS_CLIENT_CA] is not None:
            raise InputError("tls", "--tls-client-ca needs --tls-cert and --tls-key")
        return None
    return CertificateFiles(cert, key, values[table.TLS_CLIENT_CA])


def _address(metrics: str | None) -> tuple[str, int] | None:
    if metrics is None:
        return None
    try:
        return host_and_port(metrics)
    except ValueError as error:
        raise InputError("metrics", str(error)) from None
