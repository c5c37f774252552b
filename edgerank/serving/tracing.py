"""Sends OpenTelemetry spans: those of calls, and their child spans of ``inference``.

Sampling, headers and so on are set by OpenTelemetry's own variables, ``OTEL_...``.
"""

from __future__ import annotations

import os

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import set_tracer_provider


def send_spans(endpoint: str) -> None:
    """Send spans to a collector from now on, the last ones as the process ends.

    :param endpoint: of OTLP over gRPC; TLS unless it begins with ``http://``
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", "edgerank")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    set_tracer_provider(provider)
