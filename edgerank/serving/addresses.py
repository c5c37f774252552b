"""Addresses to listen on, and whether other machines can reach them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from edgerank.errors import InputError

UNIX = "unix:"
SOCKET_MODE = 0o660  # owner and group
MAX_PORT = 65535


def check_exposure(
    setting: str,
    addresses: Sequence[str],
    *,
    has_tls: bool,
    has_authentication: bool,
    is_insecure: bool,
) -> None:
    """Refuse addresses that other machines can reach without TLS or authentication.

    :param setting: name of the setting with the addresses
    :param has_authentication: clients need a token or a certificate
    :raises InputError: an address is malformed, or exposed without --insecure
    """
    for address in addresses:
        if is_local(address, setting) or is_insecure or (has_tls and has_authentication):
            continue
        raise InputError(
            setting,
            f"{address} can be reached from other machines: give --tls-cert and --tls-key,"
            " and --tokens or --tls-client-ca, or say --insecure",
        )


def is_local(address: str, setting: str = "listen") -> bool:
    """Whether an address can be reached from this machine only.

    :param setting: name of the setting with the address
    :raises InputError: it is neither HOST:PORT nor unix:PATH
    """
    if is_socket(address):
        return True
    try:
        host, _ = host_and_port(address)
    except ValueError:
        raise InputError(setting, f"{address!r} is neither HOST:PORT nor unix:PATH") from None
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_socket(address: str) -> bool:
    """Whether an address is unix:PATH."""
    return address.startswith(UNIX) and len(address) > len(UNIX)


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host keeps its brackets.

    :raises ValueError: it is no such address
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > MAX_PORT:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)
