"""The benchmarks' common parts: turns, records, tables, the runner, and the page of figures."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open

from benchmarks import catalogue, charts, figures
from benchmarks.__main__ import main
from benchmarks.common.checkpoints import MXBAI_LARGE_V2, write_mxbai_v2
from benchmarks.common.layers import Layer, decoder_layer
from benchmarks.common.machine import describe_machine
from benchmarks.common.paths import RECORDS
from benchmarks.common.processes import run_program
from benchmarks.common.record import (
    Figure,
    Record,
    Row,
    median,
    new_record,
    read_record,
    show,
    write_record,
)
from benchmarks.common.tables import markdown, tables
from benchmarks.common.turns import WithdrawnError, alternate, ratio, take_turns
from benchmarks.serving import callers
from benchmarks.serving.server import Requests
from tests.support import ROOT

CORE = {"edgerank", "rich"}  # and Python's own: what the demo's environment has


class Clock:
    """A clock that only what is measured moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, *seconds: float):
        """Return a call that takes so many seconds, another number each time."""
        left = iter(seconds)

        def call() -> float:
            self.calls.append(name)
            taken = next(left)
            self.now += taken
            return taken

        return call


def test_candidates_alternate_and_the_warm_up_does_not_count():
    clock = Clock()
    candidates = {"a": clock.run("a", 9, 1, 2), "b": clock.run("b", 8, 3, 4)}
    times = take_turns(candidates, 2, clock=clock)
    assert clock.calls == ["a", "b"] * 3
    assert {name: seconds.tolist() for name, seconds in times.items()} == {"a": [1, 2], "b": [3, 4]}


def test_a_candidate_that_has_used_up_its_time_sits_out_but_not_before_the_second_round():
    clock = Clock()
    turns = {"slow": clock.run("slow", 50, 50), "quick": clock.run("quick", 1, 1, 1, 1)}
    times = alternate(turns, 4, seconds_each=10, clock=clock)
    assert {name: len(seconds) for name, seconds in times.items()} == {"slow": 2, "quick": 4}


def test_no_round_begins_after_the_time_of_all_rounds():
    clock = Clock()
    turns = {"a": clock.run("a", *[3] * 9), "b": clock.run("b", *[3] * 9)}
    assert len(alternate(turns, 9, seconds=13, clock=clock)["b"]) == 3
    assert len(alternate(turns, 5, seconds=0, clock=clock)["b"]) == 2


def test_a_candidate_that_withdraws_is_asked_no_more_and_its_times_are_gone():
    clock = Clock()

    def withdraw() -> float:
        clock.calls.append("bad")
        raise WithdrawnError("out of memory")

    times = alternate({"bad": withdraw, "good": clock.run("good", 1, 2)}, 2, clock=clock)
    assert clock.calls == ["bad", "good", "good"]
    assert {name: seconds.tolist() for name, seconds in times.items()} == {"good": [1, 2]}


def test_ratios_are_of_the_same_rounds():
    assert ratio(np.array([100, 4, 30]), np.array([1, 2, 10, 1000])).tolist() == [100, 2, 3]
    assert ratio(np.array([4.0]), np.array([2.0, 1.0])).tolist() == [2]


