"""Turn a checkpoint's chat template into a prompt of fixed pieces.

sentence-transformers makes messages with the roles "query" and "document" from a pair, renders them
with the template and tokenises the whole text. The runtime does not run templates. So this module
renders the template with many kinds of text, checks that it only puts fixed text around them, and
cuts that text into pieces at positions where the tokenizer always begins a new token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from edgerank.manifest import Piece, Prompt
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import ChatSettings
from quantize.errors import QuantizeError

QUERY, DOCUMENT, INSTRUCTION = "Marker1Q", "Marker2D", "Marker3I"  # rendered in place of texts
PADDED = "\n {} \t"  # a text with white space around it
TEXTS = (  # texts that a template might change
    "",
    "x",
    "0",
    "none",
    'It\'s <b>"bold"</b> & more \\n',
    "{{ braces }} {% if %} {document}",
    "two\nlines\n\nand a blank one",
    "UPPER lower 数は力 😀",
    "a long text " * 200,
)
SEAMS = (  # texts whose beginnings and ends tokenizers treat differently
    *("", "a", "Ab", "'s", "1", "12 345", ".", "?!", "...", "-", "_", "(", ")", '"', ":", "/"),
    *("\n", "\n\na", "a\n", " a ", "\t", "a  ", "  a", "é", "数", "😀", "слово", "\u00a0", "a.\n"),
)
Render = Callable[[str | None, str, str], str]  # of an instruction, a query and a document


class _TemplateSettings(msgspec.Struct):
    """tokenizer_config.json, which has the template if there is no file for it."""

    chat_template: str | None = None


@dataclass(frozen=True)
class _Rendered:
    """The fixed text around a query and a document."""

    head: str
    middle: str
    end: str


def chat_prompt(
    checkpoint: Checkpoint, tokenizer: Tokenizer, chat: ChatSettings, default: str
) -> Prompt:
    """Turn the chat template into a prompt that gives the same tokens.

    :param default: the instruction if a caller gives none; "" for no instruction
    :raises QuantizeError: the template is missing, cannot be rendered, does more than put text
        around query and document, or cannot be cut between them
    """
    render = _renderer(checkpoint, chat)
    rendered = _around(render(default or None, QUERY, DOCUMENT))
    strip = _check_plain(render, rendered, default)
    lead = _lead(render, rendered, default, tokenizer, strip)
    seams = list(dict.fromkeys(text.strip() if strip else text for text in SEAMS))
    middle, end = rendered.middle, rendered.end
    _check_lead(tokenizer, lead, seams)
    cut = _cut_between(tokenizer, lead.query, middle, seams)
    kept = _cut_after(tokenizer, middle[cut:], end, seams, chat.restores_end)
    query = (lead.fixed, f"{lead.query}{{query}}{middle[:cut]}")
    document = (f"{middle[cut:]}{{document}}{end[:kept]}", end[kept:])
    return Prompt(
        query=tuple(Piece(text) for text in query if text),
        document=tuple(Piece(text) for text in document if text),
        instruction=lead.instruction,
        default_instruction=lead.default,
        strip=strip,
    )


def _renderer(checkpoint: Checkpoint, chat: ChatSettings) -> Render:
    """Compile the template in jinja2's sandbox, with the functions that transformers provides.

    :raises QuantizeError: there is no template, or jinja2 cannot read it
    """
    path = checkpoint.directory / "chat_template.jinja"
    if path.exists():
        source = path.read_text(encoding="utf-8")
    else:
        settings = checkpoint.json_as("tokenizer_config.json", _TemplateSettings)
        if settings is None or settings.chat_template is None:
            raise QuantizeError(f"{path}: no chat template, but the model's prompt is one")
        source = settings.chat_template
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    variables = {**_special_tokens(checkpoint), "add_generation_prompt": False, **chat.arguments}
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise _unusable(f"jinja2 cannot read it: {error}") from error

    def content(text: str) -> object:
        return [{"type": "text", "text": text}] if chat.has_parts else text

    def render(instruction: str | None, query: str, document: str) -> str:
        texts = {"system": instruction, "query": query, "document": document}
        messages = [
            {"role": role, "content": content(text)}
            for role, text in texts.items()
            if text is not None
        ]
        try:
            return template.render(messages=messages, tools=None, documents=None, **variables)
        except Exception as error:  # code in a template may raise any error
            reason = f"it cannot be rendered for a query and a document: {error}"
            raise _unusable(reason) from error

    return render


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the tokens that a template may name, such as bos_token."""
    settings = checkpoint.json_as("tokenizer_config.json", dict[str, Any]) or {}
    tokens = {name: value for name, value in settings.items() if name.endswith("_token")}
    contents = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in tokens.items()
    }
    return {name: value for name, value in contents.items() if isinstance(value, str)}


