"""The errors of edgerank.

* EdgerankError
  x InputError          a query, a document, an option or an input file is unusable
  x BundleError         the bundle on disk is missing, altered, incomplete or of another format
  x StoreError          the store on disk is missing, altered, in use, or of another model
  x BatchError          a batch job cannot go on: its output is in use, unwritable or another job's
  x ProviderError       this machine lacks what a variant of the bundle needs
  x ServerError         a server did not answer a request
    + Unavailable       it cannot be reached, or is not ready
    + Unauthenticated   it does not know the client
    + UnknownModel      it serves no model of that name
    + Overloaded        its queue is full
    + DeadlineExceeded  the answer would have come too late
    + RequestTooLarge   the message is larger than it accepts
    + ServerFailure     it failed while it processed the request

``quantize.QuantizeError``, a checkpoint cannot become a bundle, is an EdgerankError too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remedy:
    """An option, and the values of it with which a refused input would be accepted."""

    option: str  # name of the parameter in Python
    values: tuple[str, ...]


class EdgerankError(Exception):
    """Base class of the errors of edgerank."""


class InputError(EdgerankError, ValueError):
    """An input is unusable; it is a ValueError too.

    ``field`` is the dotted path of the argument in Python, such as "query" or "documents.text", or
    the path of a file. If the path begins with a list, ``index`` is the index in it. ``path``
    combines both. ``reason`` says what is wrong, and ``remedy``, if there is one, which option
    would help.
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
    """A bundle cannot be read or is not trusted; the message names the file."""


class StoreError(EdgerankError):
    """A store cannot be read or written, or belongs to another model; the message names it."""


class BatchError(EdgerankError):
    """A batch job cannot begin or go on; the message says what to do. Written shards stay."""


class ProviderError(EdgerankError):
    """This machine lacks an execution provider, an instruction set, a library or a GPU.

    Or the provider cannot run every operator of the graph: nothing falls back to the CPU. Or the
    library of kernels does not fit the installed ONNX Runtime.
    """


class ServerError(EdgerankError):
    """A server refused a request, failed to process it, or cannot be reached."""

    def __init__(
        self, code: str, message: str, retry_after_s: float | None = None, request_id: str = ""
    ) -> None:
        """:param code: name of the gRPC status, such as "RESOURCE_EXHAUSTED"
        :param retry_after_s: seconds to wait before another try, if the server names them
        :param request_id: id of the request in the server's log; empty if it did not arrive
        """
        super().__init__(code, message, retry_after_s, request_id)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Unavailable(ServerError):
    """The server cannot be reached, is loading its models, or is stopping."""


class Unauthenticated(ServerError):
    """The request has no token or certificate that the server accepts."""


class UnknownModel(ServerError):
    """The server has no model of that name."""


class Overloaded(ServerError):
    """The server's queue is full; ``retry_after_s`` is None if the request can never fit."""


class DeadlineExceeded(ServerError):
    """The time-out has passed, or the server could not answer within it."""


class RequestTooLarge(ServerError):
    """The message is larger than the server accepts; send the documents in parts."""


class ServerFailure(ServerError):
    """The server failed to process the request; ``request_id`` finds the reason in its log."""
