"""Parts of the server that need no server: statuses, errors, limits, the log, addresses."""

from __future__ import annotations

import json
import logging
import sys
from http import HTTPStatus

import grpc
import pytest

from edgerank.documents import Pair
from edgerank.errors import InputError, Remedy
from edgerank.serving import errors
from edgerank.serving.addresses import check_exposure, host_and_port, is_local
from edgerank.serving.calls import CallFailed
from edgerank.serving.errors import REASONS, UNEXPECTED, reason_of
from edgerank.serving.grpc import tei
from edgerank.serving.grpc.messages import STREAM_WORDING, WORDING
from edgerank.serving.grpc.status import status_of
from edgerank.serving.limits import Limits
from edgerank.serving.logs import JsonFormatter


def test_every_refusal_has_a_status_of_grpc_and_of_http():
    refusals = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.Refused)
    }
    assert set(REASONS) == refusals - {errors.Refused} | {InputError}
    for distinct in ("name", "grpc_status", "http_status"):
        assert len({getattr(reason, distinct) for reason in REASONS.values()}) == len(REASONS)
    for reason in (*REASONS.values(), UNEXPECTED):
        assert reason.grpc_status in grpc.StatusCode.__members__
        assert HTTPStatus(reason.http_status) >= 400


def test_nothing_is_said_of_an_unexpected_error():
    error = RuntimeError("what the client wrote")
    status = status_of(CallFailed(error, reason_of(error)), WORDING)
    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert status.trailing_metadata == ()


LONG = Remedy("long_documents", ("truncate", "split"))


@pytest.mark.parametrize(
    ("wording", "error", "message"),
    [
        (
            WORDING,
            InputError("instruction", "this family takes none"),
            "options.instruction: this family takes none",
        ),
        (
            WORDING,
            InputError("documents", "it is long", 3, LONG),
            "documents[3]: it is long, or set options.long_documents to LONG_DOCUMENTS_TRUNCATE"
            " or LONG_DOCUMENTS_SPLIT",
        ),
        (WORDING, InputError("pairs.query", "it is blank", 1), "pairs[1].query: it is blank"),
        (STREAM_WORDING, InputError("query", "it is blank"), "start.query: it is blank"),
        (
            STREAM_WORDING,
            InputError("instruction", "this family takes none"),
            "options.instruction: this family takes none",
        ),
        (
            tei.WORDING,
            InputError("documents", "it is long", 3, LONG),
            "texts[3]: it is long, or set truncate",
        ),
        (tei.WORDING, InputError("query", "it is blank"), "query: it is blank"),
    ],
)
def test_errors_are_in_the_terms_of_the_message(wording, error, message):
    status = status_of(CallFailed(error, reason_of(error)), wording)
    assert status.message == message


def test_each_text_is_held_against_the_limits_by_its_name():
    limits = Limits(max_documents=2, max_document_bytes=4, max_query_tokens=3)
    documents = [Pair("q", "ab", 0), Pair("q", "ää", 1)]
    pairs = [Pair("q", "ab", 0, "pairs.document"), Pair("r", "ab", 1, "pairs.document")]
    assert limits.check_texts(documents, "abc").total == 1 + 2 + 4 + 3
    limits.check_count("documents", 2)
    limits.check_queries(pairs, {"q": 3, "r": 3})
    for path, check in {
        "documents": lambda: limits.check_count("documents", 3),
        "documents[1]": lambda: limits.check_texts([documents[0], Pair("q", "äää", 1)], None),
        "instruction": lambda: limits.check_texts(documents, "abcde"),
        "query": lambda: limits.check_texts([Pair("abcde", "ab", 0)], None),
        "pairs[1].document": lambda: limits.check_texts(
            [pairs[0], Pair("q", "abcde", 1, "pairs.document")], None
        ),
        "pairs[1].query": lambda: limits.check_queries(pairs, {"q": 3, "r": 4}),
    }.items():
        with pytest.raises(InputError) as raised:
            check()
        assert raised.value.path == path


def test_the_log_has_an_error_s_place_and_not_its_message():
    try:
        raise RuntimeError("what the client wrote")
    except RuntimeError:
        info = sys.exc_info()
    record = logging.LogRecord("edgerank", logging.ERROR, "", 1, "failed", None, info)
    record.request_id = "abc"
    line = JsonFormatter().format(record)
    entry = json.loads(line)
    assert (entry["error"], entry["request_id"], entry["level"]) == ("RuntimeError", "abc", "error")
    assert __file__ in entry["trace"][0]
    assert "client wrote" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:0", True),
        ("127.1.2.3:80", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("unix:/run/socket", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.0.0.1:80", False),
        ("localhost.example.org:80", False),
    ],
)
def test_which_addresses_other_machines_reach(address, local):
    assert is_local(address) == local
    settings = {"has_tls": True, "has_authentication": False, "is_insecure": False}
    if local:
        check_exposure("listen", [address], **settings)
    else:
        with pytest.raises(InputError, match="other machines"):
            check_exposure("listen", [address], **settings)
    check_exposure("listen", [address], **{**settings, "has_authentication": True})
    check_exposure("listen", [address], has_tls=False, has_authentication=False, is_insecure=True)


@pytest.mark.parametrize(
    "address", ["", "unix:", "localhost", ":80", "host:port", "host:65536", "host:²"]
)
def test_what_is_no_address(address):
    with pytest.raises(InputError, match="neither"):
        is_local(address)


def test_a_host_keeps_its_brackets():
    assert host_and_port("[::1]:80") == ("[::1]", 80)
    assert host_and_port("localhost:0") == ("localhost", 0)
