"""README.md and the pages of docs/: their Python runs, and what they refer to is there."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import msgspec
import pytest

from benchmarks import catalogue
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli import cli
from edgerank.serving.settings import SETTINGS
from quantize.training.__main__ import cli as training
from tests.support import ROOT
from tests.support.serving import ServerProcess

FRONT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md"]
PAGES = [*(ROOT / name for name in FRONT), *sorted((ROOT / "docs").glob("*.md"))]
CARD = DEFAULT_BUNDLE / "MODEL_CARD.md"
RENDERED = ROOT / "docs/benchmarks.md"  # from records, which may be of earlier commands
INTEGRATIONS = ROOT / "docs/integrations.md"  # tests/clients runs it, where the frameworks are
RAY = ROOT / "docs/ray.md"  # and tests/ray this one
SERVER = "localhost:50051"  # a server of the test's own takes its place
NAMES = {
    "query": "who wrote dune?",
    "documents": ["Paris is the capital of France.", "Dune was written by Frank Herbert."],
    "pairs": [("who wrote dune?", "Frank Herbert"), ("capital of France?", "Paris")],
}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_EXECUTED = re.compile(r"<!-- not executed: \S.* -->\s*\Z")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
PLACE = re.compile(
    r"(?:edgerank|quantize|benchmarks|tests|docs|proto|requirements|examples)/[\w./-]*"
)
MODULE = re.compile(r"(?:benchmarks|quantize)(?:\.[a-z_]+)+")
BENCHMARKS = [name for _, name in catalogue.names()]
GROUPS: dict[str, click.Group] = {"edgerank": cli, "quantize.training": training}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", [*PAGES, CARD], ids=name_of)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    source: str
    line: int  # of the page, its first
    is_executed: bool


def blocks_of(text: str) -> list[Block]:
    return [
        Block(
            match[1],
            match[2],
            text.count("\n", 0, match.start(2)) + 1,
            NOT_EXECUTED.search(text[: match.start()]) is None,
        )
        for match in FENCED.finditer(text)
    ]


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page.read_text()) if block.language == "python"]


@pytest.fixture
def workplace(tmp_path, monkeypatch, request):
    """A directory with the files that the pages' Python reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("mxbai-large", "minilm"):
        (tmp_path / "models" / name).symlink_to(DEFAULT_BUNDLE)
    checkpoint = tmp_path / "path/to/mxbai-rerank-large-v2"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(request.getfixturevalue("qwen2"))
    write_collection(tmp_path / "collections/scifact")
    return tmp_path