def _around(text: str) -> _Rendered:
    """Split a rendering at the markers.

    :raises QuantizeError: the query and the document are not there once each and in this order, or
        the text has a placeholder of the runtime
    """
    parts = re.split(f"{QUERY}|{DOCUMENT}", text)
    if len(parts) != 3 or text.index(QUERY) > text.index(DOCUMENT):
        raise _unusable(
            "it must have the query once, then the document once (roles query and document)"
        )
    if "{query}" in text or "{document}" in text:
        raise _unusable("it has {query} or {document} in its own text")
    return _Rendered(*parts)


def _check_plain(render: Render, rendered: _Rendered, default: str) -> bool:
    """Check that the template only puts text around query and document.

    Returns whether it also strips white space from both.

    :raises QuantizeError: it does more than that
    """

    def expected(query: str, document: str) -> str:
        return f"{rendered.head}{query}{rendered.middle}{document}{rendered.end}"

    padded = [PADDED.format(text) for text in (QUERY, DOCUMENT)]
    found = render(default or None, *padded)
    strip = found == expected(QUERY, DOCUMENT)
    pairs = [pair for text in TEXTS for pair in ((text, "b"), ("a", text))]
    for query, document in [tuple(padded), *pairs]:
        texts = [text.strip() if strip else text for text in (query, document)]
        if render(default or None, query, document) != expected(*texts):
            text = document if query == "a" else query
            raise _unusable(
                f"it does more than put text around query and document, such as {text[:40]!r}"
            )
    return strip


@dataclass(frozen=True)
class _Lead:
    """The text before the query."""

    fixed: str  # the first piece
    query: str  # the beginning of the query's piece
    instruction: str | None  # text before the query's piece, with {instruction}; None if not taken
    default: str | None  # the instruction that the template itself has


def _lead(
    render: Render, rendered: _Rendered, default: str, tokenizer: Tokenizer, strip: bool
) -> _Lead:
    """Split the text before the query, with a place for an instruction if the template has one.

    An instruction is a message with the role "system".
    """
    head = rendered.head
    start = _last_boundary(tokenizer, head, len(head))
    none = _Lead(head[:start], head[start:], None, None)
    try:
        asked = render(INSTRUCTION, QUERY, DOCUMENT)
        with_instruction = _around(asked)
        texts = [text.strip() if strip else text for text in (PADDED.format("x"), *TEXTS[1:])]
        is_plain = all(
            render(text, QUERY, DOCUMENT) == asked.replace(INSTRUCTION, text) for text in texts
        )
    except QuantizeError:  # the template refuses the role "system"
        return none
    if not is_plain or with_instruction.head.count(INSTRUCTION) != 1:
        return none
    start = _last_boundary(tokenizer, head, _num_equal(head, with_instruction.head))
    before, after = with_instruction.head[start:].split(INSTRUCTION)
    rest = head[start:]
    inner = rest[len(before) : len(rest) - len(after)]
    if inner and rest == before + inner + after:  # the template has its own instruction
        return _Lead(head[:start], "", f"{before}{{instruction}}{after}", inner)
    if after.endswith(rest):
        after = after[: len(after) - len(rest)]
        return _Lead(head[:start], rest, f"{before}{{instruction}}{after}", None)
    return none


