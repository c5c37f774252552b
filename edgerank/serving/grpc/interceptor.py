"""Around every call: who it is from, what goes wrong, and what is logged and counted of it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edgerank.errors import InputError
from edgerank.serving.calls import CALL, Call
from edgerank.serving.grpc.status import Status, is_expected, status_of
from edgerank.serving.metrics import Metrics
from edgerank.serving.security import Tokens

HEALTH = "/grpc.health."  # open to all: probes have no token
REQUEST_ID_KEY = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext, which is generic only in its stubs


class _Malformed:
    """Stands for a request that cannot be decoded."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates, answers errors with statuses, logs and counts; texts stay out of the log."""

    def __init__(self, metrics: Metrics, tokens: Tokens | None) -> None:
        """:param tokens: those of which calls must carry one; none are asked for by default"""
        self._metrics = metrics
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler; an unknown method's is None."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(HEALTH):
            return handler
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour: Any = self._streaming(handler, method)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behaviour = self._single(handler, method)
        return make(behaviour, _tolerant(handler.request_deserializer), handler.response_serializer)

    def _single(self, handler: Any, method: str) -> Any:
        behave = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def answer(request: Any, context: Context) -> Any:
            async with self._call(method, context):
                return await behave(_checked(request, handler.request_streaming), context)

        return answer

    def _streaming(self, handler: Any, method: str) -> Any:
        behave = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._call(method, context):
                async for response in behave(_checked(request, handler.request_streaming), context):
                    yield response

        return answer

    @asynccontextmanager
    async def _call(self, method: str, context: Context) -> AsyncIterator[None]:
        """Set the call up, and abort it with the status of whatever is raised."""
        metadata = {key: value for key, value in context.invocation_metadata() or ()}
        request_id = str(metadata.get(REQUEST_ID_KEY, ""))
        if not REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        remaining = context.time_remaining()
        deadline = inf if remaining is None else time.monotonic() + remaining
        call = Call(request_id, _peer(context), deadline)
        CALL.set(call)
        trailer = ((REQUEST_ID_KEY, request_id),)
        context.set_trailing_metadata(trailer)
        try:
            if self._tokens is not None:
                call.client = self._tokens.client_of(metadata.get("authorization"))
            yield
        except (asyncio.CancelledError, GeneratorExit):
            is_late = time.monotonic() >= deadline
            self._finish(method, call, "DEADLINE_EXCEEDED" if is_late else "CANCELLED")
            raise
        except Exception as error:
            status = status_of(error)
            self._metrics.count_rejected(status.reason)
            if not is_expected(error):
                log.exception("a call failed", extra={"request_id": request_id})
            self._finish(method, call, status.code.name)
            await _abort(context, status, trailer)
        else:
            self._finish(method, call, "OK")

    def _finish(self, method: str, call: Call, code: str) -> None:
        self._metrics.count_call(method, code, call.elapsed_s)
        log.info(
            "call",
            extra={
                "request_id": call.request_id,
                "method": method,
                "code": code,
                "client": call.client,
                "model": call.model,
                "documents": call.num_documents,
                "tokens": call.num_tokens,
                "ms": round(call.elapsed_s * 1e3, 3),
            },
        )


async def _abort(context: Context, status: Status, trailer: tuple[tuple[str, str], ...]) -> None:
    await context.abort(
        status.code, status.message, trailing_metadata=(*trailer, *status.trailing_metadata)
    )


def _peer(context: Context) -> str:
    """Name the client: by its certificate if there is one, or its address without the port."""
    names = context.auth_context().get("x509_common_name", ())
    if names:
        return f"cn:{names[0].decode(errors='replace')}"
    peer = str(context.peer())
    return peer.rpartition(":")[0] if peer.startswith("ipv") else "unix"


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Let a request that cannot be decoded reach the handler, where it has a status of its own."""

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed

    return decode


def _checked(request: Any, is_stream: bool) -> Any:
    return _checked_stream(request) if is_stream else _refuse_malformed(request)


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _refuse_malformed(request)


def _refuse_malformed(request: Any) -> Any:
    if request is _Malformed:
        raise InputError("request", "it is not a message of this method, or its text is not UTF-8")
    return request
