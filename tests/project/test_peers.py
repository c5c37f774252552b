"""The peers' benchmark: its processes, its figures and its report, with a peer made for tests."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.engine import LAYER_WEIGHTS, bare_operations
from benchmarks.peers import measure, processes, report, results, scaling
from benchmarks.peers.__main__ import main as peers_main
from benchmarks.peers.catalogue import BASELINE, PEERS, REFERENCES, Environment
from benchmarks.peers.processes import PeerError, Worker, convert
from benchmarks.peers.workloads import DOCUMENT_TOKENS, Job, Texts, draw_texts, workloads
from tests.support import ROOT
from tests.support.checkpoints import wordpiece_tokenizer

GO = {"query": "go", "documents": ["a", "bbb", "cc"]}
PYTHON = Path(sys.executable)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of workers with nothing but the one made for tests; work goes beside it."""
    workers = tmp_path / "workers"
    workers.mkdir()
    shutil.copyfile(ROOT / "benchmarks/peers/workers/worker.py", workers / "worker.py")
    shutil.copyfile(ROOT / "tests/support/fake_peer.py", workers / "fake_peer.py")
    monkeypatch.setattr(processes, "WORKERS", workers)
    return tmp_path


def started(fake: Path, setting: str) -> Worker:
    work = fake / "work"
    convert(PYTHON, "fake_peer", fake, setting, work)
    return Worker(PYTHON, "fake_peer", fake, setting, work, threads=1)


def test_a_worker_scores_and_tells_what_it_took(fake):
    worker = started(fake, "fine")
    try:
        answer = worker.score([GO, {"query": "q", "documents": ["dddd"]}])
        assert answer.scores == [[1, 3, 2], [4]]
        assert 0.02 <= answer.seconds < worker.start_s + 60
        assert worker.ready.versions == {"pytest": pytest.__version__}
        assert worker.ready.model_bytes == len("fine")
        assert 5e6 < worker.peak_bytes() < 1e9
        # it is stopped between its turns, and goes on when it is asked again
        os.waitid(os.P_PID, worker._process.pid, os.WSTOPPED | os.WNOWAIT)
        assert worker.score([GO]).scores == [[1, 3, 2]]
    finally:
        worker.close()


def test_what_cannot_run_says_why_and_leaves_nothing_that_looks_converted(fake):
    with pytest.raises(PeerError, match=r"^no model of this kind$"):
        started(fake, "unable")
    assert not (fake / "work/.converted").exists()


def test_a_crash_while_loading_is_told(fake):
    with pytest.raises(PeerError, match="exit status 1: RuntimeError: the file is damaged"):
        started(fake, "crash at load")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("crash at work", "exit status 9: out of memory"),
        ("error", "ValueError: too long"),
        ("short", "one score a document"),
    ],
)
def test_what_goes_wrong_at_work_is_told(fake, setting, message):
    worker = started(fake, setting)
    try:
        with pytest.raises(PeerError, match=message):
            worker.score([GO])
    finally:
        worker.close()


def test_who_does_not_answer_is_ended(fake, monkeypatch):
    worker = started(fake, "hang")
    monkeypatch.setattr(processes, "TIMEOUT_S", 0.2)
    try:
        with pytest.raises(PeerError, match="no answer within"):
            worker.score([GO])
        assert worker._process.wait() == -signal.SIGKILL
    finally:
        worker.close()


def test_a_model_is_converted_once(fake):
    convert(PYTHON, "fake_peer", fake, "fine", fake / "work")
    (fake / "work/converted").write_text("kept")
    convert(PYTHON, "fake_peer", fake, "fine", fake / "work")
    assert (fake / "work/converted").read_text() == "kept"


def test_an_environment_that_cannot_be_made_is_told(tmp_path):
    with pytest.raises(PeerError, match=r"^its environment: ERROR: .*no/such/directory"):
        processes.make_environment(tmp_path, Environment("bad", ("./no/such/directory",)))


def test_an_environment_is_made_anew_when_what_its_files_want_has_changed(tmp_path):
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("# nothing\n")
    environment = Environment("empty", (f"-r {wanted}",))
    python = processes.make_environment(tmp_path, environment)
    assert python.exists()
    kept = tmp_path / "empty/kept"
    kept.touch()
    processes.make_environment(tmp_path, environment)
    assert kept.exists()
    wanted.write_text("# nothing else\n")
    processes.make_environment(tmp_path, environment)
    assert python.exists()
    assert not kept.exists()


