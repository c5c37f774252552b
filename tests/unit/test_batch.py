"""Batch jobs without a model: what is read, how it is cut, what is refused, what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import time
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from edgerank import BatchError, InputError
from edgerank.batch import digests, plan, scoring, texts
from edgerank.batch.begin import begin
from edgerank.batch.inputs import find_source
from edgerank.batch.job import Asking, BadRow, InputFile, Job, Row, Scorer
from edgerank.batch.output import read_job
from edgerank.batch.run import Summary, keep
from edgerank.batch.settings import differences, job_settings
from edgerank.batch.texts import Texts, index_texts
from edgerank.lock import writing
from tests.support.batch import (
    PAIRS,
    QUERIES,
    SCORER,
    contents,
    hashed,
    hashed_results,
    parts,
    read_jsonl,
    results_of,
    rows_of,
    text_of,
    write_collection,
    write_jsonl,
    write_run,
)
from tests.support.kills import in_a_process_killed_at

ROWS = [{"id": f"r{n}", "query": f"query {n}", "documents": ["a"] * (n % 4)} for n in range(20)]
COUNTS = st.lists(st.integers(0, 12), max_size=30)
BROKEN = (  # rows that are no rows, and how many pairs they count as
    ("{", 1),
    ("null", 1),
    ('{"query": "q"}', 1),
    ('{"query": " ", "documents": ["a", "b"]}', 2),
    ('{"query": 3, "documents": ["a", "b", "c"]}', 3),
    ('{"query": "q", "documents": ["a", 5, {"id": "x"}]}', 3),
    ('{"query": "q", "documents": ["a", {"id": "x"}]}', 2),
    ('{"query": 3, "documents": []}', 0),
)
LINES = st.one_of(st.integers(0, 5), st.sampled_from(["", "  ", *(line for line, _ in BROKEN)]))


@pytest.fixture(autouse=True, scope="module")
def _unsynced():
    """What a killed process has written is not lost, synced or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def collection(tmp_path) -> Path:
    return write_collection(tmp_path / "collection")


def run(
    path: Path,
    output: Path,
    *,
    format: str | None = None,
    shard_pairs: int = 5,
    max_bad_rows: int = 100,
    restart: bool = False,
    show_progress: bool = False,
    scorer=SCORER,
    **found: object,
) -> Summary:
    """Do a job with scores that need no model."""
    source = find_source(path, **found)
    with begin(
        source,
        output,
        scorer,
        format=format or source.format,
        shard_pairs=shard_pairs,
        restart=restart,
        show_progress=show_progress,
    ) as begun:
        return keep(begun, hashed_results(begun), max_bad_rows)


@pytest.fixture
def bars(monkeypatch) -> dict[str, list[int]]:
    """What the progress bars that are drawn have shown, by their label."""
    shown: dict[str, list[int]] = {}

    class Noted(tqdm):
        def update(self, n=1):
            super().update(n)
            if not self.disable:
                shown.setdefault(self.desc, []).append(self.n)

    for module in ("begin", "digests"):
        monkeypatch.setattr(f"edgerank.batch.{module}.tqdm", Noted)
    return shown


# Shards


@given(COUNTS, st.integers(1, 20))
def test_shards_have_every_row_once_in_order_and_no_more_pairs_than_asked_for(counts, limit):
    extents = [plan.Extent(n, n + 1, n + 1, count) for n, count in enumerate(counts)]
    shards = list(plan.cut(0, extents, limit))
    assert [row for shard in shards for row in range(shard.start, shard.end)] == list(
        range(len(counts))
    )
    assert all(shard.number == shard.start + 1 for shard in shards)
    assert [shard.pairs for shard in shards] == [sum(counts[s.start : s.end]) for s in shards]
    assert all(shard.pairs <= limit or shard.end - shard.start == 1 for shard in shards)
    for shard, after in pairwise(shards):  # none is cut before it must be
        weights = [max(1, count) for count in counts[shard.start : after.start + 1]]
        assert sum(weights) > limit


