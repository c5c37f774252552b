"""Endpoints: read a body as a request, and write an answer or an error as a response."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edgerank.errors import InputError
from edgerank.serving.calls import CALL, Abandoned, Call, CallFailed, Calls, request_id_of
from edgerank.serving.errors import BodyTooLarge, TooLate
from edgerank.serving.http.errors import ErrorForm
from edgerank.serving.inference import Inference, Work

BODY_S = 60.0  # for a body to arrive
CLIENT_GONE = 499  # for the log only; nginx uses the same number
REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-request-timeout"  # seconds
PLACE = re.compile(r"^(?P<reason>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)  # of msgspec's errors
MISSING = re.compile(r"^Object missing required field `(?P<field>.*)`")

Q = TypeVar("Q", bound=msgspec.Struct | None)
T = TypeVar("T")
Respond = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Answer:
    """The body of a response, and additional headers."""

    content: object  # that msgspec can encode
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape(Generic[Q]):
    """A method of the server: its request, its answer, and its wording of errors."""

    path: str
    request: type[Q] | None  # None: it has no body
    response: Any  # type of the answer's content
    answer: Callable[[Inference, Q], Coroutine[Any, Any, Answer]]
    errors: ErrorForm

    @property
    def http_method(self) -> str:
        """GET or POST."""
        return "GET" if self.request is None else "POST"


def endpoint(shape: Shape[Any], inference: Inference, calls: Calls) -> Respond:
    """Make the Starlette endpoint of a method."""
    decoder = None if shape.request is None else msgspec.json.Decoder(shape.request)
    max_bytes = inference.limits.max_message_bytes

    async def answer(request: Request, call: Call) -> Answer:
        call.deadline = _deadline(request)
        body = None
        if decoder is not None:
            body = _decode(decoder, await _read(request, max_bytes, call))
        return await _while_wanted(request, shape.answer(inference, body), call)

    async def respond(request: Request) -> Response:
        request_id = request_id_of(request.headers.get(REQUEST_ID_HEADER))
        call = Call(shape.path, request_id, client_of(request))
        headers = {REQUEST_ID_HEADER: request_id}
        try:
            with calls.answering(call, request.headers.get("authorization")):
                given = await answer(request, call)
        except Abandoned:
            return Response(status_code=CLIENT_GONE)
        except CallFailed as failed:
            told = shape.errors.word(failed)
            return json_response(told.content, told.status, {**headers, **told.headers})
        return json_response(given.content, 200, {**headers, **given.headers})

    return respond


def json_response(content: object, status: int, headers: Mapping[str, str]) -> Response:
    """Encode a response's body."""
    return Response(msgspec.json.encode(content), status, dict(headers), "application/json")


def timing_headers(work: Work) -> dict[str, str]:
    """Return the timings of the current call in the format of server-timing."""
    stages = {
        "tokenize": work.tokenize_s,
        "queue": work.queue_s,
        "inference": work.inference_s,
        "total": CALL.get().elapsed_s,
    }
    return {"server-timing": ", ".join(f"{k};dur={v * 1e3:.3f}" for k, v in stages.items())}


def client_of(request: Request) -> str:
    """Return the client's name, equal to gRPC's, so that both transports share fairness."""
    if request.client is None or not request.client.host:
        return "unix"
    host = request.client.host
    if host.startswith("cn:"):  # from its certificate; see ``connections``
        return host
    return f"ipv6:{quote(f'[{host}]', safe=':')}" if ":" in host else f"ipv4:{host}"


async def _read(request: Request, max_bytes: int, call: Call) -> bytes:
    """Read a body, with limits of size and time.

    :raises Abandoned: the client is gone
    :raises BodyTooLarge: it has too many bytes
    :raises TooLate: it takes too long, or the deadline has passed
    """

    async def read() -> bytes:
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise BodyTooLarge(f"the body has {declared} bytes and the limit is {max_bytes}")
        parts: list[bytes] = []
        total = 0
        async for part in request.stream():
            total += len(part)
            if total > max_bytes:
                raise BodyTooLarge(f"the body has over {max_bytes} bytes, the limit")
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), min(BODY_S, _left(call)))
    except ClientDisconnect:
        raise Abandoned from None
    except asyncio.TimeoutError:
        raise TooLate("the deadline, or a minute, passed before the body was there") from None


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Read JSON.

    :raises InputError: it is none, or not of this method; the field is named
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _input_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError("body", f"it is not JSON: {error}") from None
    except RecursionError:
        raise InputError("body", "its JSON is nested too deeply") from None


def _input_error(message: str) -> InputError:
    """Find the name of the field in an error message of msgspec."""
    placed = PLACE.match(message)
    reason, path = (placed["reason"], placed["path"]) if placed else (message, "")
    missing = MISSING.match(reason)
    if missing:
        path = f"{path}.{missing['field']}".lstrip(".")
        reason = "it is missing"
    return InputError(path or "body", reason[:1].lower() + reason[1:])


def _deadline(request: Request) -> float:
    """Return the deadline of the answer, in seconds of time.monotonic().

    :raises InputError: the header is no number of seconds
    """
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return inf
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise InputError(TIMEOUT_HEADER, f"expected a number of seconds over 0, got {given!r}")
    return time.monotonic() + seconds


def _left(call: Call) -> float:
    return max(0.0, call.deadline - time.monotonic())


async def _while_wanted(request: Request, work: Coroutine[Any, Any, T], call: Call) -> T:
    """Await some work; cancel it when its deadline passes or its client disconnects.

    :raises Abandoned: the client is gone
    :raises TooLate: the deadline has passed
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # only its end is left
    left = None if call.deadline == inf else _left(call)
    try:
        await asyncio.wait({working, leaving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise Abandoned
        raise TooLate("the deadline has passed")
    finally:
        working.cancel()
        leaving.cancel()
