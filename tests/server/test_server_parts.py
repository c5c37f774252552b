"""Parts of the server that need no server: statuses, the log, addresses, documented settings."""

from __future__ import annotations

import json
import logging
import re
import sys

import grpc
import pytest

from edgerank.cli.serve import serve
from edgerank.errors import InputError
from edgerank.serving import errors
from edgerank.serving.grpc.status import REASONS, status_of
from edgerank.serving.inference import Limits
from edgerank.serving.logs import JsonFormatter
from edgerank.serving.security import check_exposure, is_local
from tests.support import ROOT


def test_every_refusal_has_a_status_of_its_own():
    refusals = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.Refused)
    }
    assert set(REASONS) == refusals - {errors.Refused} | {InputError}
    codes = [code for code, _ in REASONS.values()]
    assert len(set(codes)) == len(codes)


def test_nothing_is_said_of_an_unexpected_error():
    status = status_of(RuntimeError("what the client wrote"))
    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert status.trailing_metadata == ()


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
    settings = {"has_tls": True, "has_auth": False, "is_insecure": False}
    if local:
        check_exposure([address], **settings)
    else:
        with pytest.raises(InputError, match="other machines"):
            check_exposure([address], **settings)
    check_exposure([address], **{**settings, "has_auth": True})
    check_exposure([address], has_tls=False, has_auth=False, is_insecure=True)


@pytest.mark.parametrize("address", ["", "unix:", "localhost", ":80", "host:port", "host:65536"])
def test_what_is_no_address(address):
    with pytest.raises(InputError, match="neither"):
        is_local(address)


def test_the_docs_have_every_setting_and_its_default():
    text = (ROOT / "docs/serving.md").read_text()
    rows = dict(re.findall(r"^\| (`--.*?) \| `?(.*?)`? \|", text, re.MULTILINE))
    documented = {
        flag: default for cell, default in rows.items() for flag in re.findall(r"--[\w-]+", cell)
    }
    for option in serve.params:
        for flag in [*option.opts, *option.secondary_opts]:
            if flag == "-m":
                continue
            assert flag in documented
            if isinstance(option.default, int | float) and not isinstance(option.default, bool):
                assert documented[flag] == f"{option.default:g}" or (
                    documented[flag] == str(option.default)
                )


def test_the_limits_in_the_proto_s_comments_are_the_defaults():
    text = (ROOT / "proto/edgerank/v1/rerank.proto").read_text()
    limits = Limits()
    assert f"at most {limits.max_query_tokens} tokens" in text
    assert f"At most {limits.max_documents}" in text
    assert f"{limits.max_document_bytes >> 10} KiB of UTF-8" in text
    assert f"over {limits.max_message_bytes >> 20} MiB" in text
    defaults = {option.name: option.default for option in serve.params}
    for name, value in vars(limits).items():
        assert defaults[name] == value
