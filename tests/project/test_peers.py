"""The peers' benchmarks: processes, figures and plots, with a peer made for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.common.bare import Products
from benchmarks.common.record import Row
from benchmarks.peers import comparison, plots, processes, results, scaling
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
    return results.Timing(np.array(seconds), seconds, scores or [[0.0]])


def test_the_first_round_counts_only_where_there_are_few():
    assert results.counted(np.array([9, 1, 2])).tolist() == [1, 2]
    assert results.counted(np.array([9, 1])).tolist() == [9, 1]


def test_agreement_is_of_each_query_apart():
    reference = [[1.0, 2.0, 3.0], [30.0, 20.0, 10.0], [5.0]]
    same = results.agreement(reference, reference)
    assert (same.max_error, same.kendall_tau) == (0, 1)
    swapped = results.agreement([[1.0, 3.5, 3.0], [30.0, 20.0, 10.0], [5.0]], reference)
    assert swapped.max_error == 1.5
    assert swapped.rms_error == pytest.approx(1.5 / 7**0.5)
    assert swapped.kendall_tau == pytest.approx((1 / 3 + 1) / 2)
    assert results.agreement([[1.0]], [[2.0]]).kendall_tau is None
    assert results.agreement([[1.0, 1.0]], [[2.0, 1.0]]).kendall_tau is None


def test_price_of_a_thousand_documents():
    # 3600 documents an hour at 0.72 an hour: 0.0002 each
    assert results.usd_per_thousand(1.0, 0.72) == pytest.approx(0.2)


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


def outcome() -> results.Outcome:
    """A run that was never made, with round figures."""
    job = results.Asked(
        "1 x 4",
        queries=1,
        documents=4,
        tokens=400,
        operations=4e9,
        bare_rates=[1e12, 8e9, 4e9, 8e9],
    )
    reference = [[4.0, 3.0, 2.0, 1.0]]
    systems = [
        results.System("edgerank", "int8", timings={job.name: timing([9, 1, 1, 1], reference)}),
        results.System(
            "torch",
            "fp32",
            "its default",
            versions={"torch": "2"},
            peak_bytes=int(2e9),
            timings={job.name: timing([9, 2, 4, 6], reference)},
        ),
        results.System("absent", "q8", reasons={"1 x 4": "no compiler"}),
    ]
    return results.Outcome(
        "A", "some model", 2, 28, "random", "cisi", "torch fp32", "edgerank int8", [job], systems
    )


def rows_with(rows: list[Row], label: str) -> list[Row]:
    return [row for row in rows if label in row.labels]


def test_rows_follow_from_what_was_measured():
    rows = list(results.rows(outcome(), usd_per_hour=0.36))
    fastest, torch = (row for row in rows if "documents/s" in row.figures)
    assert fastest.labels["system"] == "edgerank int8"
    assert torch.labels == {
        "workload": "A: some model, 2 of 28 layers",
        "call": "1 x 4",
        "system": "torch fp32",
    }
    shown = {name: str(figure) for name, figure in torch.figures.items()}
    assert shown == {
        "of edgerank's time": "4 (3 to 5)",
        "documents/s": "1 (0.833 to 1.5)",
        "tokens/s": "100 (83.3 to 150)",
        "p50": "5",
        "p95": "8.55",
        "of bare int8": "25 (16.7 to 25)",
        "rms score error": "0",
        "largest score error": "0",
        "Kendall tau": "1",
    }
    (absent,) = rows_with(rows, "reason")
    assert absent.labels["reason"] == "no compiler"
    cost = next(
        row for row in rows if "peak memory" in row.figures and row.labels["system"] == "torch fp32"
    )
    assert cost.figures["peak memory"].value == 2
    assert cost.figures["1,000 documents, never idle"].value == pytest.approx(0.1)
    (asked,) = rows_with(rows, "texts")
    assert asked.figures["score spread"].value == pytest.approx(np.std([4, 3, 2, 1]))


def test_a_call_has_a_plot_of_all_systems(tmp_path):
    (path,) = plots.draw_speeds(list(results.rows(outcome(), 1.0)), tmp_path / "plots")
    assert path.name == "A-some-model-2-of-28-layers-1-x-4.png"
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "Z"], "'Z' is not one of 'A', 'B', 'C', 'D'"),
        (["--peer", "openvino", "--peer", "nonsense"], "no nonsense; there are edgerank/int4"),
        (["--workload", "C", "--collection", "no-such"], "no-such is absent"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(tmp_path, arguments, message):
    done = CliRunner().invoke(main, ["peers", "--work", str(tmp_path), *arguments])
    assert done.exit_code != 0
    assert message in done.stderr.splitlines()[-1]


def test_an_axis_has_a_plot_with_a_curve_for_each_system(tmp_path):
    figure = scaling.median([2, 4, 6], "tokens/s")
    rows = [
        Row({"workload": "C: a model", axis: str(x)}, {"edgerank int8": figure})
        for axis in ("documents", "callers")
        for x in (1, 10)
    ]
    paths = plots.draw_curves([*rows, Row({"workload": "C", "system": "x"})], tmp_path)
    assert [path.name for path in paths] == ["C-a-model-documents.png", "C-a-model-callers.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_a_system_that_fails_along_an_axis_is_missing_there_and_told(fake):
    workers = {name: started(fake, name) for name in ("fine", "error")}
    points = [scaling.Point(n, ({**GO, "documents": ["a"] * n},), n) for n in (1, 2)]
    missing: dict[str, str] = {}
    try:
        found = list(scaling.along(points, workers, 2, missing))
    finally:
        for worker in workers.values():
            worker.close()
    assert missing == {"error": "ValueError: too long"}
    assert [(point.x, list(seconds), len(seconds["fine"])) for point, seconds in found] == [
        (1, ["fine"], 2),
        (2, ["fine"], 2),
    ]


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

    def start() -> Worker:
        return Worker(PYTHON, "fake_peer", fake, "error", fake / "work", threads=1)

    fine = {"query": "q", "documents": ["a", "bb"]}
    jobs = [Job("bad", (({**GO, "documents": ["a"] * 20},),)), Job("good", ((fine,),))]
    monkeypatch.setattr(comparison, "bare_products", lambda *_: Products(lambda: None, 1.0))
    monkeypatch.setattr(comparison, "BARE_SECONDS", 0)
    monkeypatch.setattr(comparison, "cut", lambda request: {**request, "query": "warm-up"})
    entry = comparison.Entry(results.System("fake", "error"), start)
    reasons = {results.EVERYTHING: "no hub"}
    absent = comparison.Entry(results.System("absent", "", reasons=reasons), comparison._never)
    options = comparison.Options(threads=1, environments=fake, work=fake, rounds=2)
    rates = comparison.run_rounds(workloads(2)[0], [entry, absent], jobs, options)
    assert {name: len(values) for name, values in rates.items()} == {"bad": 2, "good": 2}
    system = entry.system
    assert system.reasons == {"bad": "ValueError: too long"}
    assert {name: len(job.seconds) for name, job in system.timings.items()} == {"good": 2}
    assert system.timings["good"].scores == [[1, 2]]
    assert system.timings["good"].line_seconds == system.timings["good"].seconds.tolist()
    assert system.peak_bytes > 5e6
    assert absent.system.timings == {}


def test_a_system_that_ends_while_it_starts_is_not_started_again(fake):
    tries = []

    def start() -> Worker:
        tries.append(1)
        raise PeerError("out of memory")

    entry = comparison.Entry(results.System("fake", "big"), start)
    jobs = [Job("one", ((GO,),)), Job("two", ((GO,),))]
    with contextlib.ExitStack() as stack:
        field = comparison.Field("A", jobs, stack, restart=False)
        for job in jobs:
            with pytest.raises(PeerError, match="out of memory"):
                field.turn(entry, job)
    assert len(tries) == 1
    assert entry.system.reasons == {results.EVERYTHING: "out of memory"}


def test_systems_are_chosen_by_peer_or_by_setting():
    def names(*wanted: str, full: bool = False) -> list[str]:
        chosen = comparison.select(wanted, {BASELINE}, full)
        return [f"{peer.name}/{setting.name}" for peer, setting in chosen]

    assert names("flashrank/int8") == ["edgerank/int8", "flashrank/int8"]
    assert names("flashrank") == ["edgerank/int8", "flashrank/int8", "flashrank/fp32"]
    assert set(names()) < set(names(full=True))
    with pytest.raises(click.BadParameter, match="no nobody"):
        names("nobody")
