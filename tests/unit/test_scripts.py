"""Scripts of texts, and the warning of a model that was not made for one."""

from __future__ import annotations

import logging

import pytest

from edgerank import Reranker
from edgerank.scripts import foreign_script, unknown_scripts

LATIN = ("Latin",)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("who wrote dune?", None),
        ("\N{FULLWIDTH LATIN SMALL LETTER W}\N{FULLWIDTH LATIN SMALL LETTER E}", None),
        ("wo fließt der Fluß, naïve café?", None),
        ("1965 + 987 = ? \N{GRINNING FACE}", None),
        ("", None),
        ("angle \N{GREEK SMALL LETTER ALPHA} and β of a triangle", None),
        ("кто написал дюну", "Cyrillic"),
        ("кто написал dune", "Cyrillic"),
        ("python и asyncio", None),
        ("数は力", "Han"),
        ("数は、ちから", "Hiragana"),
        ("파리의 수도", "Hangul"),
        ("من كتب", "Arabic"),
        ("ποιος έγραψε", "Greek"),
    ],
)
def test_the_script_of_most_letters_counts(text, script):
    assert foreign_script(text, LATIN) == script


def test_a_model_may_be_made_for_several_scripts_and_for_others():
    assert foreign_script("кто написал дюну", ("Latin", "Cyrillic")) is None
    assert foreign_script("who wrote dune?", ("Cyrillic",)) == "Latin"


def test_a_name_that_is_no_script_is_told():
    assert unknown_scripts(["Latin", "Han", "English", "Cyrillic", "latin"]) == ["English", "latin"]


def test_the_model_in_the_package_warns_once_in_the_log_and_scores_all_the_same(caplog, capfd):
    with caplog.at_level(logging.WARNING), Reranker(threads=1) as reranker:
        reranker.score("who wrote dune?", ["Frank Herbert, кто написал дюну"])
        assert not caplog.records
        reranker.encode(["кто написал дюну"])  # a document
        assert not caplog.records
        pairs = [("who wrote dune?", "a"), ("кто написал дюну", "b"), ("数は力", "c")]
        assert len(reranker.score_pairs(pairs)) == 3
        reranker.rank("数は力", ["a"])
        reranker.encode(["数は力"], kind="query")
    [record] = caplog.records
    assert "Cyrillic script" in record.message
    assert "made for Latin" in record.message
    assert "дюну" not in record.message  # a log holds no queries
    assert capfd.readouterr().out == ""


def test_encoding_a_query_warns_too(caplog):
    with Reranker(threads=1) as reranker:
        reranker.encode(["数は力"], kind="query")
    assert len(caplog.records) == 1
