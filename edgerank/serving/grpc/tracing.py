"""OpenTelemetry spans of gRPC calls; their children are the stages of a call."""

from __future__ import annotations

import grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.instrumentation.grpc.filters import health_check, negate


def span_interceptor() -> grpc.aio.ServerInterceptor:
    """Return the interceptor that makes a span for each call, except health checks."""
    interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(  # type: ignore[no-untyped-call]
        filter_=negate(health_check())
    )
    return interceptor
