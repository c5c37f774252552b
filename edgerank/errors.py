"""What can go wrong, as the caller sees it.

* EdgerankError
  x InputError          the query, a document, an option or a file of the caller's is unusable
  x BundleError         the bundle on disk is missing, altered, incomplete or of another format
  x StoreError          the document store on disk is missing, altered, in use or another model's
  x BatchError          a batch job cannot go on: its output is in use, another job's, or unwritable
  x ProviderError       this machine lacks what a variant of the bundle needs
  x ServerError         a server did not answer a request
    + Unavailable       it was not reached, or is not ready
    + Unauthenticated   it does not know the caller
    + UnknownModel      it serves no model of that name
    + Overloaded        its queue is full
    + DeadlineExceeded  the answer would have come too late
    + RequestTooLarge   the message is larger than it accepts
    + ServerFailure     it failed at the request

``quantize.QuantizeError`` belongs to the same tree: a checkpoint cannot become a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remedy:
    """An option that would make a refused input acceptable, and the values of it that would."""

    option: str  # name of the parameter in Python
    values: tuple[str, ...]


class EdgerankError(Exception):
    """Base of every error that edgerank raises on purpose."""


class InputError(EdgerankError, ValueError):
    """An input is unusable: which one, and why.

    ``field`` is the dotted path of the argument in Python, such as "query" or "documents.text", or
    the path of a file. ``index`` is the place in the list that the path begins with, if it is one.
    ``remedy`` is in terms of Python here; a server words it in terms of its own requests.
    """

    def __init__(
        self, field: str, reason: str, index: int | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init__(field, reason, index, remedy)
        self.field = field
        self.reason = reason
        self.index = index
        self.remedy = remedy

    @property
    def path(self) -> str:
        """The field with its index: "documents[3].text"."""
        if self.index is None:
            return self.field
        name, dot, rest = self.field.partition(".")
        return f"{name}[{self.index}]{dot}{rest}"

    def __str__(self) -> str:
        if self.remedy is None:
            return f"{self.path}: {self.reason}"
        values = " or ".join(map(repr, self.remedy.values))
        return f"{self.path}: {self.reason}, or pass {self.remedy.option}={values}"


class BundleError(EdgerankError):
    """A bundle cannot be trusted or read; the message names the file."""


class StoreError(EdgerankError):
    """A document store cannot be read or written, or is another model's; the message names it."""


class BatchError(EdgerankError):
    """A batch job cannot begin or go on; the message says what to do. What was written stays."""


class ProviderError(EdgerankError):
    """This machine lacks an execution provider, an instruction set, a library or a GPU.

    Or its ONNX Runtime is not one that the library of kernels was made for.
    """


class ServerError(EdgerankError):
    """A server refused a request, failed at it, or was not reached."""

    def __init__(
        self, code: str, message: str, retry_after_s: float | None = None, request_id: str = ""
    ) -> None:
        """:param code: name of the gRPC status, such as "RESOURCE_EXHAUSTED"
        :param retry_after_s: seconds that the server asks to wait; None if it does not say
        :param request_id: names the request in the server's log; empty if it did not get there
        """
        super().__init__(code, message, retry_after_s, request_id)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Unavailable(ServerError):
    """The server was not reached, or is loading its models or stopping."""


class Unauthenticated(ServerError):
    """The request carries no token or certificate that the server accepts."""


class UnknownModel(ServerError):
    """The server serves no model of that name."""


class Overloaded(ServerError):
    """The server's queue is full; ``retry_after_s`` is None where trying again is no use."""


class DeadlineExceeded(ServerError):
    """The time-out passed, or the server could not have answered within it."""


class RequestTooLarge(ServerError):
    """The message is larger than the server accepts; send the documents in parts."""


class ServerFailure(ServerError):
    """The server failed at the request; its log has the reason under ``request_id``."""
