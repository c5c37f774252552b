"""What is around every call, whatever the transport."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

import pytest
from prometheus_client import generate_latest

from edgerank.errors import InputError
from edgerank.serving.authentication import BearerTokens
from edgerank.serving.calls import CALL, Call, CallFailed, Calls, request_id_of
from edgerank.serving.errors import EngineFailed, NoRoom, TooLate, UnknownCaller
from edgerank.serving.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics()


def call(deadline: float = inf) -> Call:
    return Call("/some/Method", "an-id", "10.0.0.1", deadline)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The code and client of each call in the log."""
    return [(r.code, r.client) for r in caplog.records if r.getMessage() == "call"]


def test_a_call_is_known_within_and_logged_and_counted_after(metrics, caplog):
    caplog.set_level(logging.INFO)
    with Calls(metrics, None, 10).answering(call(), None):
        assert CALL.get().request_id == "an-id"
        CALL.get().num_tokens = 7
        assert lines(caplog) == []
    assert lines(caplog) == [("OK", "10.0.0.1")]
    (record,) = caplog.records
    assert (record.request_id, record.method, record.tokens) == ("an-id", "/some/Method", 7)
    counted = generate_latest(metrics.registry).decode()
    assert 'edgerank_requests_total{code="OK",method="/some/Method"} 1.0' in counted


@pytest.mark.parametrize(
    ("error", "reason", "code", "http_status"),
    [
        (InputError("query", "it is blank"), "invalid", "INVALID_ARGUMENT", 400),
        (NoRoom("full", 1.0), "overloaded", "RESOURCE_EXHAUSTED", 429),
        (TooLate("late"), "late", "DEADLINE_EXCEEDED", 504),
        (EngineFailed("failed"), "engine", "INTERNAL", 500),
        (RuntimeError("secret words"), "internal", "INTERNAL", 500),
    ],
)
def test_what_is_raised_within_is_a_refusal_with_a_reason(
    metrics, caplog, error, reason, code, http_status
):
    caplog.set_level(logging.INFO)
    with (
        pytest.raises(CallFailed) as raised,
        Calls(metrics, None, 10).answering(call(), None),
    ):
        raise error
    failed = raised.value
    assert failed.error is error
    assert (failed.reason.name, failed.reason.grpc_status) == (reason, code)
    assert failed.reason.http_status == http_status
    assert lines(caplog) == [(code, "10.0.0.1")]
    counted = generate_latest(metrics.registry).decode()
    assert f'edgerank_rejected_total{{reason="{reason}"}} 1.0' in counted
    is_logged_as_a_fault = any(record.exc_info for record in caplog.records)
    assert is_logged_as_a_fault == isinstance(error, RuntimeError)


@pytest.mark.parametrize(("deadline", "code"), [(inf, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")])
def test_a_call_that_is_given_up_stays_given_up(metrics, caplog, deadline, code):
    caplog.set_level(logging.INFO)
    with (
        pytest.raises(asyncio.CancelledError),
        Calls(metrics, None, 10).answering(call(deadline), None),
    ):
        raise asyncio.CancelledError
    assert lines(caplog) == [(code, "10.0.0.1")]


def test_a_token_names_the_client_instead_of_its_address(metrics, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    (tmp_path / "tokens").write_text("first\nsecond\n")
    calls = Calls(metrics, BearerTokens(tmp_path / "tokens"), 10)
    clients = set()
    for token in ("first", "second", "first"):
        with calls.answering(call(), f"Bearer {token}") as known:
            clients.add(known.client)
    assert len(clients) == 2
    assert all(client.startswith("token:") for client in clients)
    assert not any("first" in str(vars(record)) for record in caplog.records)
    for wrong in (None, "", "first", "Basic first", "Bearer third", "Bearer \udcff"):
        with pytest.raises(CallFailed) as raised, calls.answering(call(), wrong):
            pytest.fail("it was let in")
        assert isinstance(raised.value.error, UnknownCaller)


def test_no_more_calls_are_let_in_than_may_be_answered_at_once(metrics):
    calls = Calls(metrics, None, 1)
    with calls.answering(call(), None):
        with pytest.raises(CallFailed) as raised, calls.answering(call(), None):
            pytest.fail("it was let in")
        assert isinstance(raised.value.error, NoRoom)
        assert raised.value.error.retry_after_s > 0
    with calls.answering(call(), None):
        pass


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 64])
def test_a_usable_request_id_is_kept(given):
    assert request_id_of(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "no spaces", "ü", "line\n"])
def test_an_unusable_request_id_is_replaced(given):
    made = {request_id_of(given) for _ in range(2)}
    assert len(made) == 2
    assert given not in made
    assert all(request_id_of(one) == one for one in made)


def test_a_call_knows_how_long_it_has_taken():
    known = call()
    time.sleep(0.01)
    assert 0.01 <= known.elapsed_s < 10
