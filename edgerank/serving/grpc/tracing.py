"""Spans of gRPC calls for OpenTelemetry; those of a call's stages are below them."""

from __future__ import annotations

import grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.instrumentation.grpc.filters import health_check, negate


def span_interceptor() -> grpc.aio.ServerInterceptor:
    """Return what makes a call's span; probes of health have none."""
    interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(  # type: ignore[no-untyped-call]
        filter_=negate(health_check())
    )
    return interceptor
