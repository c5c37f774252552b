"""Make pairs of a query and the passage that answers it from documentation on disk.

The query is a heading and the passage is the text below it; or a summary and the description or the
code that follows; or a headword and its definition; or a sentence and the passage it is taken from.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TypeVar

from quantize.errors import QuantizeError
from quantize.training.text import flat, manual_sections, passages, sections, sentences

T = TypeVar("T")

MAX_WORDS = 110  # of a passage; most texts that are reranked are no longer
MIN_WORDS = 12
MAX_QUERY_WORDS = 40
MIN_SENTENCE_WORDS = 6
FEW_WORDS = 2  # a heading with no more words gets the title of its page as well
KEPT_SENTENCE = 0.15  # share of the sentences used as queries that also stay in their passages
MAX_FILE_BYTES = 1_000_000  # larger pages are mostly generated tables, and are skipped
QUESTIONS = ("what is {}", "what is {}?", "how does {} work", "explain {}", "{} meaning")
# sections whose titles begin with one of these are skipped
SILENT_TITLES = ("navigation", "contents", "index", "synopsis", "see also", "bibliography")
GERUND_QUESTIONS = ("how to go about {}", "how do I start {}?", "help with {}")


@dataclass(frozen=True)
class CorpusRecord:
    """A query and a passage that answers it."""

    source: str
    page: str  # of the passage; other passages of the page may answer the query, too
    query: str
    passage: str


@dataclass(frozen=True)
class _Found:
    """A title and its text, from which records are made."""

    page: str
    title: str
    text: str


def extract(
    kind: str, source: str, path: Path, limit: int, seed: int = 0
) -> Iterator[CorpusRecord]:
    """Read the texts below ``path`` and make about ``limit`` records, or fewer, from them.

    :param kind: one of ``KINDS``
    :param source: the name of the source in the records
    :raises QuantizeError: the path does not exist, or the kind is unknown
    """
    if kind not in KINDS:
        raise QuantizeError(f"kind {kind!r} is unknown; choose {', '.join(KINDS)}")
    if not path.exists():
        raise QuantizeError(f"{path}: no such file or directory")
    random = Random(f"{seed} {source}")
    found = list(islice(KINDS[kind](path), 3 * limit))
    random.shuffle(found)
    seen: set[str] = set()
    for item in found:
        for record in _records(source, item, random):
            if record.passage not in seen:
                seen.add(record.passage)
                yield record
        if len(seen) >= limit:
            return


def is_held_out(record: CorpusRecord, share: float = 0.05) -> bool:
    """Return whether a record is held out of training; all records of a page are, or none."""
    digest = hashlib.sha256(f"{record.source}/{record.page}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _records(source: str, found: _Found, random: Random) -> Iterator[CorpusRecord]:
    """Make records whose queries are the title, or sentences of the text."""
    if "\n    " in found.text:  # code keeps its lines
        parts = ["\n".join(found.text.split("\n")[:30])[:800]]
    else:
        parts = list(passages(found.text, random.choice((40, 70, MAX_WORDS))))
    for number, part in enumerate(parts[:3]):
        if len(part.split()) < MIN_WORDS or _is_mostly_symbols(part):
            continue
        pieces = sentences(part)
        if number == 0 and found.title and random.random() < 0.75:
            yield CorpusRecord(source, found.page, _asked(found.title, random), part)
        elif len(pieces) >= 3 and "\n" not in part:
            place = random.randrange(len(pieces))
            query = pieces[place]
            if MIN_SENTENCE_WORDS <= len(query.split()) <= MAX_QUERY_WORDS:
                kept = random.random() < KEPT_SENTENCE
                rest = part if kept else " ".join(pieces[:place] + pieces[place + 1 :])
                if len(rest.split()) >= MIN_WORDS:
                    yield CorpusRecord(source, found.page, query.rstrip("."), rest)


def _asked(title: str, random: Random) -> str:
    """Return a title as a query: as it is, in lower case, or as a question, at random."""
    title = " ".join(title.split()[:MAX_QUERY_WORDS]).rstrip(".:")
    chance = random.random()
    if chance < 0.5 or len(title.split()) > 6 or title.endswith("?"):
        return title
    lower = title if title.isupper() else title[0].lower() + title[1:]
    if chance < 0.7:
        return lower
    is_gerund = lower.split()[0].endswith("ing")
    return random.choice(GERUND_QUESTIONS if is_gerund else QUESTIONS).format(lower)


def _is_mostly_symbols(text: str) -> bool:
    return sum(c.isalpha() or c.isspace() for c in text) < 0.6 * len(text)


def _files(path: Path, pattern: str) -> Iterator[Path]:
    """Yield files in a random order, which is the same each time."""
    if path.is_file():
        return iter([path])
    names = _shuffled(sorted(path.rglob(pattern)))
    return (name for name in names if name.is_file() and name.stat().st_size < MAX_FILE_BYTES)


def _shuffled(items: list[T]) -> list[T]:
    Random(0).shuffle(items)
    return items


def _read(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        content = gzip.decompress(content)
    return content.decode("utf-8", "replace")


def _markup(pattern: str) -> Callable[[Path], Iterator[_Found]]:
    def read(path: Path) -> Iterator[_Found]:
        for file in _files(path, pattern):
            found = sections(_read(file))
            page_title = next((section.title for section in found if section.title), "")
            page_title = re.split(r" [|\u2014\u2013·-] | :: ", page_title)[0]
            for section in found:
                title = re.sub(r"^[\dA-Z]{1,2}(\.\d+)*\.?\s+", "", section.title)
                if title and len(title.split()) <= FEW_WORDS and title != page_title:
                    title = f"{page_title}: {title}"
                if title and not section.title.lower().startswith(SILENT_TITLES):
                    yield _Found(file.name, title, section.text)

    return read


def _manuals(path: Path) -> Iterator[_Found]:
    for file in _files(path, "*.gz"):
        found = manual_sections(_read(file))
        by_title = {section.title: section.text for section in found}
        name, _, summary = by_title.get("Name", "").partition(" - ")
        for section in found:
            if section.title == "Description" and summary:
                yield _Found(file.name, flat(summary), section.text)
            elif section.title not in ("", "Name", "Synopsis", "See also", "Author", "Authors"):
                yield _Found(
                    file.name, f"{name.strip()[:40]} {section.title.lower()}", section.text
                )


def _docstrings(path: Path) -> Iterator[_Found]:
    """Read docstrings: the title is the summary, and the text is the rest of it, or the code.

    The text is the code if a function is on an odd line or its docstring has little else.
    """
    for file in _files(path, "*.py"):
        if "test" in str(file.relative_to(path)):
            continue
        source = _read(file)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            continue
        lines = source.split("\n")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            doc = ast.get_docstring(node)
            if not doc or node.name.startswith("_"):
                continue
            summary, _, rest = doc.partition("\n\n")
            if not 3 <= len(summary.split()) <= MAX_QUERY_WORDS:
                continue
            first = node.body[0]
            is_code = isinstance(node, ast.FunctionDef) and len(node.body) > 1
            if is_code and (node.lineno % 2 or len(rest.split()) < MIN_WORDS):
                head = lines[node.lineno - 1 : first.lineno - 1]
                body = lines[(first.end_lineno or first.lineno) : node.end_lineno]
                indent = " " * node.col_offset
                text = "\n".join(line.removeprefix(indent) for line in head + body)
            else:
                text = f"{node.name}\n{rest}"
            yield _Found(f"{file.stem}.{node.name}", flat(summary), text)


def _debian(path: Path) -> Iterator[_Found]:
    """Read package descriptions in Debian's control format: a summary, then a description."""
    for stanza in _shuffled(_read(path).split("\n\n")):
        name = re.search(r"^Package: (.*)", stanza, re.M)
        found = re.search(r"^Description(?:-en)?: (.*)((?:\n .*)*)", stanza, re.M)
        if name and found:
            lines = (line.strip() for line in found[2].split("\n"))
            paragraphs = "\n".join("\n" if line == "." else line for line in lines)
            text = "\n".join(flat(part) for part in paragraphs.split("\n\n"))
            yield _Found(re.sub(r"[-\d.].*", "", name[1]), found[1], text)