@given(st.lists(st.sampled_from("ab "), max_size=30), st.integers(1, 8))
def test_pairs_of_a_query_stay_together_where_they_must(queries, limit):
    extents = [plan.Extent(n, n + 1, n + 1, 1, query) for n, query in enumerate(queries)]
    shards = list(plan.cut(0, extents, limit))
    assert sum(shard.pairs for shard in shards) == len(queries)
    for before, after in pairwise(shards):
        assert queries[before.end - 1] != queries[after.start]


@settings(deadline=None, max_examples=30)
@given(st.lists(LINES, max_size=20))
def test_what_is_read_of_shards_is_the_file(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("job")
    written = [
        line if isinstance(line, str) else json.dumps({"query": "q", "documents": ["é"] * line})
        for line in lines
    ]
    path = directory / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(written).encode())  # and no newline at the end
    with begin(
        find_source(path), directory / "out", SCORER, format="jsonl", shard_pairs=4
    ) as begun:
        shards = begun.output.job.shards
        rows = [row for number in range(len(shards)) for row in rows_of(begun, number)]
    wanted = [(n, line) for n, line in enumerate(lines, 1) if str(line).strip()]
    assert [row.number if isinstance(row, Row) else row.row for row in rows] == [
        number for number, _ in wanted
    ]
    assert [len(row.texts) if isinstance(row, Row) else -1 for row in rows] == [
        line if isinstance(line, int) else -1 for _, line in wanted
    ]
    good = sum(line for _, line in wanted if isinstance(line, int))
    bad = [dict(BROKEN)[line] for _, line in wanted if isinstance(line, str)]
    assert [row.pairs for row in rows if isinstance(row, BadRow)] == bad
    assert sum(shard.pairs for shard in shards) == good + sum(bad)


def test_windows_are_bounded_by_pairs_and_by_characters(monkeypatch):
    monkeypatch.setattr(scoring, "WINDOW_PAIRS", 4)
    monkeypatch.setattr(scoring, "WINDOW_CHARACTERS", 100)

    def row(number: int, *documents: str) -> Row:
        return Row(number, number, "q", documents, tuple(map(str, range(len(documents)))))

    rows = [
        row(1, "a", "b"),
        row(2, "c", "d"),
        row(3, "e"),
        BadRow("file", 4, None, "bad"),
        row(5, "f" * 98),
        row(6, "g"),
        row(7, *"hijklmn"),
        row(8),
    ]
    found = [[getattr(r, "number", 4) for r in window] for window in scoring.windows(rows)]
    assert found == [[1, 2], [3, 4], [5], [6], [7], [8]]


# Inputs


def test_rows_are_read_as_a_reranker_reads_documents(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {
                "query": "q",
                "documents": ["text", {"id": 7, "title": "t", "text": "x", "by": "y"}],
            },
            {"id": 3, "query": "q", "documents": [{"_id": "d", "text": "x", "metadata": {"a": 1}}]},
            {"id": "c", "query": "q", "documents": [], "other": 1},
        ],
    )
    with begin(find_source(path), tmp_path / "o", SCORER, format="jsonl", shard_pairs=9) as begun:
        assert rows_of(begun, 0) == [
            Row(1, 1, "q", ("text", "t\nx\nby: y"), ("0", "7")),
            Row(2, 3, "q", ("x",), ("d",)),
            Row(3, "c", "q", (), ()),
        ]


