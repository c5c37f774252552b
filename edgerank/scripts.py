"""The script of a text, to warn if a model was not made for it.

Languages with the same script are not distinguished: a query of a few words, often with names and
code, is too short to guess its language reliably.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

MOST_CHARACTERS = 1000  # that are looked at


def script_of(letter: str) -> str:
    """Return the script of a letter as its Unicode name begins: "Latin", "Cyrillic", "Han"."""
    name = unicodedata.name(letter, "unknown").split()[0]
    return "Han" if name == "CJK" else name.capitalize()


def foreign_script(text: str, scripts: Sequence[str]) -> str | None:
    """Return the script of most letters of a text, if it is none of some; None if there is no most.

    :param scripts: as ``script_of`` names them
    """
    if text.isascii() and "Latin" in scripts:
        return None
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", text[:MOST_CHARACTERS]))
    counts = Counter(map(script_of, letters))
    foreign = {script: count for script, count in counts.items() if script not in scripts}
    if 2 * sum(foreign.values()) <= counts.total():
        return None
    return max(foreign, key=lambda script: foreign[script])


def unknown_scripts(names: Iterable[str]) -> list[str]:
    """Return those of some names that no letter's Unicode name begins with."""
    known = {script_of(letter) for letter in filter(str.isalpha, map(chr, range(0x110000)))}
    return sorted(set(names) - known)
