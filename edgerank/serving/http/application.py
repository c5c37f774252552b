"""The ASGI application: methods by path, and pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edgerank.serving.calls import Call, CallFailed, Calls, request_id_of
from edgerank.serving.http import embeddings, models, rerank, score, tei
from edgerank.serving.http.endpoint import Shape, client_of, endpoint, json_response
from edgerank.serving.http.errors import Failure, common
from edgerank.serving.http.openapi import openapi
from edgerank.serving.inference import Inference

SHAPES: tuple[Shape[Any], ...] = (
    rerank.shape("/v1/rerank", "1"),
    rerank.shape("/v2/rerank", "2"),
    tei.RERANK,
    score.shape("/score"),
    score.shape("/v1/score"),
    embeddings.EMBEDDINGS,
    models.MODELS,
    tei.INFO,
)
PAGES = {"/": "try.html", "/docs": "docs.html"}


def application(inference: Inference, calls: Calls, is_serving: Callable[[], bool]) -> Starlette:
    """Build the ASGI application.

    :param is_serving: whether the models are loaded and the server does not drain
    """
    routes = [
        Route(shape.path, endpoint(shape, inference, calls), methods=[shape.http_method])
        for shape in SHAPES
    ]
    routes += [Route(path, _page(file)) for path, file in PAGES.items()]
    routes += [
        Route("/openapi.json", _fixed(openapi(SHAPES))),
        Route("/health", _fixed(b'{"status":"ok"}')),
        Route("/ready", _ready(is_serving)),
        Route("/metrics", _metrics(calls)),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_found})


def _page(file: str) -> Callable[[Request], Awaitable[Response]]:
    content = Path(__file__).with_name(file).read_bytes()

    async def respond(request: Request) -> Response:
        return HTMLResponse(content, headers={"content-security-policy": POLICY})

    return respond


# the pages load nothing from other sites
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:;"
    " script-src 'unsafe-inline'; style-src 'unsafe-inline'"
)


def _fixed(content: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        return Response(content, media_type="application/json")

    return respond


def _ready(is_serving: Callable[[], bool]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        if is_serving():
            return json_response({"status": "ready"}, 200, {})
        return json_response({"status": "not ready"}, 503, {})

    return respond


def _metrics(calls: Calls) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        call = Call("/metrics", request_id_of(None), client_of(request))
        try:
            with calls.answering(call, request.headers.get("authorization")):
                encode, media_type = choose_encoder(request.headers.get("accept", ""))
                content = encode(calls.metrics.registry)
        except CallFailed as failed:
            told = rerank.ERRORS.word(failed)
            return json_response(told.content, told.status, told.headers)
        return Response(content, headers={"content-type": media_type})

    return respond


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer requests with an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}; see /docs"
    failure = Failure(error.status_code, "not_found", message)
    return json_response(common(failure), error.status_code, error.headers or {})
