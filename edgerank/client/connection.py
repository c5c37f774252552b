"""The connection of a client: its address, TLS, token, retries and time-out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from edgerank._proto import rerank_pb2_grpc
from edgerank.client.failures import error_of
from edgerank.documents import check_integer, check_text
from edgerank.errors import EdgerankError, InputError

TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 10_000_000  # gRPC treats a deadline very far away as one that has passed
MAX_ATTEMPTS = 4
MOST_ATTEMPTS = 5  # gRPC makes no more
RETRY_BUFFER_BYTES = 1 << 26  # a longer request is sent once; a server refuses it by default


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for TLS: the trusted authority, and a client certificate with its key."""

    ca: str | os.PathLike[str] | None = None  # authority to trust; the system's by default
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


class Connection:
    """A channel, which the first call opens, and the options of every call."""

    def __init__(
        self,
        transport: Any,
        target: str,
        *,
        tls: TlsFiles | None,
        token: str | None,
        timeout: float,
        max_attempts: int,
    ) -> None:
        """:param transport: ``grpc`` or ``grpc.aio``; the other parameters are those of ``Client``
        :raises InputError: an argument is unusable, or a file cannot be read
        """
        self._transport = transport
        self._target = checked_target(target)
        self._credentials = None if tls is None else credentials(tls)
        self._metadata = metadata(token)
        self._timeout = checked_timeout(timeout)
        self._options = channel_options(max_attempts)
        self._lock = threading.Lock()
        self._channel: Any = None
        self._stub: Any = None
        self._is_closed = False

    def method(self, name: str) -> Any:
        """Return a method of the service.

        :raises EdgerankError: the client is closed
        """
        with self._lock:
            if self._is_closed:
                raise closed_error()
            if self._channel is None:
                self._channel = self._open()
                self._stub = rerank_pb2_grpc.RerankerStub(self._channel)
            return getattr(self._stub, name)

    def call_options(self, timeout: float | None) -> dict[str, Any]:
        """Return the arguments of a gRPC call besides its request.

        :param timeout: in seconds; the client's by default
        :raises InputError: it is unusable
        """
        seconds = self._timeout if timeout is None else checked_timeout(timeout)
        return {"timeout": seconds, "metadata": self._metadata}

    def close(self) -> Any:
        """Refuse all further calls; return the channel for the caller to close, or None."""
        with self._lock:
            self._is_closed = True
            channel, self._channel, self._stub = self._channel, None, None
        return channel

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an error of gRPC in a ``with`` block into one of edgerank."""
        try:
            yield
        except grpc.RpcError as error:
            failed: Any = error
            if self._is_closed and failed.code() is grpc.StatusCode.CANCELLED:
                raise closed_error() from error
            raise error_of(failed) from error
        except ValueError as error:  # gRPC raises it if another thread has closed the channel
            if self._is_closed:
                raise closed_error() from error
            raise

    def _open(self) -> Any:
        if self._credentials is None:
            return self._transport.insecure_channel(self._target, self._options)
        return self._transport.secure_channel(self._target, self._credentials, self._options)


def closed_error() -> EdgerankError:
    """Return the error of a call on a client that is closed, or was closed meanwhile."""
    return EdgerankError("the client is closed; make another one to go on")


def checked_target(target: str) -> str:
    """Return a server's address.

    :raises InputError: it is blank or a URL
    """
    if not check_text(target, "target").strip() or target.startswith(("http://", "https://")):
        raise InputError("target", f"expected HOST:PORT or unix:PATH, got {target!r}")
    return target


def checked_timeout(timeout: float) -> float:
    """Return a time-out in seconds.

    :raises InputError: it is unusable
    """
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise InputError("timeout", f"expected a number of seconds, got {timeout!r}")
    if not 0 < timeout <= MAX_TIMEOUT_S:
        reason = f"{timeout!r} is out of range; it must be above 0 s and at most {MAX_TIMEOUT_S} s"
        raise InputError("timeout", reason)
    return timeout


def metadata(token: str | None) -> list[tuple[str, str]]:
    """Return the metadata of every call.

    :raises InputError: the token cannot be sent
    """
    if token is None:
        return []
    if not (check_text(token, "token").isascii() and token.isprintable()):
        raise InputError("token", "it must be a line of printable ASCII characters")
    return [("authorization", f"Bearer {token}")]


def credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Read the certificates.

    :raises InputError: a file cannot be read, or only one of two was given
    """
    if not isinstance(tls, TlsFiles):
        raise InputError("tls", f"expected TlsFiles(...) or None, got {tls!r}")
    if (tls.cert is None) != (tls.key is None):
        raise InputError("tls", "cert and key go together")
    try:
        ca, key, cert = (
            None if path is None else Path(path).read_bytes()
            for path in (tls.ca, tls.key, tls.cert)
        )
    except OSError as error:
        raise InputError("tls", str(error)) from error
    return grpc.ssl_channel_credentials(ca, key, cert)


def channel_options(max_attempts: int) -> list[tuple[str, Any]]:
    """Return gRPC's options: retries, load balancing, keep-alive and sizes.

    :raises InputError: the number is out of range
    """
    check_integer("max_attempts", max_attempts, 1, MOST_ATTEMPTS)
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],  # over all addresses of the name
        "methodConfig": [{"name": [{"service": "edgerank.v1.Reranker"}]}],
    }
    if max_attempts > 1:
        config["methodConfig"][0]["retryPolicy"] = {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.1s",  # a busy server sends the time to wait
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            # CANCELLED: gRPC's answer to a call that reaches a server as it begins to drain
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
        }
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_send_message_length", -1),  # the server has limits
        ("grpc.max_receive_message_length", -1),
    ]
