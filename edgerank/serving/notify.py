"""Notifies systemd of the server's state, for services with ``Type=notify``."""

from __future__ import annotations

import os
import socket


def tell_systemd(state: str) -> None:
    """Send a state, such as READY=1, to the socket that systemd names; there may be none."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # @ means a name in Linux's abstract namespace
            sender.sendto(state.encode(), path.replace("@", "\0", 1) if path[0] == "@" else path)
