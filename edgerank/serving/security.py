"""Who may reach the server: addresses, certificates, tokens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from edgerank.errors import InputError
from edgerank.serving.errors import Unauthenticated

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]

log = logging.getLogger(__name__)


class _Watched(Generic[T]):
    """What some files say, read anew when they change; while they are bad, what they said last."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """:raises InputError: the files cannot be used"""
        self._paths = paths
        self._read = read
        try:
            self._stamp = self._stamps()
            self._value = read()
        except (OSError, ValueError) as error:
            raise InputError(str(paths[0]), f"{error}") from error

    def get(self) -> tuple[T, bool]:
        """Return what the files say, and whether that is new."""
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return self._value, False
            value = self._read()
        except (OSError, ValueError):
            log.exception("kept what was read before", extra={"file": str(self._paths[0])})
            return self._value, False
        self._stamp, is_new = stamp, value != self._value
        self._value = value
        return value, is_new

    def _stamps(self) -> Stamp:
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


class Tokens:
    """Bearer tokens from a file, one a line; blank lines and those that begin with # are skipped.

    Several let clients move from one to the next.
    """

    def __init__(self, path: Path) -> None:
        """:raises InputError: the file cannot be read or holds no token"""

        def read() -> list[bytes]:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
            tokens = [line for line in lines if line and not line.startswith("#")]
            if not tokens:
                raise ValueError("it holds no token")
            return [_digest(token) for token in tokens]

        self._digests = _Watched([path], read)

    def client_of(self, authorization: str | bytes | None) -> str:
        """Name the client that an authorization header stands for.

        :raises Unauthenticated: its token is not in the file
        """
        scheme, _, token = str(authorization or "").partition(" ")
        given = _digest(token.strip())
        digests, _ = self._digests.get()
        # all are compared, so that the time taken says nothing about them
        found = [hmac.compare_digest(given, digest) for digest in digests]
        if scheme.lower() != "bearer" or not any(found):
            raise Unauthenticated("the call needs 'authorization: Bearer TOKEN' with a known token")
        return f"token:{given.hex()[:8]}"


@dataclass(frozen=True)
class Tls:
    """Where the certificates are, as PEM files."""

    cert: Path
    key: Path
    client_ca: Path | None = None  # asks clients for certificates that it signed

    def credentials(self) -> grpc.ServerCredentials:
        """Make credentials that read the files anew when they change.

        :raises InputError: a file cannot be read
        """
        paths = [path for path in (self.cert, self.key, self.client_ca) if path is not None]

        def read() -> tuple[bytes, ...]:
            return tuple(path.read_bytes() for path in paths)

        watched = _Watched(paths, read)

        def configuration(files: tuple[bytes, ...]) -> grpc.ServerCertificateConfiguration:
            root = files[2] if self.client_ca is not None else None
            return grpc.ssl_server_certificate_configuration([(files[1], files[0])], root)

        def fetch() -> Any:  # None: as before, which the type stubs do not know
            files, is_new = watched.get()
            return configuration(files) if is_new else None

        return grpc.dynamic_ssl_server_credentials(
            configuration(watched.get()[0]), fetch, self.client_ca is not None
        )


def check_exposure(
    addresses: Sequence[str], *, has_tls: bool, has_auth: bool, is_insecure: bool
) -> None:
    """Refuse to be reached from other machines in the clear or by anyone.

    :param has_auth: clients need a token or a certificate
    :raises InputError: an address is not one, or is exposed and not said to be
    """
    for address in addresses:
        if is_local(address) or is_insecure or (has_tls and has_auth):
            continue
        raise InputError(
            "listen",
            f"{address} can be reached from other machines: give --tls-cert and --tls-key,"
            " and --tokens or --tls-client-ca, or say --insecure",
        )


def is_local(address: str) -> bool:
    """Whether an address can be reached from this machine only.

    :raises InputError: it is neither HOST:PORT nor unix:PATH
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return True
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError("listen", f"{address!r} is neither HOST:PORT nor unix:PATH")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
