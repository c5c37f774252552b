"""Spans of HTTP calls for OpenTelemetry; those of a call's stages are below them."""

from __future__ import annotations

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.types import ASGIApp

UNTRACED = "/health$,/ready$,/metrics$"


def with_spans(app: ASGIApp) -> ASGIApp:
    """Give each call a span; probes and scrapes have none."""
    traced: ASGIApp = OpenTelemetryMiddleware(
        app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"]
    )
    return traced