def test_a_bad_row_is_named_with_its_number_its_id_and_the_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        b'{"query": "q", "documents": ["good"]}',
        b"not JSON",
        b'{"id": 1, "documents": []}',
        b'{"id": "2", "query": "q"}',
        b'{"id": 3, "query": 3, "documents": []}',
        b'{"id": 4, "query": " ", "documents": ["a"]}',
        b'{"id": 5, "query": "q", "documents": ["a", 5]}',
        b'{"id": 6, "query": "q", "documents": ["a", {"id": "no text"}]}',
        b'{"id": 7, "query": "q", "documents": ["a", {"text": "a", "year": 1965}]}',
        b'{"id": 8, "query": "\xff", "documents": []}',
        b'{"id": {}, "query": "q", "documents": []}',
        b"[" * 100_000,
    ]
    path.write_bytes(b"\n".join(lines))
    summary = run(path, tmp_path / "out", shard_pairs=3)
    assert summary.bad_rows == 11
    assert [result["id"] for result in results_of(tmp_path / "out")] == [1]
    bad = read_jsonl(tmp_path / "out/_bad-rows.jsonl")
    assert [(one["file"], one["row"]) for one in bad] == [("rows.jsonl", n) for n in range(2, 13)]
    assert [one["id"] for one in bad] == [None, 1, "2", 3, 4, 5, 6, 7, 8, None, None]
    for one, reason in zip(
        bad,
        [
            "malformed",
            "missing required field `query`",
            "missing required field `documents`",
            "Expected `str`, got `int`",
            "query: it is blank",
            "$.documents[1]",
            'documents[1]: it has no "text"',
            "documents[1].year: expected a string, got int",
            "",
            "$.id",
            "",
        ],
        strict=True,
    ):
        assert reason in one["reason"]
        assert one["reason"]


def test_texts_of_pairs_are_read_from_the_collection(tmp_path, collection):
    path = write_jsonl(
        tmp_path / "pairs.jsonl",
        [
            *({"query_id": query, "document_id": document} for query, document in PAIRS),
            {"query_id": "q1", "document_id": "d9"},
            {"query_id": "q9", "document_id": "d1"},
            {"query_id": "q9"},
        ],
    )
    source = find_source(path, collection=collection)
    with begin(source, tmp_path / "out", SCORER, format="jsonl", shard_pairs=100) as begun:
        rows = rows_of(begun, 0)
    good, bad = rows[: len(PAIRS)], rows[len(PAIRS) :]
    assert [(row.id, row.names) for row in good] == [(q, (d,)) for q, d in PAIRS]
    assert [(row.query, row.texts) for row in good] == [
        (QUERIES[query], (text_of(document),)) for query, document in PAIRS
    ]
    assert [(one.row, one.id) for one in bad] == [(10, "q1"), (11, "q9"), (12, "q9")]
    assert bad[0].reason == "document_id: 'd9' is not in the corpus"
    assert bad[1].reason == "query_id: 'q9' is not in the queries"


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(st.text("abcé-9", min_size=1), st.text(max_size=9), max_size=20),
    st.booleans(),
)
def test_an_index_finds_each_text_and_no_other(tmp_path_factory, records, collide):
    directory = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        if collide:  # as two ids of very many might
            patch.setattr(texts, "_hash", lambda name: len(name) % 2)
        path = write_jsonl(
            directory / "corpus.jsonl", ({"_id": k, "text": v} for k, v in records.items())
        )
        index = directory / "index"
        index.write_bytes(index_texts(path))
        with Texts(path, index) as found:
            assert {name: found.get(name) for name in records} == records
            assert {found.place(name) for name in records} == set(range(len(records)))
            assert [found.get(name) for name in ("absent", "ab", "") if name not in records] == [
                None for name in ("absent", "ab", "") if name not in records
            ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "d1", "text": "again"}', "the id 'd1' is there twice"),
        ('{"_id": "d 9", "text": "x"}', "line 5: the id 'd 9' is empty or holds a space"),
        ('{"_id": "d9"}', "line 5: Object missing required field `text`"),
        ("{", "line 5:"),
    ],
)
def test_a_corpus_that_is_unusable_is_refused_whole(tmp_path, collection, line, message):
    with (collection / "corpus.jsonl").open("a") as file:
        file.write(line)
    path = write_run(tmp_path / "first.trec")
    with pytest.raises(InputError, match=message):
        run(path, tmp_path / "out", collection=collection)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "there is no such file"),
        (["a.txt"], {}, "expected files of one format"),
        (["a.jsonl", "b.parquet"], {}, "expected files of one format"),
        (["a.trec"], {}, "a run has ids only"),
        (["a.jsonl"], {"corpus": "c.jsonl"}, "queries: pairs need a corpus and a file of queries"),
        (["a.jsonl"], {"collection": "nowhere"}, "nowhere/corpus.jsonl: there is no such file"),
        (["a.jsonl"], {"format": "csv"}, "'csv' is unknown; choose jsonl, parquet, trec"),
    ],
)
def test_an_input_that_is_none_is_refused(tmp_path, names, options, message):
    path = tmp_path / "rows.jsonl"
    if len(names) == 1:
        path = tmp_path / names[0]
        path.touch()
    elif names:
        path = tmp_path / "files"
        path.mkdir()
        for name in names:
            (path / name).touch()
    with pytest.raises(InputError, match=message):
        find_source(path, **options)


