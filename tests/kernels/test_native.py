"""The kernels of every instruction set against plain double precision, by the program beside this.

The program is compiled together with the kernels' sources, without ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from edgerank.kernels.toolchain import (
    FLAGS,
    INSTRUCTION_SETS,
    TARGETS,
    BuildError,
    find_compiler,
    flags_of_instruction_sets,
    host_target,
    run,
    source_of,
)
from tests.support import ROOT

SOURCES = ROOT / "edgerank/kernels/src"
PROGRAM = ROOT / "tests/kernels"
LINKED = ["cpu", "instruction_sets", "memory", "scratch"]  # all that runs without ORT
# the program may refuse memory
FLAGS_OF_SOURCES = {"memory.cpp": ["-Dallocate_aligned=allocate_from_system"]}
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
HOST = TARGETS[name] if (name := host_target()) else None
RAN = re.compile(
    r"(\w+)( on the model)?: linear, projection, feed-forward, attention, positions, nearest,"
    r" memory, (\d+) checks, digests (\w+) of rows, (\w+) of attention, (\w+) of nearest"
)

BFLOAT16 = "avx512_bf16"  # rounds what attention reads
AMX = "amx"  # compares a query as integers


class Digests(NamedTuple):
    """Digests of the bits that an instruction set computed."""

    rows: str
    attention: str
    nearest: str


Ran = dict[tuple[str, bool], Digests]  # by instruction set, and whether on the model of tiles

pytestmark = pytest.mark.skipif(
    HOST is None or sys.platform == "win32", reason="the program is for Linux and macOS"
)


@pytest.fixture(scope="module")
def on_this_cpu(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What ran with sanitizers, if they are there."""
    compiler, work = find_compiler(), tmp_path_factory.mktemp("native")
    if compiler is None or HOST is None:
        pytest.skip("no C++ compiler")
    program = compile_program(HOST.architecture, compiler, sanitizers_of(compiler, work), work)
    ran = instruction_sets_that_ran([program])
    if not ran:
        pytest.skip("this CPU has no instruction set in use")
    return ran


def test_kernels_agree_with_double_precision_and_sanitizers_find_nothing(on_this_cpu):
    if ("avx512_vnni", False) in on_this_cpu:  # or else AMX's vectors cannot be run
        assert ("amx", True) in on_this_cpu


def test_all_instruction_sets_give_the_same_bits(on_this_cpu):
    assert len({digests.rows for digests in on_this_cpu.values()}) == 1, on_this_cpu
    exact = {digests.attention for name, digests in on_this_cpu.items() if name[0] != BFLOAT16}
    assert len(exact) == 1, on_this_cpu
    floats = {digests.nearest for name, digests in on_this_cpu.items() if name[0] != AMX}
    assert len(floats) == 1, on_this_cpu


@pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None or shutil.which("qemu-aarch64") is None,
    reason="needs ziglang and qemu-aarch64",
)
def test_kernels_for_arm_agree_with_double_precision_and_x86_in_an_emulator(
    on_this_cpu: Ran, tmp_path: Path
):
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl"]
    program = compile_program("aarch64", zig, ["-static"], tmp_path)
    everything, without_i8mm = (
        ["qemu-aarch64", "-cpu", cpu, program] for cpu in ("max", "cortex-a76")
    )
    ran = instruction_sets_that_ran(everything)
    assert list(ran) == [("i8mm", False), ("dotprod", False)]
    assert list(instruction_sets_that_ran(without_i8mm)) == [("dotprod", False)]
    assert set(ran.values()) == {on_this_cpu["avx2", False]}, (ran, on_this_cpu)


def compile_program(
    architecture: str, compiler: Sequence[str], options: Sequence[str], work: Path
) -> Path:
    common = [*compiler, *FLAGS, "-O1", "-pthread", f"-I{SOURCES}", *options]
    flags_of = flags_of_instruction_sets(architecture, compiler, SOURCES, work)
    macros = []
    if "avx512_vnni" in flags_of:  # AMX's sources, without its instructions
        model = ["-include", str(PROGRAM / "tile_model.h")]
        flags_of["amx"] = [*flags_of["avx512_vnni"], *model]
        macros = ["-DWITH_TILE_MODEL", "-DEDGERANK_WITHOUT_AMX"]
    units = [(source_of(SOURCES, name), flags) for name, flags in flags_of.items()]
    macros += [
        f"-DEDGERANK_WITHOUT_{name.upper()}"
        for name in INSTRUCTION_SETS[architecture]
        if name not in flags_of
    ]
    others = [SOURCES / f"{name}.cpp" for name in LINKED] + sorted(PROGRAM.glob("*.cpp"))
    units += [(source, [*macros, *FLAGS_OF_SOURCES.get(source.name, [])]) for source in others]
    objects = [str(work / f"{source.stem}.o") for source, _ in units]
    commands = [
        [*common, *flags, "-c", str(source), "-o", made]
        for (source, flags), made in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))
    program = work / "compare"
    run([*common, *objects, "-o", str(program)])
    return program


def sanitizers_of(compiler: Sequence[str], work: Path) -> list[str]:
    """The options for sanitizers; none for a compiler that comes without their libraries."""
    (work / "empty.cpp").write_text("int main() {}\n")
    try:
        run([*compiler, *SANITIZE, str(work / "empty.cpp"), "-o", str(work / "empty")])
    except BuildError:
        return []
    return SANITIZE


def instruction_sets_that_ran(command: Sequence[str | Path]) -> Ran:
    """Run the program; return the digests of what each instruction set computed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [RAN.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(found and int(found[3]) > 100_000 for found in ran), done.stdout
    return {
        (found[1], bool(found[2])): Digests(found[4], found[5], found[6]) for found in ran if found
    }
