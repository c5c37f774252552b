"""Which kernels are chosen, why, and that a session gets those."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import numpy as np
import onnxruntime as ort
import pytest

from edgerank import InputError, ProviderError, Reranker, kernels
from edgerank.kernels import (
    Kernels,
    available,
    build,
    choose_kernels,
    find_library,
    register,
    toolchain,
)
from edgerank.manifest import CPU_PROVIDER
from edgerank.session import open_session
from edgerank.variants import machine_capabilities
from tests.support.cli import fail, succeed
from tests.support.kernels import compile_library, seen_by_this_thread

BUILT = available()  # of the real library
needs_kernels = pytest.mark.skipif(not BUILT, reason="the kernels are not built")
DOCUMENTS = ["Frank Herbert", "Paris is the capital of France. " * 30, ""]


@pytest.fixture(autouse=True)
def nothing_is_asked_for(monkeypatch):
    monkeypatch.delenv("EDGERANK_KERNELS", raising=False)


@pytest.fixture
def absent(monkeypatch, tmp_path) -> Path:
    """Where the library would be."""
    path = tmp_path / "absent.so"
    monkeypatch.setattr(kernels, "LIBRARY", path)
    return path


@pytest.fixture
def library(monkeypatch, tmp_path) -> Path:
    """A library with kernels for two instruction sets."""
    path = compile_library(tmp_path / "library.so", "fast", "slow")
    monkeypatch.setattr(kernels, "LIBRARY", path)
    return path


# the choice


@pytest.mark.parametrize("asked", [None, "auto"])
def test_the_fastest_kernels_are_taken_where_there_are_any(library, asked):
    assert available() == ("fast", "slow")
    chosen = choose_kernels(asked)
    assert (chosen.name, chosen.library) == ("fast", library)
    assert str(chosen) == "fast: the fastest that this CPU can run"


@pytest.mark.parametrize("name", ["fast", "slow"])
def test_kernels_are_taken_by_name(library, name):
    assert choose_kernels(name) == Kernels(name, "asked for", library)


def test_stock_is_taken_if_it_is_asked_for(library):
    assert choose_kernels("stock") == Kernels("stock", "asked for", None)


def test_without_a_library_stock_is_taken_and_says_how_to_build_one(absent):
    assert available() == ()
    chosen = choose_kernels()
    assert (chosen.name, chosen.library) == ("stock", None)
    assert str(chosen).startswith("stock: the library is not built")
    assert chosen.reason.endswith("run python -m edgerank.kernels.build")


@pytest.mark.skipif(toolchain.host_target() is None, reason="there are no kernels for this machine")
@pytest.mark.parametrize("reason", ["there was no C++ compiler", "the compiler failed: no disk"])
def test_why_there_was_no_library_when_edgerank_was_built_is_told(absent, reason):
    build.note_absence(absent, reason)
    assert choose_kernels().reason == (
        f"the library is not built, because {reason};"
        " with a compiler, run python -m edgerank.kernels.build"
    )


def test_where_there_are_no_sources_pip_is_to_compile_them(absent, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "SOURCES", tmp_path / "src")
    assert choose_kernels().reason.endswith(
        "run pip install --force-reinstall --no-deps --no-binary edgerank edgerank"
    )


def test_on_a_machine_without_kernels_none_are_to_be_built(absent, monkeypatch):
    monkeypatch.setattr(toolchain, "host_target", lambda: None)
    assert choose_kernels().reason.startswith("there are no kernels for this ")


def test_a_library_of_other_sources_is_not_used_and_is_to_be_built_again(
    library, monkeypatch, tmp_path
):
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "kernel.cpp").write_text("// one")
    monkeypatch.setattr(kernels, "SOURCES", sources)
    assert choose_kernels().name == "fast"  # nothing is known of its sources
    build.write_stamp(library, build.Stamp(build.digest_of(sources), "", "c++", False))
    assert choose_kernels().name == "fast"
    (sources / "kernel.cpp").write_text("// another")
    assert str(choose_kernels()) == (
        "stock: the library was built from other sources;"
        " build it again: python -m edgerank.kernels.build"
    )
    with pytest.raises(InputError, match="built from other sources"):
        choose_kernels("fast")
    monkeypatch.setattr(kernels, "SOURCES", tmp_path / "absent")  # as in a wheel
    assert choose_kernels().name == "fast"


def test_a_file_that_is_no_library_gives_stock_and_the_system_s_words(absent):
    absent.write_bytes(b"not a library")
    with pytest.raises(OSError) as raised:
        kernels.load_library(absent)
    chosen = choose_kernels()
    assert chosen.name == "stock"
    assert chosen.reason.startswith(f"the library cannot be loaded: {raised.value}")


def test_another_library_gives_stock_and_the_name_that_it_lacks(absent):
    compile_library(absent, source="int other;")
    chosen = choose_kernels("auto")
    assert chosen.name == "stock"
    assert "edgerank_instruction_sets" in chosen.reason


def test_a_cpu_that_can_run_no_kernels_gives_stock(absent):
    compile_library(absent)
    assert find_library().instruction_sets == ()
    assert str(choose_kernels()).startswith("stock: this CPU has none of the instruction sets")


def test_a_library_that_is_built_later_is_found(absent):
    assert choose_kernels().name == "stock"
    compile_library(absent, "fast")
    assert choose_kernels().name == "fast"


@pytest.mark.parametrize("asked", ["avx9", "FAST", "fast,slow", "", 7])
def test_other_names_are_refused_with_those_that_there_are(library, asked):
    with pytest.raises(InputError) as raised:
        choose_kernels(asked)
    assert raised.value.field == "kernels"
    assert raised.value.reason == f"{asked!r} cannot be used here; choose auto, stock, fast, slow"


def test_a_name_is_refused_with_the_reason_why_there_are_no_kernels(absent):
    with pytest.raises(
        InputError, match=r"'avx2' .* choose auto, stock \(the library is not built"
    ):
        choose_kernels("avx2")


def test_the_environment_says_what_is_taken_where_the_caller_does_not(library, monkeypatch):
    monkeypatch.setenv("EDGERANK_KERNELS", "slow")
    assert str(choose_kernels()) == "slow: asked for by EDGERANK_KERNELS"
    assert choose_kernels("fast").name == "fast"
    assert choose_kernels("auto").name == "fast"
    monkeypatch.setenv("EDGERANK_KERNELS", "stock")
    assert str(choose_kernels()) == "stock: asked for by EDGERANK_KERNELS"
    monkeypatch.setenv("EDGERANK_KERNELS", "auto")
    assert choose_kernels().name == "fast"
    monkeypatch.setenv("EDGERANK_KERNELS", "")
    assert choose_kernels().name == "fast"
    monkeypatch.setenv("EDGERANK_KERNELS", "avx9")
    assert choose_kernels("stock").name == "stock"
    with pytest.raises(InputError, match=r"^kernels: 'avx9' in EDGERANK_KERNELS cannot be used"):
        choose_kernels()


# what sessions get


def test_a_session_registers_the_library_with_the_kernels_chosen(library):
    graph = Reranker().bundle.directory / "model.int8.onnx"
    for asked in ("slow", "fast"):
        open_session(graph, kernels=choose_kernels(asked))
        assert seen_by_this_thread(library) == asked
    open_session(graph, kernels=choose_kernels("stock"))
    assert seen_by_this_thread(library) == "fast"  # as before
    open_session(graph)
    assert seen_by_this_thread(library) == "fast"


def test_sessions_without_kernels_of_their_own_go_by_the_environment(library, monkeypatch):
    monkeypatch.setenv("EDGERANK_KERNELS", "slow")
    open_session(Reranker(kernels="stock").bundle.directory / "model.int8.onnx")
    assert seen_by_this_thread(library) == "slow"


def test_sessions_that_are_opened_at_once_each_get_their_own_kernels(library):
    names = ["fast", "slow"] * 4
    together = Barrier(len(names))

    def see(name: str) -> str:
        chosen = choose_kernels(name)
        together.wait()
        register(ort.SessionOptions(), chosen, 1)
        return seen_by_this_thread(library)

    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(see, names)) == names


def test_a_library_that_onnx_runtime_does_not_take_is_named_with_a_way_out(monkeypatch, tmp_path):
    source = 'const char* edgerank_instruction_sets(void) { return "@NAMES@"; }\n'
    source += "int edgerank_choose(const char* name, int threads) { return 1; }\n"
    path = compile_library(tmp_path / "old.so", "fast", source=source)
    monkeypatch.setattr(kernels, "LIBRARY", path)
    with pytest.raises(ProviderError) as raised:
        Reranker()
    assert str(raised.value).startswith(f"{path}: ONNX Runtime does not take it: ")
    assert "python -m edgerank.kernels.build" in str(raised.value)
    assert "EDGERANK_KERNELS=stock" in str(raised.value)
    with Reranker(kernels="stock") as reranker:
        assert reranker.score("a query", ["a document"]).shape == (1,)


def test_a_session_of_another_provider_than_the_cpu_s_has_stock_operators(library):
    others = [name for name in ort.get_available_providers() if name != CPU_PROVIDER]
    if not others:
        pytest.skip("this ONNX Runtime has no provider but the CPU's")
    graph = Reranker(kernels="stock").bundle.directory / "model.int8.onnx"

    def seen(provider: str) -> str:
        with ThreadPoolExecutor(1) as thread:  # that has seen nothing yet
            slow = choose_kernels("slow")
            with suppress(ProviderError):  # it cannot run every operator
                thread.submit(open_session, graph, kernels=slow, provider=provider).result()
            return thread.submit(seen_by_this_thread, library).result()

    assert seen(CPU_PROVIDER) == "slow"
    assert seen(others[0]) == ""


def test_the_machine_has_the_library_that_a_variant_may_need_where_it_is_used(library):
    assert machine_capabilities(choose_kernels("fast")).libraries == {"edgerank.kernels"}
    assert machine_capabilities(choose_kernels("stock")).libraries == frozenset()


# rerankers and commands


def test_a_reranker_says_which_kernels_it_has_and_why(library, monkeypatch):
    with Reranker() as reranker:
        assert str(reranker.kernels) == "fast: the fastest that this CPU can run"
    with Reranker(kernels="slow") as reranker:
        assert str(reranker.kernels) == "slow: asked for"
    monkeypatch.setenv("EDGERANK_KERNELS", "stock")
    with Reranker() as reranker:
        assert str(reranker.kernels) == "stock: asked for by EDGERANK_KERNELS"
        assert np.isfinite(reranker.score("who wrote dune?", DOCUMENTS)).all()


def test_a_reranker_refuses_kernels_that_are_not_there():
    with pytest.raises(InputError, match=r"^kernels: 'avx9' cannot be used here"):
        Reranker(kernels="avx9")


def test_the_command_line_takes_kernels_and_refuses_others_by_the_option_s_name():
    command = ("rerank", "who wrote dune?", "-")
    succeed(*command, "--kernels", "stock", stdin=b"Frank Herbert")
    assert fail(*command, "--kernels", "avx9").startswith("--kernels: 'avx9' cannot be used here")
    line = fail(*command, EDGERANK_KERNELS="avx9")
    assert line.startswith("--kernels: 'avx9' in EDGERANK_KERNELS cannot be used here")


@needs_kernels
@pytest.mark.parametrize("name", BUILT)
def test_compiled_kernels_give_the_scores_of_stock_operators(name):
    with Reranker(kernels="stock") as stock, Reranker(kernels=name) as compiled:
        assert (stock.kernels.library, compiled.kernels.name) == (None, name)
        expected = stock.score("who wrote dune?", DOCUMENTS)
        np.testing.assert_allclose(
            compiled.score("who wrote dune?", DOCUMENTS), expected, atol=2e-3
        )
