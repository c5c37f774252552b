"""What can go wrong, as the caller sees it.

* EdgerankError
  x InputError      the query, a document or an option is wrong
  x BundleError     the bundle on disk is missing, altered, incomplete or too new
  x ProviderError   a requested execution provider cannot run here
  x ServerError     a server did not answer a request

``quantize.QuantizeError`` belongs to the same tree: a checkpoint cannot become a bundle.
"""

from __future__ import annotations


class EdgerankError(Exception):
    """Base of every error that edgerank raises on purpose."""


class InputError(EdgerankError, ValueError):
    """A query, document or option is unusable; the message says which one and why."""


class BundleError(EdgerankError):
    """A bundle cannot be trusted or read; the message names the file."""


class ProviderError(EdgerankError):
    """An execution provider was asked for that this installation does not have."""


class ServerError(EdgerankError):
    """A server refused a request, failed at it, or was not reached.

    ``code`` is the name of the gRPC status, such as "RESOURCE_EXHAUSTED"; ``retry_after_s`` is how
    many seconds the server asks to wait before another try, None if it does not say.
    """

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_s = retry_after_s
