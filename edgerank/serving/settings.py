"""The one table of the server's settings: flags, environment variables and keys of a file.

``python -m edgerank.serving.settings`` prints it as the table of docs/serving.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.manifest import MIN_LENGTH
from edgerank.packing import COMPILED_BATCH_TOKENS, MIN_BATCH_TOKENS, STOCK_BATCH_TOKENS

T_co = TypeVar("T_co", covariant=True)
Kind = Literal["text", "integer", "number", "file", "switch"]
VALUES = {"text": "", "integer": "N", "number": "SECONDS", "file": "FILE", "switch": ""}
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class SettingSpec(Generic[T_co]):
    """A setting; one that may be given several times is a tuple."""

    name: str  # of the flag without its dashes, and of the key in a file
    kind: Kind
    default: T_co
    help: str  # one or two sentences
    least: int | None = None  # of a number
    choices: tuple[str, ...] = ()  # of a text
    value: str = ""  # what help calls the value, where its kind does not tell
    default_words: str | None = None  # for people, where the default itself does not tell

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return f"--{self.name}"

    @property
    def metavar(self) -> str:
        """What help calls the value; empty for switches."""
        return self.value or VALUES[self.kind]

    @property
    def negative_flag(self) -> str:
        """The flag that turns a switch off."""
        return f"--no-{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"EDGERANK_{self.name.upper().replace('-', '_')}"

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be given several times; a variable separates values by white space."""
        return isinstance(self.default, tuple)

    @property
    def shown_default(self) -> str:
        """The default, for people; empty if there is none."""
        if self.default_words is not None:
            return self.default_words
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return " ".join(self.default)
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return "" if self.default is None else f"{self.default}"