def timing(seconds: list[float], scores: list[list[float]] | None = None) -> results.Timing:
    return results.Timing([[value] for value in seconds], scores or [[0.0]])


def test_the_first_round_counts_only_where_there_are_few():
    assert results.kept_seconds(timing([9, 1, 2])) == {1: 1, 2: 2}
    assert results.kept_seconds(timing([9, 1])) == {0: 9, 1: 1}


def test_ratios_are_of_the_same_rounds():
    slow = results.ratios(timing([100, 4, 30]), timing([1, 2, 10, 1000]))
    assert (slow.low, slow.median, slow.high, slow.samples) == (2.25, 2.5, 2.75, 2)


def test_agreement_is_of_each_query_apart():
    reference = [[1.0, 2.0, 3.0], [30.0, 20.0, 10.0], [5.0]]
    same = results.agreement(reference, reference)
    assert (same.max_error, same.kendall_tau) == (0, 1)
    swapped = results.agreement([[1.0, 3.5, 3.0], [30.0, 20.0, 10.0], [5.0]], reference)
    assert swapped.max_error == 1.5
    assert swapped.kendall_tau == pytest.approx((1 / 3 + 1) / 2)
    assert swapped.spread == pytest.approx(np.std([1, 2, 3, 30, 20, 10, 5]))
    assert math.isnan(results.agreement([[1.0]], [[2.0]]).kendall_tau)


def test_price_of_a_thousand_documents():
    # 3600 documents an hour at 0.72 an hour: 0.0002 each
    assert results.usd_per_thousand(1.0, 0.72) == pytest.approx(0.2)


def test_operations_are_those_of_the_engine_benchmark():
    large = next(workload for workload in workloads(28) if workload.name == "A").geometry
    assert sum(depth * width for depth, width in large.matrices.values()) == LAYER_WEIGHTS
    assert bare_operations(large.matrices) == bare_operations()
    # one token more: all layers but the last, and the last one's keys and values
    more = large.operations(101, 4) - large.operations(100, 4)
    assert more == 2 * (27 * LAYER_WEIGHTS + 1536 * 512)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return draw_texts(None, wordpiece_tokenizer())


def test_generated_texts_have_the_wanted_lengths(texts):
    tokenizer = texts.tokenizer
    lengths = [
        len(e.ids) for e in tokenizer.encode_batch(texts.documents, add_special_tokens=False)
    ]
    assert min(lengths) >= DOCUMENT_TOKENS[0]
    assert max(lengths) <= DOCUMENT_TOKENS[1]
    assert texts.request(3, 0)["documents"] != texts.request(3, 1)["documents"]
    long = tokenizer.encode(texts.of_length(4000), add_special_tokens=False)
    assert abs(len(long.ids) - 4000) <= 1  # a word that was cut may become other tokens


def test_the_catalogue_has_a_worker_for_each_peer_and_what_others_are_compared_with():
    names = {(peer.name, setting.name) for peer in PEERS for setting in peer.settings}
    assert {BASELINE, *REFERENCES.values()} <= names
    for peer in PEERS:
        assert (processes.WORKERS / f"{peer.script}.py").exists()
        families = [set(setting.families) for setting in peer.settings]
        assert peer.absent or all(f == set(REFERENCES) for f in families), peer.name


def recorded() -> results.Results:
    """A run that was never made, with round figures."""
    job = results.Job(
        "1 x 4",
        queries=1,
        documents=4,
        tokens=400,
        operations=4e9,
        bare_rates=[1e12, 8e9, 4e9, 8e9],
    )
    reference = [[4.0, 3.0, 2.0, 1.0]]
    systems = [
        results.System("edgerank", "int8", "", jobs={job.name: timing([9, 1, 1, 1], reference)}),
        results.System(
            "torch",
            "fp32",
            "its default",
            versions={"torch": "2"},
            peak_bytes=int(2e9),
            jobs={job.name: timing([9, 2, 4, 6], reference)},
        ),
        results.System("absent", "q8", "", reasons={"1 x 4": "no compiler"}),
    ]
    workload = results.Workload(
        "A", "some model", 2, 28, "random", "cisi", "torch fp32", "edgerank int8", [job], systems,
    )  # fmt: skip
    return results.Results({"CPU": "a|b"}, 2, [workload])


