"""HTTP connections: the name of the client, and the limit of idle time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 15.0  # for the headers of a request, or between requests; less than twice this


class Connection(H11Protocol):
    """A connection that is closed when no request has come for a while.

    uvicorn's own time-out is reset by every byte: a client that sends one now and then could hold
    its connection for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the name of the client from its certificate, if there is one."""
        super().connection_made(transport)
        name = _common_name(transport)
        if name is not None:
            self.client = (f"cn:{name}", 0)
        self._idle_since: object = self  # the request after which the connection was idle
        self._watch()

    def _watch(self) -> None:
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._idle_since is self.cycle:
            self.transport.close()
            return
        self._idle_since = self.cycle if is_idle else self
        self.loop.call_later(IDLE_S, self._watch)


def _common_name(transport: asyncio.Transport) -> str | None:
    connection = transport.get_extra_info("ssl_object")
    certificate: dict[str, Any] = (connection and connection.getpeercert()) or {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return None
