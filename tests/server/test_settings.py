"""Settings from the command line, the environment and a file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgerank.serving.app
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli.serve import serve
from edgerank.client import Client
from edgerank.errors import InputError, ProviderError
from edgerank.serving.app import ServerSettings
from edgerank.serving.limits import Limits
from edgerank.serving.models import ModelSettings, open_model
from edgerank.serving.settings import MAX_MESSAGE_BYTES, SETTINGS, markdown_table
from tests.support import ROOT
from tests.support.cli import fail
from tests.support.serving import ServerProcess

FILE = """
model = ["large=models/mxbai-large", "models/minilm"]
listen = "unix:socket"
http = ["127.0.0.1:8080", "unix:http"]
grpc = true
max-queue-tokens = 1000
max-calls = 7
drain = 1.5
warmup = false
insecure = true
log-level = "error"
"""


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """What a server is told, by the text of a file, flags and the environment."""
    told: list[ServerSettings] = []
    monkeypatch.setattr(
        edgerank.serving.app, "serve", lambda settings, transports: told.append(settings)
    )

    def read(text: str, *flags: str, **environment: str) -> ServerSettings:
        path = tmp_path / "edgerank.toml"
        path.write_text(text)
        CliRunner().invoke(
            serve, ["--config", str(path), *flags], env=environment, catch_exceptions=False
        )
        return told[-1]

    return read


def test_a_file_sets_what_nothing_else_does(settings):
    told = settings(FILE, "--max-calls", "9", EDGERANK_MAX_QUEUE_TOKENS="2000")
    assert told.models == {"large": Path("models/mxbai-large"), "minilm": Path("models/minilm")}
    assert list(told.listen) == ["unix:socket"]
    assert told.max_queue_tokens == 2000  # the environment's
    assert told.limits.max_calls == 9  # the command line's
    assert told.http == ("127.0.0.1:8080", "unix:http")
    assert told.drain_s == 1.5
    assert not told.model_settings.warmup
    assert told.is_insecure
    assert told.log_level == "error"
    assert told.limits.max_documents == 4096  # the default


def test_every_flag_can_be_set_by_a_file(settings, tmp_path):
    values = {
        "store": ["books=a/store"],
        "trust": "key.pub",
        "tls-cert": "a.crt",
        "tls-key": "a.key",
        "tls-client-ca": "ca.crt",
        "tokens": "tokens",
        "metrics": "127.0.0.1:9090",
        "otlp-endpoint": "http://127.0.0.1:4317",
        "threads": 3,
        "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "devices": "1,0",
        "kernels": "stock",
        "max-batch-tokens": 1024,
        "max-length": 99,
        "max-documents": 98,
        "max-document-bytes": 97,
        "max-query-tokens": 96,
        "max-message-bytes": 2048,
    }
    text = FILE + "\n".join(f"{key} = {value!r}" for key, value in values.items())
    flags = {flag for option in serve.params for flag in option.opts if flag.startswith("--")}
    assert flags - {"--config"} == {
        f"--{line.split(' = ')[0]}" for line in text.split("\n") if line
    }
    told = settings(text)
    assert told.tls is not None
    assert (str(told.tls.cert), str(told.tls.key)) == ("a.crt", "a.key")
    assert told.metrics == ("127.0.0.1", 9090)
    assert told.otlp_endpoint == values["otlp-endpoint"]
    assert told.limits.max_query_tokens == 96
    assert told.model_settings == ModelSettings(
        threads=3,
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        devices="1,0",
        kernels="stock",
        max_length=99,
        max_batch_tokens=1024,
        warmup=False,
        trust=Path("key.pub"),
    )


def test_every_setting_has_its_environment_variable_and_a_sentence_of_help(settings):
    told = settings(
        "",
        EDGERANK_PROVIDERS="CUDAExecutionProvider CPUExecutionProvider",
        EDGERANK_LISTEN="127.0.0.1:0 unix:socket",
        EDGERANK_MAX_BATCH_TOKENS="64",
        EDGERANK_KERNELS="stock",
        EDGERANK_WARMUP="0",
    )
    assert told.model_settings.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert told.model_settings.kernels == "stock"
    assert told.model_settings.max_batch_tokens == 64
    assert not told.model_settings.warmup
    assert told.listen == ("127.0.0.1:0", "unix:socket")
    shown = " ".join(CliRunner().invoke(serve, ["--help"], terminal_width=400).output.split())
    for setting in SETTINGS:
        assert setting.help in shown
        assert re.fullmatch(r"[A-Z].*\.", setting.help)


def test_what_is_not_set_is_as_the_table_says(settings):
    told = settings("")
    assert told == ServerSettings({"default": DEFAULT_BUNDLE})
    assert told.limits == Limits()
    assert told.limits.max_message_bytes == MAX_MESSAGE_BYTES.default == 64 << 20


def test_the_documentation_has_the_table_as_it_is():
    documented = (ROOT / "docs/serving.md").read_text()
    assert markdown_table() in documented, (
        "put in what `python -m edgerank.serving.settings` prints"
    )


def test_the_limits_in_the_proto_s_comments_are_the_defaults():
    text = (ROOT / "proto/edgerank/v1/rerank.proto").read_text()
    limits = Limits()
    assert set(re.findall(r"at most (\d+) tokens", text)) == {f"{limits.max_query_tokens}"}
    assert set(re.findall(r"At most (\d+)[,.]", text)) == {f"{limits.max_documents}"}
    assert set(re.findall(r"(\d+) KiB of UTF-8", text)) == {f"{limits.max_document_bytes >> 10}"}
    assert set(re.findall(r"over (\d+) MiB", text)) == {f"{limits.max_message_bytes >> 20}"}


def test_models_are_opened_with_the_variant_kernels_and_batches_asked_for(bundles):
    asked = ModelSettings(
        providers=("CPUExecutionProvider",), kernels="stock", max_batch_tokens=64, warmup=False
    )
    model = open_model("small", bundles / "cross-encoder.int8", asked)
    assert model.reranker.max_batch_tokens == 64
    assert "providers asked for" in model.reranker.variant.reason
    assert str(model.reranker.kernels) == "stock: asked for"
    with pytest.raises(ProviderError, match="NoSuchProvider"):
        open_model(
            "small", bundles / "cross-encoder.int8", replace(asked, providers=("NoSuchProvider",))
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-calls = 'many'", "max-calls: 'many' is not a valid integer"),
        ("max-calls = true", "max-calls: 'True' is not a valid integer"),
        ("max-calls = 0", "max-calls: 0 is not in the range"),
        ("max-calls = [1, 2]", "max-calls: it takes one value"),
        ("warmup = 'perhaps'", "warmup: 'perhaps' is not a valid boolean"),
        ("[limits]\nmax-calls = 1", "limits is no setting"),
        ("max_calls = 1", "max_calls is no setting; there are: model, store"),
        ("model = [['a']]", "model: it must be a plain value"),
        ("config = 'b.toml'", "config is no setting"),
        ("max-calls 1", "cannot be read as TOML"),
        ("max-calls = 1\xff", "cannot be read as TOML"),
    ],
)
def test_an_unusable_file_is_refused_by_its_name_and_the_setting_s(
    settings, tmp_path, text, message
):
    with pytest.raises(InputError) as raised:
        settings(text, "--model", "a")
    assert str(raised.value).startswith(str(tmp_path / "edgerank.toml"))
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_one_line_and_status_2():
    assert fail("serve", EDGERANK_CONFIG="absent.toml").startswith("absent.toml: ")


def test_gpus_that_are_no_numbers_are_refused_before_anything_is_opened():
    message = fail("serve", "--devices", "0;1", "--listen", "127.0.0.1:0")
    assert message.startswith("devices: expected numbers of GPUs such as 0,1, got '0;1'")


def test_a_server_that_a_file_sets_up(bundles, tmp_path):
    path = tmp_path / "edgerank.toml"
    bundle = bundles / "cross-encoder.int8"
    path.write_text(f"model = 'small={bundle}'\nmax-documents = 2\n")
    with ServerProcess("--config", path) as server, Client(server.address) as client:
        assert [model.name for model in client.models()] == ["small"]
        with pytest.raises(InputError, match="the limit is 2"):
            client.score("a query", ["a", "b", "c"])
