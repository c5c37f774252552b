"""Reading and streaming of documents for ``AsyncClient``."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable
from typing import Any, TypeVar

from edgerank.client.messages import CHUNK

T = TypeVar("T")


async def collect(items: Iterable[T] | AsyncIterable[T]) -> Iterable[T]:
    """Read an async iterable to its end; return anything else as it is."""
    return [item async for item in items] if isinstance(items, AsyncIterable) else items


async def chunks(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[list[T]]:
    """Yield the items in lists of the size of a message of a stream."""
    chunk: list[T] = []
    async for item in _each(items):
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def keep_status(call: Any) -> None:
    """Let a stream end with the server's status, even if a write fails first.

    A write to a call that the server has just ended fails, and ``grpc.aio`` makes that the status,
    INTERNAL or CANCELLED, if it notices the failure first (https://github.com/grpc/grpc/issues/36066).
    """
    if hasattr(call, "_cython_call"):
        call._cython_call = _PatientCall(call._cython_call)


class _PatientCall:
    """Wraps the inner call of ``grpc.aio``; a failing write waits for the server's status."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def send_serialized_message(self, message: bytes) -> None:
        await self._until_ended(self._call.send_serialized_message(message))

    async def send_receive_close(self) -> None:
        await self._until_ended(self._call.send_receive_close())

    async def _until_ended(self, write: Awaitable[None]) -> None:
        try:
            await write
        except Exception:
            await self._call.status()


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield the items of either kind of iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