def _dictd(path: Path) -> Iterator[_Found]:
    """Read a dictionary in dictd's format: a headword, and its definition in indented lines."""
    for entry in _shuffled(re.split(r"\n(?=\S)", _read(path))):
        headword, _, text = entry.partition("\n")
        text = re.sub(r"[{}]|\[[^]]*\]", "", text)
        paragraphs = (flat(part) for part in text.split("\n\n"))
        yield _Found(headword, headword, "\n".join(part for part in paragraphs if part))


def _wordnet(path: Path) -> Iterator[_Found]:
    """Read WordNet's data files: the words of a synset are the title, its gloss is the text."""
    for file in _files(path, "data.*"):
        for line in _shuffled(_read(file).split("\n")):
            fields, separator, gloss = line.partition(" | ")
            if separator and not line.startswith(" "):
                columns = fields.split()
                words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
                yield _Found(columns[0], " ".join(words[:2]).replace("_", " "), flat(gloss))


KINDS: dict[str, Callable[[Path], Iterable[_Found]]] = {
    "html": _markup("*.html"),
    "mallard": _markup("*.page"),
    "docbook": _markup("*.xml"),
    "manual": _manuals,
    "python": _docstrings,
    "debian": _debian,
    "dictd": _dictd,
    "wordnet": _wordnet,
}
