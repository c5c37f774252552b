"""Identifies clients by bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from edgerank.serving.errors import UnknownCaller
from edgerank.serving.watched import WatchedFiles


class BearerTokens:
    """Tokens from a file, one a line; blank lines and those that begin with # are skipped.

    With several tokens, clients can change from one to the next.
    """

    def __init__(self, path: Path) -> None:
        """:raises InputError: the file cannot be read or holds no token"""

        def read() -> list[bytes]:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
            tokens = [line for line in lines if line and not line.startswith("#")]
            if not tokens:
                raise ValueError("it holds no token")
            return [_digest(token) for token in tokens]

        self._digests = WatchedFiles([path], read)

    def client_of(self, authorization: str | None) -> str:
        """Return the name of the client with an authorization header.

        :raises UnknownCaller: its token is not in the file
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        digests, _ = self._digests.get()
        # compare all, so that the time reveals nothing about them
        found = [hmac.compare_digest(given, digest) for digest in digests]
        if scheme.lower() != "bearer" or not any(found):
            raise UnknownCaller("the call needs 'authorization: Bearer TOKEN' with a known token")
        return f"token:{given.hex()[:8]}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