def test_a_directory_is_read_file_by_file_in_the_order_of_names(tmp_path):
    directory = tmp_path / "in"
    directory.mkdir()
    write_jsonl(directory / "b.jsonl", ROWS[7:])
    write_jsonl(directory / "a.jsonl", ROWS[:7])
    (directory / "_job.json").write_text("no data")
    (directory / "notes.md").write_text("neither")
    run(directory, tmp_path / "two", shard_pairs=6)
    run(write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "one", shard_pairs=6)
    assert results_of(tmp_path / "two") == results_of(tmp_path / "one")
    assert [result["id"] for result in results_of(tmp_path / "one")] == [r["id"] for r in ROWS]


# Runs


def test_a_run_has_all_documents_of_a_query_in_one_shard_best_first(tmp_path, collection):
    path = write_run(tmp_path / "first.trec")
    run(path, tmp_path / "out", shard_pairs=1, collection=collection)
    found = [
        [line.split() for line in part.read_text().splitlines()] for part in parts(tmp_path / "out")
    ]
    assert [[(line[0], line[3]) for line in part] for part in found] == [
        [("q1", "1"), ("q1", "2"), ("q1", "3")],
        [("q2", "1"), ("q2", "2")],
        [("q3", "1"), ("q3", "2"), ("q3", "3"), ("q3", "4")],
    ]
    for part in found:
        scores = [float(line[4]) for line in part]
        assert scores == sorted(scores, reverse=True)
        assert {line[1] for line in part} == {"Q0"}
        assert {line[5] for line in part} == {"edgerank"}
    for query, _, document, _, score, _ in (line for part in found for line in part):
        row = Row(1, query, QUERIES[query], (text_of(document),), (document,))
        assert float(score) == hashed(row).scores[0]


def test_a_query_in_two_places_is_refused_for_a_run_and_not_for_other_formats(tmp_path, collection):
    path = write_run(tmp_path / "first.trec", [*PAIRS, ("q9", "d1"), ("q1", "d2")])
    with pytest.raises(InputError, match="row 11: the query 'q1' was there before"):
        run(path, tmp_path / "run", collection=collection)
    summary = run(path, tmp_path / "jsonl", format="jsonl", collection=collection)
    assert (summary.pairs, summary.bad_rows) == (10, 1)


