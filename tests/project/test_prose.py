"""A small style check: words to avoid and sentences that are too long, in pages and in help."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from edgerank.cli import cli
from tests.project.test_docs import FENCED, PAGES, RENDERED, SPAN, name_of

MAX_WORDS = 50  # of a sentence
AVOID = {  # and why, or what to write
    r"simply|just|easily|obviously|of course|trivial(?:ly)?": "it belittles the reader",
    r"blazing(?:ly)?|seamless(?:ly)?|powerful|robust|state-of-the-art|cutting-edge": "it is praise",
    r"utili[sz]e[sd]?|leverages?|in order to|due to the fact": "use, because",
    r"please|sorry|!!+": "it is chatter",
    r"sheds?|takes? turns|as they come|what it was made of|doors?": "the field has a term",
    r"blacklist|whitelist|sanity check": "blocklist, allowlist, check",
    r"e\.g\.|i\.e\.|etc\.": "for example, that is, and so on",
    r"(?:do|does|is|are|was|were|could|should|would|has|have)n't|[wc]o?a?n't": "write not",
    r"behavior|color(?:s|ed)?|favor|center|analyze": "spelling is British",
}
WORDS = [
    (re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.I), why) for words, why in AVOID.items()
]
SENTENCE_END = re.compile(r"(?<=[.:?!;])\s+|\n\s*\n|\n(?=\s*(?:[-*|>]|\d+\.) )")


def prose_of(text: str) -> str:
    """Leave out code, tables, links' targets, comments and front matter."""
    text = FENCED.sub("", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    lines = [line for line in text.split("\n") if not line.startswith(("    ", "#"))]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))
    return SPAN.sub("X", text)


def faults_of(text: str) -> Iterator[str]:
    for pattern, why in WORDS:
        for match in pattern.finditer(text):
            yield f"{match[0]!r}: {why}"
    for sentence in SENTENCE_END.split(text):
        if "|" not in sentence and len(sentence.split()) > MAX_WORDS:
            yield f"{len(sentence.split())} words: {' '.join(sentence.split())}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != RENDERED], ids=name_of)
def test_a_page_is_in_plain_words(page):
    assert list(faults_of(prose_of(page.read_text("utf-8")))) == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_a_command_is_in_whole_sentences(name):
    command = cli.commands[name]
    texts = [command.help or ""]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            texts.append(option.help)
            assert re.match(r"[A-Z]\S* ", option.help), f"{option.name}: {option.help}"
            assert option.help.endswith("."), f"{option.name}: {option.help}"
            assert len(option.help.split()) >= 4, f"{option.name}: {option.help}"
    assert [fault for text in texts for fault in faults_of(text)] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("You can simply rank.", "'simply'"),
        ("It doesn't work.", '"doesn\'t"'),
        ("It is sheds all the way.", "'sheds'"),
        ("word " * (MAX_WORDS + 1), "51 words"),
    ],
)
def test_a_fault_would_be_noticed(text, fault):
    assert any(found.startswith(fault) for found in faults_of(text))


def test_code_and_links_are_no_prose():
    page = "Use `simply` or [this](https://example.org/easily).\n\n    just a command\n"
    assert list(faults_of(prose_of(page))) == []
