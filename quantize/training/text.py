"""Extract text from markup: sections from HTML, DocBook and manual pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "title"})
BLOCKS = frozenset({"p", "para", "li", "dt", "dd", "div", "tr", "section", "br", "table", "desc"})
SILENT = frozenset({"script", "style", "nav", "header", "footer", "aside", "template", "credit"})
HEADING_MARKS = "¶§#"  # generators put these behind a heading, as a link to it

ROFF_ESCAPES = re.compile(r"\\(f\[\w*\]|f\(\w\w|f.|s[-+]?\d+|[&|^%/,:]|\*\[[^]]*\]|\*\(..)")
ROFF_CHARACTERS = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(dq": '"',
    r"\(lq": '"',
    r"\(rq": '"',
    r"\(co": "©",
    r"\(bu": "*",
    r"\(em": "-",
    r"\(en": "-",
    r"\(ti": "~",
    r"\(ha": "^",
    r"\e": "\\",
    r"\~": " ",
    r"\ ": " ",
}
ROFF_KEPT = frozenset({"B", "I", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB"})


@dataclass(frozen=True)
class Section:
    """A heading and the text up to the next one."""

    title: str
    text: str


class _Sections(HTMLParser):
    """Collects (heading, text) in the order of the document."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[list[str], list[str]]] = [([], [])]
        self._silent = 0
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            self._silent += 1
        elif tag in HEADINGS:
            self._in_heading = True
            self.found.append(([], []))
        elif tag in BLOCKS:
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in HEADINGS:
            self._in_heading = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found[-1][0 if self._in_heading else 1].append(data)


def sections(markup: str) -> list[Section]:
    """Split HTML, or XML whose headings are <title>, into sections; the first may lack a title."""
    parser = _Sections()
    parser.feed(markup)
    parser.close()
    return [
        Section(
            flat("".join(title)).rstrip(HEADING_MARKS + " "),
            "\n".join(line for line in map(flat, "".join(text).split("\n")) if line),
        )
        for title, text in parser.found
    ]


def flat(text: str) -> str:
    """Return a text in one line, with single spaces between its words."""
    return " ".join(text.split())


def manual_sections(source: str) -> list[Section]:
    """Split a manual page in roff's man macros into sections: one paragraph a line, no markup."""
    found: list[Section] = []
    title, lines = "", [""]
    for line in source.splitlines():
        heading = re.match(r"\.S[HS]\s+(.*)", line)
        if heading:
            found.append(Section(title, _paragraphs(lines)))
            title, lines = _unescaped(heading[1]).strip('" ').capitalize(), [""]
        elif line.startswith((".\\", "'", ".ig", ".de")):
            continue
        elif line.startswith("."):
            name, _, rest = line[1:].strip().partition(" ")
            if name in ROFF_KEPT:
                lines[-1] += " " + _unescaped(rest.replace('"', ""))
            elif name in ("PP", "P", "LP", "TP", "IP", "HP", "br", "sp", "Pp"):
                lines.append("")
        elif line.strip():
            lines[-1] += " " + _unescaped(line)
        else:
            lines.append("")
    found.append(Section(title, _paragraphs(lines)))
    return found


def _unescaped(text: str) -> str:
    for escape, character in ROFF_CHARACTERS.items():
        text = text.replace(escape, character)
    return ROFF_ESCAPES.sub("", text)


def _paragraphs(lines: list[str]) -> str:
    return "\n".join(line for line in map(flat, lines) if line)


def passages(text: str, max_words: int) -> Iterator[str]:
    """Split a text into passages of at most ``max_words`` words.

    A line is a paragraph. A paragraph is split only if it has more than ``max_words`` words.
    """
    words: list[str] = []
    for paragraph in text.split("\n"):
        added = paragraph.split()
        if words and len(words) + len(added) > max_words:
            yield " ".join(words)
            words = []
        words += added
        while len(words) > max_words:
            yield " ".join(words[:max_words])
            words = words[max_words:]
    if words:
        yield " ".join(words)


def sentences(text: str) -> list[str]:
    """Split a text into sentences, which end in one of ".?!" and begin with a capital or quote."""
    return [part for part in re.split(r"(?<=[.?!])\s+(?=[A-Z\"'(])", flat(text)) if part]
