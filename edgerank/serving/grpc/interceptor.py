"""Passes every gRPC call through ``serving.calls``, and sets its status."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edgerank.errors import InputError
from edgerank.serving.calls import Call, CallFailed, Calls, request_id_of
from edgerank.serving.grpc.messages import WORDING
from edgerank.serving.grpc.status import status_of
from edgerank.wording import Wording

HEALTH = "/grpc.health."  # open to all: probes have no token
REQUEST_ID_KEY = "x-request-id"

Context = Any  # grpc.aio.ServicerContext, which is generic only in its stubs


class _Malformed:
    """Replaces a request that cannot be decoded."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Passes every call through ``Calls``, and aborts those that fail with a status."""

    def __init__(self, calls: Calls, wordings: Mapping[str, Wording]) -> None:
        """:param wordings: of input errors, by method; ``messages.WORDING`` for others"""
        self._calls = calls
        self._wordings = wordings

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
            async with self._answering(method, context):
                return await behave(_checked(request, handler.request_streaming), context)

        return answer

    def _streaming(self, handler: Any, method: str) -> Any:
        behave = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._answering(method, context):
                async for response in behave(_checked(request, handler.request_streaming), context):
                    yield response

        return answer

    @asynccontextmanager
    async def _answering(self, method: str, context: Context) -> AsyncIterator[None]:
        metadata = {key: value for key, value in context.invocation_metadata() or ()}
        remaining = context.time_remaining()
        call = Call(
            method,
            request_id_of(metadata.get(REQUEST_ID_KEY)),
            _peer(context),
            inf if remaining is None else time.monotonic() + remaining,
        )
        trailer = ((REQUEST_ID_KEY, call.request_id),)
        context.set_trailing_metadata(trailer)
        try:
            with self._calls.answering(call, metadata.get("authorization")):
                yield
        except CallFailed as failed:
            status = status_of(failed, self._wordings.get(method, WORDING))
            await context.abort(
                status.code,
                status.message,
                trailing_metadata=(*trailer, *status.trailing_metadata),
            )


def _peer(context: Context) -> str:
    """Return the client's name: from its certificate, or its address without the port."""
    names = context.auth_context().get("x509_common_name", ())
    if names:
        return f"cn:{names[0].decode(errors='replace')}"
    peer = str(context.peer())
    return peer.rpartition(":")[0] if peer.startswith("ipv") else "unix"


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Pass a request that cannot be decoded to the handler, which sets its status."""

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