def test_what_a_run_cannot_have_is_a_bad_row(tmp_path, collection):
    pairs = write_run(tmp_path / "first.trec", [*PAIRS, PAIRS[-1]])
    with pairs.open("a") as file:
        file.write("q3 Q0 d1\n")
    assert run(pairs, tmp_path / "run", collection=collection).bad_rows == 2
    reasons = [one["reason"] for one in read_jsonl(tmp_path / "run/_bad-rows.jsonl")]
    assert "a document was there before for the query" in reasons[0]
    assert "expected six fields" in reasons[1]
    rows = [
        {"id": "good", "query": "q", "documents": ["a", "b"]},
        {"id": "a b", "query": "q", "documents": ["a"]},
        {
            "id": "c",
            "query": "q",
            "documents": [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}],
        },
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    summary = run(path, tmp_path / "rows", format="trec")
    assert (summary.pairs, summary.bad_rows) == (2, 2)
    [part] = parts(tmp_path / "rows")
    assert {line.split()[2] for line in part.read_text().splitlines()} == {"0", "1"}


# What is there already


def test_an_empty_input_is_a_complete_job_of_one_empty_shard(tmp_path):
    for name, content in (("empty", ""), ("blank", "\n  \n")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(content)
        assert run(path, tmp_path / name) == Summary(0, 1, 0, 1)
        assert [part.read_bytes() for part in parts(tmp_path / name)] == [b""]
        assert read_job(tmp_path / name).is_complete
        assert run(path, tmp_path / name) == Summary(0, 1, 0, 0)


def test_bad_rows_beyond_the_limit_stop_the_job_which_goes_on_with_a_higher_one(tmp_path):
    rows = [row if n % 5 else {"id": n} for n, row in enumerate(ROWS)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    run(path, tmp_path / "whole", max_bad_rows=4)
    for limit in (0, 2, 2):
        with pytest.raises(BatchError, match=r"row 1 of rows\.jsonl: Object missing") as caught:
            run(path, tmp_path / "out", max_bad_rows=limit)
    assert "bad rows: 3, and the limit (--max-bad-rows) is 2; " in str(caught.value)
    named = [read_jsonl(each)[0]["row"] for each in sorted((tmp_path / "out").glob("_bad-*"))]
    assert named == [1, 6, 11]
    summary = run(path, tmp_path / "out", max_bad_rows=4)
    assert summary.bad_rows == 4
    assert summary.scored_shards < summary.shards
    assert summary.pairs == sum(len(row["documents"]) for row in rows if "documents" in row)
    again = run(path, tmp_path / "out")
    assert (again.pairs, again.bad_rows, again.scored_shards) == (summary.pairs, 4, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_job_goes_on_only_as_it_was_begun_and_says_what_differs(tmp_path, collection):
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, {"id": "bad"}])
    output = tmp_path / "out"
    with pytest.raises(BatchError, match="bad rows: 1, and the limit"):
        run(path, output, max_bad_rows=0)
    before = contents(output)
    other = json.loads(json.dumps(ROWS))
    other[3]["query"] = "another query"
    changes = {
        "--shard-pairs was 5 and is 6 now": {"shard_pairs": 6},
        "--format was jsonl and is trec now": {"format": "trec"},
        "--max-length was 256 and is 128 now": {"scorer": replaced(max_length=128)},
        "the sha256 of --model was aaaaaaaaaaaa… and is bbbbbbbbbbbb… now": {
            "scorer": replaced(bundle="b" * 64)
        },
        "--kernels was stock and is avx2 now; --threads was 1 and is any number now": {
            "scorer": replaced(kernels="avx2", threads=None)
        },
        "--instruction was not given and is Find books. now; --normalize was not given and is given"
        " now": {"scorer": replaced(asking=Asking("Find books.", normalize=True))},
        "the version of edgerank was 0.1.0 and is 0.2.0 now": {
            "scorer": replaced(edgerank="0.2.0")
        },
    }
    for message, options in changes.items():
        with pytest.raises(BatchError, match="it has another job: ") as caught:
            run(path, output, **options)
        assert f"another job: {message}; give what was given then to go on" in str(caught.value)
        assert "--restart" in str(caught.value)
    changed = write_jsonl(tmp_path / "other.jsonl", other)
    with pytest.raises(
        BatchError,
        match=r"file 1 of INPUT was rows\.jsonl \(sha256 \w{12}…\) and is other\.jsonl \(sha256",
    ):
        run(changed, output)
    assert contents(output) == before
    run(changed, output, restart=True, max_bad_rows=0)
    assert results_of(output)[3]["query"] == "another query"
    assert not list(output.glob("_bad*"))


def replaced(**changes: object) -> Scorer:
    return msgspec.structs.replace(SCORER, **changes)


def test_whatever_a_job_is_bound_to_is_named_when_it_differs():
    file = InputFile("rows.jsonl", 1, "a" * 64)
    job = Job(1, "pairs", "jsonl", (file,), file, file, SCORER, "jsonl", False, 5)
    other = msgspec.structs.replace(file, sha256="b" * 64)
    jobs = [
        *(msgspec.structs.replace(job, **{name: other}) for name in ("corpus", "queries")),
        *(msgspec.structs.replace(job, inputs=files) for files in ((other,), (file, other), ())),
        *(msgspec.structs.replace(job, **{n: "parquet"}) for n in ("input_format", "format")),
        msgspec.structs.replace(job, integer_ids=True),
        msgspec.structs.replace(job, shard_pairs=6),
        *(
            msgspec.structs.replace(job, scorer=replaced(**{name: f"another {name}"}))
            for name in Scorer.__struct_fields__
            if name != "asking"
        ),
        *(
            msgspec.structs.replace(job, scorer=replaced(asking=Asking(**{name: "given"})))
            for name in Asking.__struct_fields__
        ),
    ]
    # of the kind and what is there once a job is complete nothing is said: see the corpus
    bound = {*Job.__struct_fields__} - {"format_version", "kind", "shards", "is_complete"}
    bound -= {"scored_pairs", "bad_rows"}
    assert {n for one in jobs for n in bound if getattr(one, n) != getattr(job, n)} == bound
    for one in jobs:
        [(name, old, new)] = differences(job_settings(job), job_settings(one))
        assert name and old != new
    assert not list(differences(job_settings(job), job_settings(job)))


def test_a_job_of_which_nothing_is_done_may_be_begun_otherwise(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with begin(find_source(path), tmp_path / "out", SCORER, format="jsonl", shard_pairs=3):
        pass
    assert run(path, tmp_path / "out", shard_pairs=7).pairs == sum(n % 4 for n in range(20))
    assert read_job(tmp_path / "out").shard_pairs == 7


def test_a_shard_that_was_removed_from_a_complete_job_is_missed(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    run(path, tmp_path / "out")
    (tmp_path / "out/part-00002.jsonl").unlink()
    with pytest.raises(BatchError, match=r"it is complete, but part-00002\.jsonl is missing"):
        run(path, tmp_path / "out")
    assert run(path, tmp_path / "out", restart=True).scored_shards > 2


def test_the_same_input_under_another_path_is_the_same_input(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    run(path, tmp_path / "out")
    (tmp_path / "copy").mkdir()
    copy = write_jsonl(tmp_path / "copy/rows.jsonl", ROWS)
    assert run(copy, tmp_path / "out").scored_shards == 0


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    output = tmp_path / "out"
    output.mkdir()
    for name in ("part-00000.jsonl", "letters.txt"):
        (output / name).write_text("somebody's")
        for restart in (False, True):
            with pytest.raises(BatchError, match="and no job; choose another output"):
                run(path, output, restart=restart)
        assert (output / name).read_text() == "somebody's"
        (output / name).unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a job"),
        (b'{"format_version": 99}', "a job of format 99"),
        (b'{"format_version": 1}', "not a job"),
    ],
)
def test_a_job_that_cannot_be_read_is_refused(tmp_path, content, message):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_job.json").write_bytes(content)
    with pytest.raises(BatchError, match=message):
        run(path, tmp_path / "out")


def test_there_is_one_process_at_a_time(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "out").mkdir()
    with (
        writing(tmp_path / "out/_lock", BatchError),
        pytest.raises(BatchError, match="another process is writing to it"),
    ):
        run(path, tmp_path / "out")
    run(path, tmp_path / "out")


def test_an_input_that_is_changed_meanwhile_ends_the_job(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with begin(find_source(path), tmp_path / "out", SCORER, format="jsonl", shard_pairs=5) as begun:
        results = hashed_results(begun)
        begun.output.commit(next(results))
        with path.open("a") as file:
            file.write("\n")
        with pytest.raises(BatchError, match="it was changed while it was read"):
            keep(begun, results, 0)
    assert len(parts(tmp_path / "out")) == 1


# Input that was hashed before


@pytest.fixture
def hashed_files(monkeypatch) -> list[str]:
    """The names of files in the order in which they are hashed; they count as old enough."""
    names: list[str] = []
    original = digests._sha256_of

    def noting(path, bar):
        names.append(path.name)
        return original(path, bar)

    monkeypatch.setattr(digests, "_sha256_of", noting)
    monkeypatch.setattr(digests, "SETTLED_S", -60.0)
    return names


ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs the time of a change")


@ON_POSIX
def test_input_is_hashed_once_and_what_was_changed_once_more(tmp_path, collection, hashed_files):
    directory = tmp_path / "rows"
    directory.mkdir()
    for number in range(3):
        records = [{"query_id": query, "document_id": document} for query, document in PAIRS]
        write_jsonl(directory / f"{number}.jsonl", records[number:])
    output = tmp_path / "out"
    options = {"collection": collection, "max_bad_rows": 0}
    run(directory, output, **options)
    everything = ["0.jsonl", "1.jsonl", "2.jsonl", "corpus.jsonl", "queries.jsonl"]
    assert sorted(hashed_files) == everything
    for change, wanted in (
        (lambda: None, []),
        ((directory / "1.jsonl").touch, ["1.jsonl"]),
        (lambda: (directory / "2.jsonl").chmod(0o600), ["2.jsonl"]),
        (lambda: shutil.copyfile(*_aside(directory / "0.jsonl")), ["0.jsonl"]),
        (lambda: (output / "_input.json").write_bytes(b"no\xff"), everything),
        ((output / "_input.json").unlink, everything),
        (lambda: None, []),
    ):
        change()
        hashed_files.clear()
        assert run(directory, output, **options).scored_shards == 0
        assert sorted(hashed_files) == wanted
    hashed_files.clear()
    run(directory, output, restart=True, **options)
    assert sorted(hashed_files) == everything


def _aside(path: Path) -> tuple[Path, Path]:
    """Rename a file; its new and its former path."""
    return path.rename(path.with_name(f"_{path.name}")), path


@ON_POSIX
@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_input_that_was_changed_with_its_size_and_its_time_kept_is_noticed(
    tmp_path, hashed_files, how
):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    run(path, tmp_path / "out")
    assert run(path, tmp_path / "out").scored_shards == 0
    before = path.stat()
    time.sleep(0.05)  # the times of files tell ticks of the clock apart
    other = path.read_text().replace("query 3", "query 4")
    if how == "in place":
        path.write_text(other)
    else:
        (tmp_path / "other").write_text(other)
        (tmp_path / "other").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BatchError, match=r"file 1 of INPUT was rows\.jsonl"):
        run(path, tmp_path / "out")


def test_the_time_of_a_file_that_was_just_written_proves_nothing(
    tmp_path, hashed_files, monkeypatch
):
    monkeypatch.setattr(digests, "SETTLED_S", 2.0)
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    os.utime(path, (0, 0))  # as a copy has that keeps the time of its original
    for _ in range(2):
        run(path, tmp_path / "out")
    assert hashed_files == ["rows.jsonl"] * 2
    monkeypatch.setattr(digests, "HAS_TIME_OF_CHANGE", False)
    monkeypatch.setattr(digests, "SETTLED_S", -60.0)
    for _ in range(2):
        run(path, tmp_path / "out")
    assert hashed_files == ["rows.jsonl"] * 4


def test_hashing_shows_how_far_it_is(tmp_path, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    size = path.stat().st_size
    digests.hash_files([path], {}, show_progress=True)
    assert f"{size / 1000:.2f}k/{size / 1000:.2f}k" in capsys.readouterr().err
    digests.hash_files([path], {}, show_progress=False)
    known = {digests.stamp_of(path): "a" * 64}
    assert digests.hash_files([path], known, show_progress=True)[path].digest.sha256 == "a" * 64
    assert capsys.readouterr().err == ""


def test_planning_shows_each_shard_and_ends_at_the_size_of_the_input(tmp_path, bars):
    directory = tmp_path / "in"
    directory.mkdir()
    first = write_jsonl(directory / "a.jsonl", ROWS)
    second = directory / "b.jsonl"
    second.write_text(f"\n{json.dumps(ROWS[1])}\n\n \n")  # the end of its last row is not its own
    run(directory, tmp_path / "out", show_progress=True)
    assert list(bars) == ["compare input", "plan shards"]
    shown = bars["plan shards"]
    size = first.stat().st_size
    assert shown == sorted(shown)
    assert shown[-1] == size + second.stat().st_size
    shards = read_job(tmp_path / "out").shards
    assert shown[:-1] == [shard.end + size * shard.file for shard in shards]
    assert len(shards) > 3


def test_indexing_shows_each_text_and_a_job_that_goes_on_does_it_no_more(
    tmp_path, collection, bars
):
    path = write_run(tmp_path / "first.trec")
    options = {"collection": collection, "shard_pairs": 3, "show_progress": True}
    run(path, tmp_path / "out", **options)
    lines = [
        len(line)
        for name in ("queries.jsonl", "corpus.jsonl")
        for line in (collection / name).read_bytes().splitlines(keepends=True)
    ]
    assert list(bars) == ["compare input", "index texts", "plan shards"]
    assert bars["index texts"] == list(accumulate(lines))
    assert bars["plan shards"][-1] == path.stat().st_size
    bars.clear()
    run(path, tmp_path / "out", **options)
    assert list(bars) == ["compare input"]


def test_no_bar_is_drawn_unless_it_is_asked_for(tmp_path, collection, bars, capsys):
    path = write_run(tmp_path / "first.trec")
    run(path, tmp_path / "out", collection=collection)
    assert bars == {}
    assert capsys.readouterr().err == ""


# Kills


OPERATIONS = (
    (os, "fsync"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "open"),
)  # that a process is killed before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["rows", "pairs", "restart"])
def test_a_job_that_is_killed_anywhere_goes_on_to_the_same_bytes(
    kind, tmp_path, collection, hashed_files
):
    """At each of its operations on files; shards that were done then are not done again."""
    options: dict[str, object] = {"shard_pairs": 8}
    if kind == "pairs":
        path = write_run(tmp_path / "first.trec", [*PAIRS[:5], ("q9", "d1"), *PAIRS[5:]])
        options = {"shard_pairs": 3, "collection": collection}
    else:
        path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:9], {"id": "bad"}, *ROWS[9:]])
    run(path, tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")
    if kind == "restart":
        options["restart"] = True
    done = set()
    for step in range(1, 1000):
        output = tmp_path / f"{step}"
        if kind == "restart":
            run(path, output, shard_pairs=5)
        if not in_a_process_killed_at(step, lambda: run(path, output, **options), OPERATIONS):  # noqa: B023
            break
        before = {part: part.stat() for part in parts(output)}
        done.add(len(before))
        run(path, output, **options)
        assert contents(output) == whole
        if kind != "restart":
            for part, status in before.items():
                after = part.stat()
                assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert step > 15
    assert len(done) > 3
    assert contents(output) == whole  # of the last one, which was not killed