def test_a_figure_is_the_median_with_its_quartiles():
    figure = median([1, 2, 3, 4, 100], "ms")
    assert figure == Figure(3, "ms", low=2, high=4, samples=5)
    assert str(figure) == "3 (2 to 4)"
    assert median([7.5]) == Figure(7.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123456, "0.00123"),
        (-0.0018, "-0.0018"),
        (1.23456, "1.23"),
        (99.96, "100"),
        (123.4, "123"),
        (1999.6, "2,000"),
        (1234567, "1,230,000"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert show(value) == text


def example(benchmark: str = "slices") -> Record:
    record = new_record(benchmark, f"python -m benchmarks {benchmark} a|b", {"rounds": 3})
    rows = [
        Row({"model": "a|b"}, {"time": median([1, 2, 3], "ms"), "tokens/s": Figure(5, "tokens/s")}),
        Row({"model": "c"}, {"time": Figure(2, "ms")}),
        Row({"system": "x", "reason": "no compiler"}),
    ]
    return msgspec.structs.replace(record, rows=rows)


def test_a_record_reads_as_it_was_written(tmp_path):
    record = example()
    path = tmp_path / "new/record.json"
    write_record(path, record)
    assert read_record(path) == record
    assert [one.name for one in path.parent.iterdir()] == ["record.json"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record.date)
    path.write_text(json.dumps({"benchmark": "slices"}))
    with pytest.raises(msgspec.ValidationError):
        read_record(path)


def test_rows_with_the_same_labels_are_one_table():
    first, second = tables(example().rows)
    assert first.columns == ("model", "time, ms", "tokens/s")
    assert first.rows == (("a|b", "2 (1.5 to 2.5)", "5"), ("c", "2", ""))
    assert markdown(first).splitlines()[:3] == [
        "| model | time, ms | tokens/s |",
        "| --- | --: | --: |",
        "| a\\|b | 2 (1.5 to 2.5) | 5 |",
    ]
    assert second.rows == (("x", "no compiler"),)


def test_figures_of_another_unit_are_another_column():
    (table,) = tables(
        [Row({"x": "1"}, {"t": Figure(1, "s")}), Row({"x": "2"}, {"t": Figure(2, "ms")})]
    )
    assert table.columns == ("x", "t, s", "t, ms")
    assert table.rows == (("1", "1", ""), ("2", "", "2"))


def test_the_page_names_command_machine_and_commit_of_every_figure():
    record = example()
    other = msgspec.structs.replace(
        record, machine=msgspec.structs.replace(record.machine, cpu="Another CPU"), commit="abc123"
    )
    page = figures.render([record, other])
    section = page[page.index("### slices") : page.index("### transforms")]
    assert section.count(f"`{record.command}`") == 2
    assert f"machine 2, {record.date}, commit abc123" in section
    assert "| c | 2 |  |" in section
    assert "Another CPU" in page[page.index("## Machines") : page.index("## Operators and")]


def test_the_committed_page_is_what_the_records_render_to():
    records = [read_record(path) for path in sorted(RECORDS.glob("*.json"))]
    assert figures.PAGE.read_text() == figures.render(records), "run `make figures`"
    known = {name for _, name in catalogue.names()}
    assert {record.benchmark for record in records} <= known


def test_the_page_has_a_chart_of_the_speeds_of_every_workload(tmp_path):
    records = [read_record(path) for path in sorted(RECORDS.glob("*.json"))]
    figures.draw(records, tmp_path)
    drawn = {path.name: texts_of(path) for path in tmp_path.iterdir()}
    assert drawn == {path.name: texts_of(path) for path in figures.CHARTS.iterdir()}, "make figures"
    page = figures.PAGE.read_text()
    compared = [record for record in records if record.benchmark == "peers"]
    for machine, row in ((one.machine, row) for one in compared for row in one.rows):
        if "documents/s" in row.figures:
            name = charts.file_name(row.labels["workload"])
            if machine != compared[0].machine:
                (name,) = (each for each in drawn if each.endswith(f"-{name}"))
            assert f"(charts/{name})" in page
            assert row.labels["system"] in drawn[name]
            assert show(row.figures["documents/s"].value) in drawn[name]


def texts_of(chart: Path) -> list[str]:
    return re.findall(r"<text [^>]*>([^<]*)</text>", chart.read_text())


def test_the_catalogue_has_every_benchmark_with_its_question():
    found = {
        (path.parent.name, path.stem.replace("_", "-"))
        for group in catalogue.GROUPS
        for path in (ROOT / "benchmarks" / group).glob("*.py")
        if "measure" in functions(path)
    }
    assert found == set(catalogue.names())
    for group, name in catalogue.names():
        assert catalogue.question(group, name).endswith("?"), name


def functions(path: Path) -> set[str]:
    body = ast.parse(path.read_bytes()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_the_list_has_every_benchmark_and_takes_nothing_heavy():
    program = "import sys; from benchmarks.__main__ import main; main([], standalone_mode=False)"
    heavy = "torch", "transformers", "onnx", "numba", "optimum", "matplotlib", "scipy"
    done = run_program(f"{program}; print('loaded', [m for m in {heavy} if m in sys.modules])")
    assert done.output.splitlines()[-1] == "loaded []"
    for group, name in catalogue.names():
        assert f"{group} ({catalogue.TITLES[group]})" in done.output
        assert re.search(rf"^ +{name} ", done.output, re.MULTILINE)


def test_the_demo_imports_only_what_its_environment_has():
    modules = {
        name.split(".")[0]
        for node in ast.walk(ast.parse((ROOT / "benchmarks/demo.py").read_bytes()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules - set(sys.stdlib_module_names) <= CORE


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """One benchmark in the catalogue, which is this module."""
    monkeypatch.setattr(catalogue, "GROUPS", {"micro": ("counting",)})
    monkeypatch.setattr(catalogue, "load", lambda group, name: sys.modules[__name__])


def measure() -> Iterator[Row]:
    """A benchmark for the fixture ``stub``: it breaks off after its first row."""
    yield Row({"number": "one"}, {"value": Figure(1, "s")})
    raise ValueError("the machine is on fire")


def test_the_runner_prints_and_records_what_there_is_of_a_run_that_breaks_off(stub, tmp_path):
    path = tmp_path / "record.json"
    done = CliRunner().invoke(main, ["counting", "--json", str(path)])
    assert isinstance(done.exception, ValueError)
    assert re.search(r"number +value, s", done.stdout)
    record = read_record(path)
    assert record.benchmark == "counting"
    assert record.command == f"python -m benchmarks counting --json {path}"
    assert record.machine == describe_machine()
    assert record.rows == [Row({"number": "one"}, {"value": Figure(1, "s")})]


def test_answers_to_concurrent_callers_are_all_counted(monkeypatch):
    clock = Clock()

    class Client:
        async def score(self, query: str, documents: list[str]) -> list[float]:
            await asyncio.sleep(0)  # others have their turn
            clock.now += 1
            return [0.0] * len(documents)

    monkeypatch.setattr(callers.time, "perf_counter", clock)
    rate = asyncio.run(callers.closed_loop([Client()], Requests(), 5, num_callers=8, seconds=40))
    assert rate == 5  # documents of a call, each of which takes a second


def test_a_layer_has_the_matrices_of_the_checkpoint(tmp_path):
    config = {
        **MXBAI_LARGE_V2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "vocab_size": 8,
    }
    write_mxbai_v2(tmp_path / "model", config)
    layer = decoder_layer(config)
    with safe_open(tmp_path / "model/model-00.safetensors", "numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    weights = sum(rows * columns for rows, columns in (s for s in shapes if len(s) == 2))
    assert sum(depth * width for depth, width in layer.matrices.values()) == weights


def test_operations_leave_out_what_the_last_layer_need_not_compute():
    layer = Layer(hidden=10, wide=40, key_value=5)
    # q 100, k and v 100, o 100, up 400, down 400 multiplications a token, each with an addition
    assert layer.operations(layers=3, tokens=7, scored=2) == 2 * (2 * 7 * 1100 + 7 * 100 + 2 * 1000)