MODEL = SettingSpec[tuple[str, ...]](
    "model",
    "text",
    (f"default={DEFAULT_BUNDLE}",),
    "Serve the model in this bundle, under its directory's name unless NAME is given. Give the"
    " option once for each model. The first answers requests that name no model.",
    value="[NAME=]BUNDLE",
    default_words="the model in the package",
)
STORE = SettingSpec[tuple[str, ...]](
    "store",
    "text",
    (),
    "Serve this store of documents, under its directory's name unless NAME is given. Requests can"
    " then name documents by their ids. The store's model must also be served. May be given several"
    " times.",
    value="[NAME=]STORE",
)
CONFIG = SettingSpec[Path | None](
    "config",
    "file",
    None,
    "Read the other settings from this TOML file. Its keys are the names of the flags without the"
    " dashes. Flags and environment variables take precedence.",
)
LISTEN = SettingSpec[tuple[str, ...]](
    "listen",
    "text",
    ("127.0.0.1:50051",),
    "Listen for gRPC at this address: HOST:PORT or unix:PATH. May be given several times.",
    value="ADDRESS",
)
HTTP = SettingSpec[tuple[str, ...]](
    "http",
    "text",
    (),
    "Listen for HTTP at this address: HOST:PORT or unix:PATH (needs edgerank[http]). May be given"
    " several times.",
    value="ADDRESS",
)
GRPC = SettingSpec[bool](
    "grpc",
    "switch",
    True,
    "Serve gRPC. With --no-grpc, --http is required and --listen has no effect.",
)
TLS_CERT = SettingSpec[Path | None](
    "tls-cert",
    "file",
    None,
    "Use TLS with this certificate chain (PEM). The file is read again when it changes.",
)
TLS_KEY = SettingSpec[Path | None](
    "tls-key",
    "file",
    None,
    "Use this private key (PEM) for the certificate. The file is read again when it changes.",
)
TLS_CLIENT_CA = SettingSpec[Path | None](
    "tls-client-ca",
    "file",
    None,
    "Accept only clients with a certificate that this authority (PEM) has signed.",
)
TOKENS = SettingSpec[Path | None](
    "tokens",
    "file",
    None,
    "Accept only calls with a bearer token that is a line of this file. The file is read again when"
    " it changes.",
)
INSECURE = SettingSpec[bool](
    "insecure",
    "switch",
    False,
    "Allow addresses without TLS and authentication, even if other machines can reach them.",
)
METRICS = SettingSpec[str | None](
    "metrics",
    "text",
    None,
    "Serve metrics for Prometheus at this address, without TLS and without tokens.",
    value="HOST:PORT",
)
OTLP_ENDPOINT = SettingSpec[str | None](
    "otlp-endpoint",
    "text",
    None,
    "Send OpenTelemetry spans to this collector (OTLP over gRPC; needs edgerank[tracing]). The"
    " OTEL_ environment variables set everything else.",
    value="URL",
)
TRUST = SettingSpec[Path | None](
    "trust",
    "file",
    None,
    "Serve only bundles that this public key has signed, and check every file of theirs first"
    " (needs edgerank[sign]).",
)
THREADS = SettingSpec[int | None](
    "threads",
    "integer",
    None,
    "Compute with this many threads. All models share them.",
    least=1,
    default_words="the physical cores, or OMP_NUM_THREADS if that is fewer",
)
PROVIDERS = SettingSpec[tuple[str, ...]](
    "providers",
    "text",
    (),
    "Choose the variant of a bundle by this execution provider of ONNX Runtime: cpu, cuda, tensorrt"
    " or its full name. May be given several times, the preferred one first.",
    value="PROVIDER",
    default_words="the bundle's order",
)
DEVICES = SettingSpec[str | None](
    "devices",
    "text",
    None,
    "Compute on the GPUs with these numbers. Each GPU computes its own micro-batches.",
    value="N,N",
    default_words="all GPUs",
)
KERNELS = SettingSpec[str | None](
    "kernels",
    "text",
    None,
    "Compute with compiled kernels where there are any (auto), with ONNX Runtime's operators"
    " (stock), or with the kernels of an instruction set that `edgerank doctor` lists.",
    value="KERNELS",
    default_words="auto",
)
MAX_LENGTH = SettingSpec[int | None](
    "max-length",
    "integer",
    None,
    "Read at most this many tokens of a query and a document together.",
    least=MIN_LENGTH,
    default_words="the bundle's",
)
MAX_BATCH_TOKENS = SettingSpec[int | None](
    "max-batch-tokens",
    "integer",
    None,
    "Compute at most this many tokens in one micro-batch. A larger number takes more memory, and"
    " lets short requests wait longer beside long ones.",
    least=MIN_BATCH_TOKENS,
    default_words=f"{COMPILED_BATCH_TOKENS} with compiled kernels, {STOCK_BATCH_TOKENS} without; by"
    " its memory on a GPU",
)
MAX_DOCUMENTS = SettingSpec[int](
    "max-documents",
    "integer",
    4096,
    "Refuse a request with more documents or pairs than this.",
    least=1,
)
MAX_DOCUMENT_BYTES = SettingSpec[int](
    "max-document-bytes",
    "integer",
    1 << 18,
    "Refuse a document, query or instruction with more bytes of UTF-8 than this.",
    least=1,
)
MAX_QUERY_TOKENS = SettingSpec[int](
    "max-query-tokens",
    "integer",
    1024,
    "Refuse a query with more tokens than this. Its instruction counts too.",
    least=1,
)
MAX_MESSAGE_BYTES = SettingSpec[int](
    "max-message-bytes",
    "integer",
    1 << 26,
    "Refuse a message with more bytes than this.",
    least=1024,
)
MAX_CALLS = SettingSpec[int](
    "max-calls",
    "integer",
    1024,
    "Answer at most this many calls at once, and refuse others. This number times"
    " --max-message-bytes bounds the memory that clients can fill.",
    least=1,
)
MAX_QUEUE_TOKENS = SettingSpec[int](
    "max-queue-tokens",
    "integer",
    1 << 19,
    "Refuse requests while this many tokens wait or are being computed. Set it to the number of"
    " tokens that the models compute in the longest acceptable waiting time.",
    least=1,
)
DRAIN = SettingSpec[float](
    "drain",
    "number",
    30.0,
    "After SIGTERM, wait at most this many seconds for the calls in progress to end.",
    least=0,
)
WARMUP = SettingSpec[bool](
    "warmup",
    "switch",
    True,
    "Score once with each model before the server reports that it is ready.",
)
LOG_LEVEL = SettingSpec[LogLevel](
    "log-level",
    "text",
    "info",
    "Log messages from this level on: debug, info, warning or error. Each call is logged at info.",
    choices=("debug", "info", "warning", "error"),
    value="LEVEL",
)

SETTINGS: tuple[SettingSpec[object], ...] = (  # in the order of the help and of the documentation
    MODEL,
    STORE,
    CONFIG,
    LISTEN,
    HTTP,
    GRPC,
    TLS_CERT,
    TLS_KEY,
    TLS_CLIENT_CA,
    TOKENS,
    INSECURE,
    METRICS,
    OTLP_ENDPOINT,
    TRUST,
    THREADS,
    PROVIDERS,
    DEVICES,
    KERNELS,
    MAX_LENGTH,
    MAX_BATCH_TOKENS,
    MAX_DOCUMENTS,
    MAX_DOCUMENT_BYTES,
    MAX_QUERY_TOKENS,
    MAX_MESSAGE_BYTES,
    MAX_CALLS,
    MAX_QUEUE_TOKENS,
    DRAIN,
    WARMUP,
    LOG_LEVEL,
)


def markdown_table() -> str:
    """Return the settings as a table in Markdown."""
    lines = ["| flag | default | |", "|---|---|---|"]
    for setting in SETTINGS:
        flags = [f"{setting.flag} {setting.metavar}".rstrip()]
        if setting.default is True:
            flags.append(setting.negative_flag)
        flag = ", ".join(f"`{each}`" for each in flags)
        default = setting.shown_default
        if default and setting.default_words is None and setting.kind == "text":
            default = f"`{default}`"
        lines.append(f"| {flag} | {default} | {setting.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")  # noqa: T201
