"""Batch jobs with models and processes: their scores, kills, full disks, the command line."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgerank import BatchError, EdgerankError, InputError, Reranker
from edgerank.batch import Summary, parquet, run, run_batch, scoring
from edgerank.batch.job import Asking, BadRow, Row, Shard
from edgerank.evaluation import read_run
from tests.support import ROOT
from tests.support.batch import (
    PAIRS,
    QUERIES,
    by_pair,
    contents,
    parts,
    read_jsonl,
    results_of,
    text_of,
    write_collection,
    write_jsonl,
    write_run,
)
from tests.support.cli import environment, fail, succeed

WORDS = ("query", "documents", "relevance", "Paris", "Dune", "written", "1965", "sand", "a", "of")
NUM_ROWS = 24
TOLERANCE = 1e-3  # of stock operators, whose sums depend on the size of a micro-batch


def make_rows(count: int = NUM_ROWS) -> list[dict[str, Any]]:
    """Queries with up to eight documents of up to sixty words."""
    rng = random.Random(1)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))

    return [
        {
            "id": f"r{n}",
            "query": f"who wrote {WORDS[n % len(WORDS)]}?",
            "documents": [text() for _ in range(rng.randint(0, 8))],
        }
        for n in range(count)
    ]


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", make_rows())


# Scores


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding"])
def test_scores_are_those_of_a_reranker(bundles, rows, tmp_path, name, processes):
    bundle = bundles / f"{name}.int8"
    done = run_batch(rows, tmp_path / "out", bundle=bundle, processes=processes, shard_pairs=20)
    wanted = make_rows()
    assert done.pairs == sum(len(row["documents"]) for row in wanted)
    assert done.scored_shards == done.shards > 3
    found = results_of(tmp_path / "out")
    assert [(one["id"], one["query"]) for one in found] == [(r["id"], r["query"]) for r in wanted]
    with Reranker(bundle) as reranker:
        scores = [reranker.score(row["query"], row["documents"]) for row in wanted]
        is_exact = reranker.kernels.are_compiled and name != "embedding"
    for one, own in zip(found, scores, strict=True):
        if is_exact:
            assert np.array(one["scores"], np.float32).tobytes() == own.tobytes()
        else:
            np.testing.assert_allclose(one["scores"], own, atol=TOLERANCE)
    assert np.ptp(np.concatenate(scores)) > 20 * TOLERANCE  # the documents do differ


def test_options_of_scoring_are_those_of_a_reranker(bundles, tmp_path):
    bundle = bundles / "qwen2.int8"
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(4))
    options = {"instruction": "Find books.", "normalize": True, "long_documents": "split"}
    run_batch(path, tmp_path / "out", bundle=bundle, max_length=64, **options)
    with Reranker(bundle, max_length=64) as reranker:
        for one, row in zip(results_of(tmp_path / "out"), make_rows(4), strict=True):
            own = reranker.score(row["query"], row["documents"], **options)
            np.testing.assert_allclose(one["scores"], own, atol=TOLERANCE)
    with pytest.raises(InputError, match="instruction: this model's family takes none"):
        run_batch(path, tmp_path / "o", bundle=bundles / "cross-encoder.int8", instruction="Find.")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("output", ["jsonl", "parquet", "trec"])
@pytest.mark.parametrize("input", ["jsonl", "parquet", "trec"])
def test_pairs_of_ids_have_the_same_scores_in_every_format(tmp_path, input, output):
    collection = write_collection(tmp_path / "collection")
    records = [{"query_id": query, "document_id": document} for query, document in PAIRS]
    path = tmp_path / f"pairs.{input}"
    if input == "trec":
        write_run(path)
    elif input == "jsonl":
        write_jsonl(path, records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=4)
    run_batch(path, tmp_path / "out", collection=collection, format=output, shard_pairs=3)
    with Reranker() as reranker:
        own = reranker.score_pairs([(QUERIES[q], text_of(d)) for q, d in PAIRS])
    wanted = dict(zip(PAIRS, own.tolist(), strict=True))
    assert len(parts(tmp_path / "out")) == 3
    if output == "trec":
        whole = tmp_path / "whole.trec"
        whole.write_bytes(b"".join(part.read_bytes() for part in parts(tmp_path / "out")))
        found = {(q, d): score for q, docs in read_run(whole).items() for d, score in docs.items()}
    elif output == "parquet":
        found = by_pair(pq.read_table(tmp_path / "out").to_pylist())
    else:
        found = by_pair(results_of(tmp_path / "out"))
    assert found.keys() == wanted.keys()
    for pair, score in wanted.items():
        assert found[pair] == pytest.approx(score, abs=TOLERANCE)


@pytest.mark.parametrize("output", ["jsonl", "parquet", "trec"])
@pytest.mark.parametrize("input", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", ["strings", "numbers", "none"])
def test_rows_with_texts_have_the_same_scores_in_every_format(tmp_path, input, output, names):
    records = make_rows(9)
    for number, record in enumerate(records):
        if names == "none":
            del record["id"]
        elif names == "numbers":
            record["id"] = 100 + number
    ids = [record.get("id", number) for number, record in enumerate(records, 1)]
    path = tmp_path / f"rows.{input}"
    if input == "jsonl":
        write_jsonl(path, records)
    else:
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=2)
    run_batch(path, tmp_path / "out", format=output, shard_pairs=7)
    with Reranker() as reranker:
        wanted = [reranker.score(r["query"], r["documents"]).tolist() for r in records]
    if output == "trec":
        whole = tmp_path / "whole.trec"
        whole.write_bytes(b"".join(part.read_bytes() for part in parts(tmp_path / "out")))
        run = read_run(whole)
        found = [
            [run[str(name)][str(n)] for n in range(len(run.get(str(name), {})))]
            if str(name) in run
            else []
            for name in ids
        ]
    elif output == "parquet":
        table = pq.read_table(tmp_path / "out")
        found = table["scores"].to_pylist()
        kept = input == "parquet" and names != "strings"
        assert table["id"].to_pylist() == (ids if kept else list(map(str, ids)))
    else:
        results = results_of(tmp_path / "out")
        found = [one["scores"] for one in results]
        assert [one["id"] for one in results] == ids
    assert len(found) == len(wanted)
    for scores, own in zip(found, wanted, strict=True):
        assert scores == pytest.approx(own, abs=TOLERANCE)


def test_documents_that_are_refused_are_bad_rows_and_the_others_are_scored(tmp_path):
    long = "sand " * 400
    records = [
        {"id": "short", "query": "q", "documents": ["a b", "c"]},
        {"id": "long", "query": "q", "documents": ["a b", long]},
        {"id": "last", "query": "q", "documents": ["c"]},
        {"id": "longer", "query": "q", "documents": [long * 2]},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", records)
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "tqdm", lambda **options: _Bar(options["total"], told))
        assert run_batch(path, tmp_path / "out", long_documents="refuse") == Summary(3, 1, 2, 1)
    assert sum(told[1:]) == told[0] == 6  # the bar goes to its end
    assert [one["id"] for one in results_of(tmp_path / "out")] == ["short", "last"]
    bad = read_jsonl(tmp_path / "out/_bad-rows.jsonl")
    assert [(one["row"], one["id"]) for one in bad] == [(2, "long"), (4, "longer")]
    assert bad[0]["reason"].startswith("documents[1]: it has 400 tokens and")


class _Bar:
    """A progress bar that notes its total, and then what it is told."""

    def __init__(self, total: int, told: list[int]) -> None:
        told.append(total)
        self.update = told.append

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("name", ["cross-encoder", "embedding"])
def test_neither_shards_nor_windows_nor_processes_change_scores(
    bundles, rows, tmp_path, name, monkeypatch
):
    bundle = bundles / f"{name}.int8"
    run_batch(rows, tmp_path / "one", bundle=bundle, shard_pairs=1000)
    run_batch(rows, tmp_path / "many", bundle=bundle, shard_pairs=10, processes=2)
    monkeypatch.setattr(scoring, "WINDOW_PAIRS", 9)
    run_batch(rows, tmp_path / "windows", bundle=bundle, shard_pairs=40)
    assert 1 < len(parts(tmp_path / "windows")) < len(parts(tmp_path / "many"))
    one, *others = (results_of(tmp_path / name) for name in ("one", "many", "windows"))
    with Reranker(bundle) as reranker:
        is_exact = reranker.kernels.are_compiled and name != "embedding"
    for other in others:
        if is_exact:
            assert other == one
        for ours, theirs in zip(one, other, strict=True):
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=TOLERANCE)


@pytest.mark.parametrize("name", ["qwen2", "embedding"])
def test_a_job_may_go_on_with_other_processes_and_threads_and_has_the_same_bytes(
    bundles, rows, tmp_path, name
):
    bundle = bundles / f"{name}.int8"
    with Reranker(bundle) as reranker:
        if not reranker.kernels.are_compiled:
            pytest.skip("stock operators bind a job to its threads")
    whole, output = tmp_path / "whole", tmp_path / "out"
    run_batch(rows, whole, bundle=bundle, shard_pairs=20, threads=1)
    write_jsonl(rows, [*make_rows(), {"id": "bad"}])
    with pytest.raises(BatchError, match="bad rows: 1"):
        run_batch(rows, output, bundle=bundle, shard_pairs=20, threads=3, max_bad_rows=0)
    for part in parts(output)[1::2]:
        part.unlink()
    run_batch(rows, output, bundle=bundle, shard_pairs=20, threads=2, processes=2)
    assert [part.read_bytes() for part in parts(output)] == [
        part.read_bytes() for part in parts(whole)
    ]


def test_rows_are_scored_by_the_window_and_each_pair_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "WINDOW_PAIRS", 6)
    given: list[Row | BadRow] = [
        Row(n, n, f"query {n}", tuple("abc"[: n % 4]), tuple("012"[: n % 4])) for n in range(20)
    ]
    given.insert(7, BadRow("rows", 99, None, "bad"))
    taken: list[Row | BadRow] = []

    def taking() -> Iterator[Row | BadRow]:
        for row in given:
            taken.append(row)
            yield row

    told: list[int] = []
    with Reranker() as reranker:
        results = scoring.score_rows(reranker, taking(), Asking(), tell=told.append)
        first = next(results)
        assert len(taken) < len(given)  # and not all are held at once
        found = [first, *results]
        assert [one for one in found if isinstance(one, BadRow)] == [given[7]]
        scored = [one for one in found if isinstance(one, scoring.Scored)]
        assert [one.row for one in scored] == [row for row in given if isinstance(row, Row)]
        for one in scored:
            own = reranker.score(one.row.query, one.row.texts)
            np.testing.assert_allclose(one.scores, own, atol=TOLERANCE)
    assert sum(told) == sum(len(one.row.texts) for one in scored)
    assert len(told) > 5


def test_a_score_that_is_no_number_ends_the_job(rows, tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        prepared = original(self, *arguments, **options)
        return prepared.then(lambda scores: scores * np.float32("nan"))

    original = Reranker.prepare
    monkeypatch.setattr(Reranker, "prepare", broken)
    with pytest.raises(EdgerankError, match="row 1: a score is not finite"):
        run_batch(rows, tmp_path / "out")


# Parquet


@pytest.mark.parametrize("group", [1, 3, 100])
def test_shards_of_a_parquet_file_are_read_in_any_order(tmp_path, monkeypatch, group):
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    records = make_rows(40)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=group)
    shards = [Shard(0, start, min(start + 7, 40), start + 1, 0) for start in range(0, 40, 7)]
    order = [*shards, *reversed(shards), shards[3], shards[3], shards[0], shards[5]]
    with parquet.ParquetRows(path, "rows") as opened:
        for shard in order:
            assert [(n, r.id, r.documents) for n, r in opened.read(shard)] == [
                (n + 1, records[n]["id"], records[n]["documents"])
                for n in range(shard.start, shard.end)
            ]
    assert list(parquet.count_pairs(path)) == [len(record["documents"]) for record in records]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"query": ["q"]}, "it has no column documents; it has"),
        ({"query": ["q"], "documents": ["text"]}, "documents must be lists, and are string"),
        (None, "it cannot be read"),
    ],
)
def test_a_parquet_file_that_is_unusable_is_refused_whole(tmp_path, table, message):
    path = tmp_path / "rows.parquet"
    if table is None:
        path.write_bytes(b"no Parquet")
    else:
        pq.write_table(pa.table(table), path)
    with pytest.raises(InputError, match=message):
        run_batch(path, tmp_path / "out")


def test_bad_rows_of_a_parquet_file_are_named_and_empty_files_are_read(tmp_path):
    path = tmp_path / "rows.parquet"
    kind = pa.list_(pa.struct([("id", pa.string()), ("title", pa.string()), ("text", pa.string())]))
    documents = [{"id": "d", "title": None, "text": "sand"}]
    columns = {
        "id": pa.array(["a", "b", "c", "d"]),
        "query": pa.array(["q", None, " ", "q"]),
        "documents": pa.array([documents, documents, documents, None], kind),
    }
    pq.write_table(pa.table(columns), path)
    assert run_batch(path, tmp_path / "out") == Summary(1, 1, 3, 1)
    assert pq.read_table(tmp_path / "out").to_pylist()[0]["id"] == "a"
    bad = read_jsonl(tmp_path / "out/_bad-rows.jsonl")
    assert [(one["row"], one["id"]) for one in bad] == [(2, "b"), (3, "c"), (4, "d")]
    pq.write_table(pa.table(columns).slice(0, 0), path)
    assert run_batch(path, tmp_path / "empty") == Summary(0, 1, 0, 1)
    assert pq.read_table(tmp_path / "empty").num_rows == 0


def test_without_pyarrow_the_extra_is_named_and_jsonl_needs_none(rows, tmp_path):
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from edgerank.cli import main; sys.argv[0] = 'edgerank'; main()"
    )
    for options, status in (([], 0), (["--format", "parquet", "--restart"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, "batch", rows, "-o", tmp_path / "out", *options],
            capture_output=True,
            env=environment(),
        )
        assert done.returncode == status, done.stderr
    assert b"needs pyarrow" in done.stderr
    assert b"pip install 'edgerank[batch]'" in done.stderr


# Kills


def command(path: Path, output: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "edgerank", "batch", str(path), "-o", str(output)),
        *("--shard-pairs", "3", "--threads", "1", *options),
    ]


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not is_so() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    scoring = []
    for child in map(int, found):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            scoring.append(child)
    return scoring


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("format", "processes"), [("jsonl", "1"), ("parquet", "2")])
def test_a_job_killed_at_random_moments_ends_with_the_bytes_of_one_that_was_not(
    tmp_path, format, processes
):
    path = write_jsonl(tmp_path / "rows.jsonl", [*make_rows(120), {"id": "bad"}])
    options = ("--format", format)
    whole, output = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(path, whole, *options), check=True, env=environment())
    wanted = len(parts(whole))
    assert wanted > 100
    rng = random.Random(int(time.time()))
    before: dict[Path, os.stat_result] = {}
    killed = 0
    for _ in range(3):
        aim = len(before) + rng.randint(1, wanted // 5)
        line = command(path, output, *options, "--processes", processes)
        with subprocess.Popen(line, env=environment(), cwd=ROOT) as process:
            wait_until(lambda: len(parts(output)) >= aim, process)  # noqa: B023
            children = children_of(process.pid) if process.poll() is None else []
            time.sleep(rng.uniform(0, 0.05))
            killed += process.poll() is None
            process.kill()
        for child in children:  # those that score end with the one that writes
            wait_until(lambda: not Path(f"/proc/{child}").exists(), process)  # noqa: B023
        for part, status in before.items():
            assert (part.stat().st_ino, part.stat().st_mtime_ns) == (
                status.st_ino,
                status.st_mtime_ns,
            )
        before = {part: part.stat() for part in parts(output)}
    assert killed > 1
    printed = subprocess.run(
        command(path, output, *options), check=True, env=environment(), capture_output=True
    )
    assert f"shards ({len(before)} done before); 1 bad row\n".encode() in printed.stdout
    assert contents(output) == contents(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_scores_and_is_killed_ends_the_job_with_an_error(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(120))
    output = tmp_path / "out"
    line = command(path, output, "--processes", "2")
    with subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_until(lambda: len(parts(output)) > 3, process)
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"a process that scores was killed by signal 9, perhaps because memory ran" in errors
    assert 3 < len(parts(output)) < 100
    subprocess.run(line, check=True, env=environment(), cwd=ROOT, capture_output=True)
    assert len(results_of(output)) == 120


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupted_job_ends_its_processes_without_a_word(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(400))
    output = tmp_path / "out"
    with subprocess.Popen(
        command(path, output, "--processes", "2"),
        env=environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
        # a shell has the commands that it starts in the background ignore interrupts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_until(lambda: len(parts(output)) > 3, process)
        children = children_of(process.pid)
        assert len(children) == 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, b"")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_an_error_in_a_process_is_the_jobs(rows, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(Reranker().bundle.directory, bundle)
    output = tmp_path / "out"

    def break_it() -> None:
        (bundle / "tokenizer.json").write_bytes(b"{" * (bundle / "tokenizer.json").stat().st_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reranker, "close", lambda self: break_it())  # before processes open it
        with pytest.raises(EdgerankError, match="not a fast tokenizer"):
            run_batch(rows, output, bundle=bundle, processes=2, shard_pairs=5)
    assert parts(output) == []


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits")
def test_a_full_disk_is_an_error_that_leaves_no_part_of_a_shard(tmp_path):
    """A limit on the size of files stands in for the disk."""
    records = make_rows(12)
    records.insert(6, {"id": "large", "query": "q", "documents": ["a"] * 500})
    path = write_jsonl(tmp_path / "rows.jsonl", records)
    output = tmp_path / "out"
    line = command(path, output)
    done = subprocess.run(
        line,
        env=environment(),
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    assert done.returncode == 2
    assert b"it cannot be written: File too large; shards that are done stay" in done.stderr
    names = {each.name for each in output.iterdir()}
    assert {"_job.json", "_lock", "part-00000.jsonl"} <= names
    assert not [name for name in names if name.startswith(".")]
    subprocess.run(line, check=True, env=environment(), capture_output=True)
    run_batch(path, tmp_path / "whole", shard_pairs=3, threads=1)
    assert contents(output) == contents(tmp_path / "whole")


# The command line


def test_input_without_a_usable_row_is_an_error_each_time(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "d1", "text": "sand"}\n{"_id": "d2", "text": "spice"}\n')
    for _ in range(2):
        message = fail("batch", path, "-o", tmp_path / "out")
        assert "out: all rows are bad; _bad-rows.jsonl says why" in message
    bad = (tmp_path / "out/_bad-rows.jsonl").read_text().splitlines()
    assert [json.loads(row)["row"] for row in bad] == [1, 2]


def test_the_command_line_says_what_was_done_and_a_second_time_that_it_was(rows, tmp_path):
    output = tmp_path / "out"
    pairs = sum(len(row["documents"]) for row in make_rows())
    assert succeed("batch", rows, "-o", output, "--shard-pairs", "40") == (
        f"{output}: {pairs} pairs scored in {len(parts(output))} shards; 0 bad rows\n"
    )
    assert f"({len(parts(output))} done before); 0 bad rows" in succeed(
        "batch", rows, "-o", output, "--shard-pairs", "40"
    )
    message = fail("batch", rows, "-o", output, "--shard-pairs", "41")
    assert "it has another job: --shard-pairs was 40 and is 41 now; give what was given" in message
    message = fail("batch", rows, "-o", output, "--long-documents", "cut")
    assert "long-documents" in message
    assert "--queries: pairs need" in fail("batch", rows, "-o", output, "--corpus", rows)
    job = json.loads((output / "_job.json").read_bytes())
    assert job["is_complete"]
    assert job["scorer"]["bundle"] == Reranker().bundle.digest


@pytest.mark.parametrize("input", ["parquet", "trec"])
def test_a_terminal_shows_the_passes_over_the_input_before_the_scores(tmp_path, input):
    if input == "trec":
        path = write_run(tmp_path / "first.trec")
        options = ["--collection", write_collection(tmp_path / "collection")]
    else:
        path, options = tmp_path / "rows.parquet", []
        pq.write_table(pa.Table.from_pylist(make_rows(9)), path)
    shown = _shown_on_terminal(
        "batch", path, "-o", tmp_path / "out", "--shard-pairs", "3", *options
    )
    labels = ["compare input", "plan shards", "batch"]
    if input == "trec":
        labels.insert(1, "index texts")
    full = re.findall(r"(?:^|[\r\n])([a-z ]+): 100%", shown)  # a slow bar is drawn full twice
    assert list(dict.fromkeys(full)) == labels
    size = 9 if input == "parquet" else path.stat().st_size
    assert re.search(rf"plan shards: 100%\S* {size}/{size} ", shown)


def _shown_on_terminal(*arguments: str | Path) -> str:
    """Run the command line with its stderr on a terminal, and return what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    command = [sys.executable, "-m", "edgerank", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment()
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's end of a terminal that nobody has open
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def test_the_command_line_counts_one_of_each_as_one_and_no_pair_of_a_bad_row(tmp_path):
    records = [
        {"query": "who wrote dune?", "documents": ["Frank Herbert"]},
        {"query": " ", "documents": ["Paris", "Rome"]},
    ]
    path, output = write_jsonl(tmp_path / "rows.jsonl", records), tmp_path / "out"
    for before in ("", " (1 done before)"):
        assert succeed("batch", path, "-o", output) == (
            f"{output}: 1 pair scored in 1 shard{before}; 1 bad row\n"
        )
    [bad] = read_jsonl(output / "_bad-rows.jsonl")
    assert bad["pairs"] == 2


def test_a_second_process_is_refused_while_one_works(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(120))
    output = tmp_path / "out"
    with subprocess.Popen(
        command(path, output), env=environment(), cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        wait_until(lambda: len(parts(output)) > 0, process)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(BatchError, match="another process is writing to it"):
                run_batch(path, output, shard_pairs=3, threads=1)
        finally:
            process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(results_of(output)) == 120