def _check_lead(tokenizer: Tokenizer, lead: _Lead, seams: Sequence[str]) -> None:
    """Check that the first piece always has the same tokens, whatever follows it.

    :raises QuantizeError: some text after it changes its tokens
    """
    begins = [f"{lead.query}{text}" for text in seams]
    if lead.instruction is not None:
        begins = [lead.instruction.replace("{instruction}", text) for text in seams]
    if not _is_seam(tokenizer, [(lead.fixed, text) for text in begins]):
        raise _unusable(f"a token does not always begin after {lead.fixed[-40:]!r}")


def _last_boundary(tokenizer: Tokenizer, text: str, limit: int) -> int:
    """Return the last position up to ``limit`` where a special token begins or ends, or 0."""
    return max((place for place in _boundaries(tokenizer, text) if place <= limit), default=0)


def _boundaries(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return where special tokens begin and end; a tokenizer splits a text there first."""
    tokens = tokenizer.get_added_tokens_decoder().values()
    contents = [re.escape(token.content) for token in tokens if not (token.lstrip or token.rstrip)]
    found = re.finditer("|".join(sorted(contents, key=len, reverse=True)), text) if contents else ()
    return [place for match in found for place in match.span()]


def _cut_between(tokenizer: Tokenizer, lead: str, middle: str, seams: Sequence[str]) -> int:
    """Return the position in ``middle`` where the document's piece begins.

    :raises QuantizeError: there is no position where a token always begins
    """
    candidates: list[int] = [
        *reversed(_boundaries(tokenizer, middle)),
        *range(len(middle) - 1, 0, -1),
    ]
    pairs = [pair for seam in seams for pair in ((seam, "a"), ("a", seam), (seam, seam))]
    for cut in candidates:
        parts = [
            (f"{lead}{query}{middle[:cut]}", f"{middle[cut:]}{document}")
            for query, document in pairs
        ]
        if _is_seam(tokenizer, parts):
            return cut
    raise _unusable(
        f"{middle!r}, between query and document, has no position where a token always begins"
    )


def _cut_after(
    tokenizer: Tokenizer, before: str, end: str, seams: Sequence[str], restores_end: bool
) -> int:
    """Return how many characters of ``end`` belong to the document's piece.

    A token always begins after them. When sentence-transformers truncates a long document, it puts
    the last tokens of the prompt back. These must be the tokens of ``end``.

    :raises QuantizeError: there is no such position, or other tokens are put back
    """
    for kept in range(len(end) + 1):
        if _is_seam(tokenizer, [(f"{before}{text}{end[:kept]}", end[kept:]) for text in seams]):
            break
    if end and not restores_end:
        raise _unusable("a long document would cut its end off (restore_suffix is false)")
    ids = [_ids(tokenizer, f"{before}{filler}{end}") for filler in ("0", "1 2 3 4")]
    common = _num_equal(*(each[::-1] for each in ids))
    own = len(_ids(tokenizer, end[:kept])) + len(_ids(tokenizer, end[kept:]))
    if common != own:
        raise _unusable(f"its end {end[:40]!r} does not always have the same tokens")
    return kept


def _is_seam(tokenizer: Tokenizer, parts: Sequence[tuple[str, str]]) -> bool:
    """Return whether two texts have the same tokens together as separately, for all ``parts``."""
    return all(
        _ids(tokenizer, one + other) == _ids(tokenizer, one) + _ids(tokenizer, other)
        for one, other in parts
    )


def _num_equal(one: Sequence[object], other: Sequence[object]) -> int:
    """Count the items that two sequences have in common at their beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _unusable(reason: str) -> QuantizeError:
    return QuantizeError(
        f"the checkpoint's chat template cannot become fixed pieces: {reason}; --template FILE"
        " describes the prompt instead"
    )
