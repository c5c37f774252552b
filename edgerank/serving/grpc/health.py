"""grpc.health.v1 for the services and for the server as a whole, the empty name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

LAME_DUCK_S = 0.2  # so that watching clients learn that the server drains before it does


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the library has no types
    """The standard service, except that watching ends when the server drains.

    A watch lasts as long as its client, so the server would wait for it until --drain has passed.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._names = ["", *services]
        self._is_draining = asyncio.Event()

    async def set_serving(self, is_serving: bool) -> None:
        """Set the status of all services."""
        status = HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    async def drain(self) -> None:
        """Set NOT_SERVING for good, and end all watches."""
        await self.enter_graceful_shutdown()
        await asyncio.sleep(LAME_DUCK_S)
        self._is_draining.set()

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:
        """Send the status of a service, and each change of it."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        draining = asyncio.ensure_future(self._is_draining.wait())
        try:
            await asyncio.wait([watch, draining], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            draining.cancel()