def test_a_report_follows_from_recorded_results(tmp_path):
    run = msgspec.json.decode(msgspec.json.encode(recorded()), type=results.Results)
    text = report.markdown(run, usd_per_hour=0.36)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    speed = next(row for row in rows if row[:1] == ["torch fp32"])
    assert speed == ["torch fp32", "4 (3-5)", "1 (0.8-1.33)", "100", "5 / 8.55", "25%", "0", "1.0000", "3"]  # fmt: skip  # noqa: E501
    assert ["absent q8", "1 x 4", "no compiler"] in rows
    assert ["torch fp32", "0.10000", "12.50"] in rows
    assert "2 layers of the real 28" in text
    assert "a\\|b" in text
    report.plot(run, tmp_path)
    assert (tmp_path / "workload-A.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "Z"], "invalid choice: 'Z'"),
        (["--peers", "openvino", "nonsense"], "--peers: no nonsense; there are edgerank/int4"),
        (["--report"], "results.json is not there"),
        (["--workloads", "C", "--collection", "no-such"], "--collection: no-such/"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    tmp_path, monkeypatch, capsys, arguments, message
):
    places = ["--output", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["peers", *places, *arguments])
    with pytest.raises(SystemExit, match="2"):
        peers_main()
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_scaling_report_has_a_table_and_a_plot_for_each_axis(tmp_path):
    def curve(axis: str, threads: int) -> scaling.Curve:
        return scaling.Curve(axis, "documents", "C", 6, "some", threads, [1, 10], [[2, 4, 6], [9]])

    run = scaling.Scaling(
        {}, [curve("documents", 1), curve("callers", 1), curve("documents", 2)], {}
    )
    scaling.write(run, tmp_path)
    text = (tmp_path / "scaling.md").read_text()
    assert "| some | 1 | 4 | 9 |\n| some | 2 | 4 | 9 |" in text
    plots = {"scaling-C-documents.png", "scaling-C-callers.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == plots
    assert all(name in text for name in plots)


def test_scaling_asks_for_what_its_axes_say(texts):
    tokenizer = texts.tokenizer
    for axis in scaling.AXES:
        points = axis.points(texts)
        assert [point.x for point in points] == sorted({point.x for point in points})
        for point in points:
            documents = [text for request in point.line for text in request["documents"]]
            if axis.unit == "documents":
                assert point.amount == len(documents)
                continue
            lengths = [len(tokenizer.encode(t, add_special_tokens=False).ids) for t in documents]
            assert abs(sum(lengths) - point.amount) <= len(documents)


def test_a_system_that_fails_at_one_job_still_does_the_others(fake, monkeypatch):
    convert(PYTHON, "fake_peer", fake, "error", fake / "work")
    facts = results.System("fake", "error", "")

    def start() -> Worker:
        return Worker(PYTHON, "fake_peer", fake, "error", fake / "work", threads=1)

    fine = {"query": "q", "documents": ["a", "bb"]}
    jobs = [Job("bad", (({**GO, "documents": ["a"] * 20},),)), Job("good", ((fine,),))]
    monkeypatch.setattr(measure, "bare", lambda *_: lambda: time.sleep(0.3))
    monkeypatch.setattr(measure, "cut", lambda request: {**request, "query": "warm-up"})
    entry = measure.Entry(start, facts)
    absent = measure.Entry(start, results.System("absent", "", "", {results.EVERYTHING: "no hub"}))
    options = measure.Options(1, 2, 60, 60, False, fake, fake, None)
    rates = measure.run_rounds(workloads(2)[0], [entry, absent], jobs, options)
    assert {name: len(values) for name, values in rates.items()} == {"bad": 2, "good": 2}
    measured = measure.finished(entry)
    assert measured.reasons == {"bad": "ValueError: too long"}
    assert {name: len(job.seconds) for name, job in measured.jobs.items()} == {"good": 2}
    assert measured.jobs["good"].scores == [[1, 2]]
    assert measured.peak_bytes > 5e6
    assert measure.finished(absent).jobs == {}
