"""Both clients, called in one way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from edgerank.client import AsyncClient, Client

KINDS = (Client, AsyncClient)


def call(
    kind: type[Client] | type[AsyncClient],
    address: str,
    method: str,
    *arguments: Any,
    options: dict[str, Any] | None = None,
    **keywords: Any,
) -> Any:
    """Call a method of a new client; what it yields comes back as a list.

    :param options: the client's; it tries once by default
    """
    options = {"max_attempts": 1, **(options or {})}

    async def ask() -> Any:
        async with AsyncClient(address, **options) as client:
            answer = getattr(client, method)(*arguments, **keywords)
            if hasattr(answer, "__aiter__"):
                return [item async for item in answer]
            return await answer

    if kind is AsyncClient:
        return asyncio.run(ask())
    with Client(address, **options) as client:
        answer = getattr(client, method)(*arguments, **keywords)
        return list(answer) if method == "score_stream" else answer


async def from_afar(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield items with pauses between them."""
    for item in items:
        await asyncio.sleep(0)
        yield item