def write_collection(directory: Path) -> None:
    (directory / "qrels").mkdir(parents=True)
    documents = [{"_id": str(i), "text": text} for i, text in enumerate(NAMES["documents"])]
    (directory / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (directory / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": NAMES["query"]}))
    (directory / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")


EXECUTED = [page for page in PAGES if python_of(page) and page not in (INTEGRATIONS, RAY)]


@pytest.mark.parametrize("page", EXECUTED, ids=name_of)
def test_the_python_of_a_page_runs(page, workplace):
    names = dict(NAMES)
    with ExitStack() as stack:
        text = page.read_text()
        if any(SERVER in block.source for block in python_of(page)):
            server = ServerProcess("--model", DEFAULT_BUNDLE, "--model", f"small={DEFAULT_BUNDLE}")
            text = text.replace(SERVER, stack.enter_context(server).address)
        for block in blocks_of(text):
            if block.language == "python" and block.is_executed:
                source = "\n" * (block.line - 1) + block.source  # for the lines of a traceback
                exec(compile(source, str(page), "exec"), names)


def test_all_but_two_blocks_of_python_are_executed():
    blocks = [block for page in PAGES for block in python_of(page)]
    assert len(blocks) > 10
    assert sum(not block.is_executed for block in blocks) <= 2


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def code_of(page: Path) -> Iterator[str]:
    """Yield a page's lines of shell and its spans of code; "…" is in messages only."""
    prose: list[str] = []
    for line in FENCED.sub("", page.read_text()).replace("\\\n", " ").split("\n"):
        if line.startswith("    "):
            yield line.strip()
        else:
            prose.append(line)
    yield from (span for span in SPAN.findall(" ".join(prose)) if "…" not in span)


def words_of(code: str) -> list[str]:
    try:
        return shlex.split(code, comments=True)
    except ValueError:  # an apostrophe
        return code.split()


def unknown_in(code: str, targets: set[str]) -> Iterator[str]:
    """Yield what a line or a span of code names and is not there."""
    words = words_of(code)
    for before, after in pairwise([*words, ""]):
        if before == "make" and words[0] == "make" and after and after not in targets:
            yield after
        if before == "-m" and words[0].endswith("python") and not is_module(after):
            yield after
        if before == "benchmarks" and "-m" in words and after not in ("", "NAME", *BENCHMARKS):
            yield after
        if before in GROUPS and after and not after.startswith("-"):
            yield from unknown_in_command(GROUPS[before], words[words.index(before) + 1 :])
    if code.startswith("-"):
        known = {flag for g in GROUPS.values() for c in commands_of(g) for flag in flags_of(c)}
        yield from (word for word in words if word.startswith("-") and flag_of(word) not in known)
    if PLACE.fullmatch(code) and "NAME" not in code and not (ROOT / code).exists():
        yield code
    if words and MODULE.fullmatch(words[0]) and not is_module(words[0]):
        yield words[0]


def unknown_in_command(group: click.Group, words: list[str]) -> Iterator[str]:
    command = group.commands.get(words[0])
    if command is None:
        yield words[0]
        return
    if isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
        yield from unknown_in_command(command, words[1:])
        return
    for word in words[1:]:
        if word in ("|", "<", ">"):
            return
        if word.startswith("-") and flag_of(word) not in flags_of(command):
            yield f"{words[0]} {word}"


def commands_of(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands_of(command)


def flags_of(command: click.Command) -> set[str]:
    """The flags of a command, -h and --help among them."""
    flags = [flag for option in command.params for flag in (*option.opts, *option.secondary_opts)]
    return {"-h", "--help", *(flag for flag in flags if flag.startswith("-"))}


def flag_of(word: str) -> str:
    return word.partition("=")[0].rstrip(",")


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is what it would be in
        return False


@pytest.mark.parametrize("page", [page for page in [*PAGES, CARD] if page != RENDERED], ids=name_of)
def test_commands_flags_modules_and_files_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {code: found for code in code_of(page) if (found := [*unknown_in(code, targets)])} == {}


@pytest.mark.parametrize(
    "code",
    [
        "make coffee",
        "edgerank brew",
        "edgerank store brew",
        "edgerank store rank passages query --milk",
        "edgerank rerank query documents.txt --milk",
        "cat documents.txt | edgerank rerank query --milk",
        "python -m benchmarks.coffee",
        ".venv/dev/bin/python -m benchmarks coffee",
        "python -m quantize.training train a b c d --milk",
        "benchmarks.coffee",
        "edgerank/coffee.py",
        "--milk FILE",
    ],
)
def test_what_does_not_exist_would_be_noticed(code):
    assert list(unknown_in(code, {"test"}))


def test_settings_in_toml_are_flags():
    blocks = [
        block for page in PAGES for block in blocks_of(page.read_text()) if block.language == "toml"
    ]
    assert blocks
    for block in blocks:
        keys = msgspec.toml.decode(block.source)
        assert {f"--{key}" for key in keys} <= flags_of(cli.commands["serve"])


def texts_of_the_code(*packages: str) -> str:
    """The strings of the packages, one a line; "…" stands for what is filled in."""
    texts = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_messages_of_troubleshooting_are_those_of_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 40
    known = texts_of_the_code("edgerank", "quantize")
    parts = {part.strip() for message in messages for part in message.split("…")}
    assert {part for part in parts if part not in known} == set()


def test_operations_name_every_message_of_the_servers_log():
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    logged = {
        node.args[0].value
        for path in (ROOT / "edgerank/serving").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(logged) > 8
    assert {message for message in logged if f"`{message}`" not in page} == set()


def test_limits_are_the_defaults_of_the_settings():
    page = (ROOT / "docs/limits.md").read_text("utf-8")
    table = page[page.index("## Limits of the server") : page.index("## Limits of platforms")]
    shown = re.findall(r"\| ([\d,]+) \|", table)
    names = (
        "documents",
        "document-bytes",
        "query-tokens",
        "message-bytes",
        "calls",
        "queue-tokens",
    )
    defaults = {setting.name: setting.default for setting in SETTINGS}
    assert shown == [f"{defaults[f'max-{name}']:,}" for name in names]


def test_commits_that_are_named_as_examples_exist():
    page = (ROOT / "docs/extending.md").read_text("utf-8")
    commits = re.findall(r"commit `([0-9a-f]{7})`", page, re.IGNORECASE)
    assert len(commits) > 5
    is_shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True
    )
    if is_shallow.stdout.strip() != "false":
        pytest.skip("needs the history of the repository")
    for commit in commits:
        found = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT)
        assert found.returncode == 0, commit


def test_every_example_is_on_the_page_of_examples():
    page = (ROOT / "examples/README.md").read_text("utf-8")
    for path in (ROOT / "examples").iterdir():
        assert f"]({path.name}" in page or path.name in ("README.md", "__pycache__"), path.name
