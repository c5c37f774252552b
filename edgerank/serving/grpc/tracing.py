"""Spans for OpenTelemetry: one for each call, and below it those of ``inference``.

Sampling, headers and the rest are OpenTelemetry's own settings, the ``OTEL_`` variables.
"""

from __future__ import annotations

import os

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.instrumentation.grpc.filters import health_check, negate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_tracer_provider


def trace(endpoint: str) -> grpc.aio.ServerInterceptor:
    """Send spans to a collector from now on, the last ones as the process ends.

    :param endpoint: of OTLP over gRPC; TLS unless it begins with ``http://``
    :return: what makes a call's span
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", "edgerank")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    set_tracer_provider(provider)
    interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(  # type: ignore[no-untyped-call]
        filter_=negate(health_check())
    )
    return interceptor
