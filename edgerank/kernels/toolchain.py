"""Compilers and flags for each platform, and how they make the library from the sources.

Like build.py, this module needs only the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Target:
    """A platform that the kernels can be compiled for."""

    name: str  # ARCHITECTURE-SYSTEM
    zig: str  # its name for zig, with the oldest version of the system
    wheel: str  # its name in a wheel's file name

    @property
    def architecture(self) -> str:
        return self.name.partition("-")[0]

    @property
    def system(self) -> str:
        return self.name.partition("-")[2]

    @property
    def library(self) -> str:
        return LIBRARIES[self.system]


LIBRARIES = {
    "linux": "libedgerank_kernels.so",
    "macos": "libedgerank_kernels.dylib",
    "windows": "edgerank_kernels.dll",
}
TARGETS = {
    target.name: target
    for target in (
        Target("x86_64-linux", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
        Target("aarch64-linux", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
        Target("x86_64-macos", "x86_64-macos.11.0", "macosx_11_0_x86_64"),
        Target("aarch64-macos", "aarch64-macos.11.0", "macosx_11_0_arm64"),
        Target("x86_64-windows", "x86_64-windows-gnu", "win_amd64"),
    )
}

FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic"),
]
# gcc 12 warns about its own header; clang does not know that warning.
AVX512 = (
    "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma"
    " -Wno-unknown-warning-option -Wno-maybe-uninitialized -Wno-uninitialized"
)

# The flags for instruction_set_NAME.cpp. If there are two spellings, the first that the compiler
# understands is used.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": ("-mavx2 -mfma",),
        "avx_vnni": ("-mavx2 -mfma -mavxvnni",),
        "avx512": (AVX512,),
        "avx512_vnni": (f"{AVX512} -mavx512vnni",),
        "avx512_bf16": (f"{AVX512} -mavx512vnni -mavx512bf16",),
        "amx": (f"{AVX512} -mavx512vnni -mamx-tile -mamx-int8",),
    },
    "aarch64": {  # the second spelling is zig's
        "dotprod": ("-march=armv8.2-a+dotprod", "-mcpu=generic+v8_2a+dotprod"),
        "i8mm": ("-march=armv8.2-a+dotprod+i8mm", "-mcpu=generic+v8_2a+dotprod+i8mm"),
    },
}
EXPORTS = "{ global: RegisterCustomOps; edgerank_*; local: *; };\n"


class BuildError(Exception):
    """The kernels cannot be compiled; the message has the compiler's output."""

    @property
    def summary(self) -> str:
        """The first line with an error, or the first line if there is none."""
        lines = str(self).splitlines()
        return next((line for line in lines if "error:" in line), lines[0])


def host_target() -> str | None:
    """Return the key of TARGETS for this machine and Python, or None."""
    machine = platform.machine().lower()
    architecture = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    name = f"{architecture}-{system}"
    return name if name in TARGETS and sys.maxsize > 2**32 else None


def find_compiler(target: str | None = None) -> list[str] | None:
    """Return the command of a C++ compiler, or None if this machine has none for itself.

    :param target: a key of TARGETS, for PyPI's ziglang; None for this machine, for $CXX or else the
        first of COMPILERS on the path
    :raises BuildError: a target is given, and ziglang is not installed
    """
    if target is None:
        if chosen := shlex.split(os.environ.get("CXX", ""), posix=os.name != "nt"):
            return chosen
        return next(([name] for name in COMPILERS if shutil.which(name)), None)
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError(
            f"Compiling for {target} needs ziglang: `pip install ziglang`, or name a compiler"
        )
    return [sys.executable, "-m", "ziglang", "c++", "-target", TARGETS[target].zig]


def compile_library(
    target: Target,
    compiler: Sequence[str],
    sources: Path,
    work: Path,
    sanitize: str,
    werror: bool,
) -> tuple[Path, list[str]]:
    """Compile and link in the directory ``work``.

    Returns the library, and the instruction sets that it lacks because they have no source or the
    compiler does not know them.

    :raises BuildError: the compiler fails
    """
    common = [*FLAGS, *(["-Werror"] if werror else [])]
    if sanitize:
        common += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
        common.append(f"-fsanitize={sanitize}")
    flags_of = flags_of_instruction_sets(target.architecture, compiler, sources, work)
    left_out = [name for name in INSTRUCTION_SETS[target.architecture] if name not in flags_of]
    macros = [f"-DEDGERANK_WITHOUT_{name.upper()}" for name in left_out]
    units = [(source_of(sources, name), flags) for name, flags in flags_of.items()]
    units += [
        (source, macros)
        for source in sorted(sources.glob("*.cpp"))
        if not source.name.startswith("instruction_set_")
    ]
    objects = [str(work / f"{source.stem}.o") for source, _ in units]
    commands = [
        [*compiler, *common, *flags, "-c", str(source), "-o", made]
        for (source, flags), made in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))
    library = work / target.library
    run([*compiler, *common, *link_flags(target, work, sanitize), *objects, "-o", str(library)])
    return library, left_out


def source_of(sources: Path, name: str) -> Path:
    """Return the path of the source of an instruction set."""
    return sources / f"instruction_set_{name}.cpp"


def flags_of_instruction_sets(
    architecture: str, compiler: Sequence[str], sources: Path, work: Path
) -> dict[str, list[str]]:
    """Return the flags of each instruction set that has a source and that the compiler knows.

    :raises BuildError: a source is for an instruction set that INSTRUCTION_SETS does not have
    """
    expected = {source_of(sources, name) for known in INSTRUCTION_SETS.values() for name in known}
    if unknown := sorted(set(sources.glob("instruction_set_*.cpp")) - expected):
        raise BuildError(f"{unknown[0].name}: toolchain.py has no flags for it")
    found = {}
    for name, spellings in INSTRUCTION_SETS[architecture].items():
        if source_of(sources, name).exists():
            flags = first_understood(compiler, spellings, work / "probe.cpp")
            if flags:
                found[name] = flags
    return found


def first_understood(
    compiler: Sequence[str], spellings: Iterable[str], probe: Path
) -> list[str] | None:
    """Return the first spelling of flags that the compiler understands, tried on an empty file."""
    probe.write_text("")
    for flags in map(str.split, spellings):
        try:
            run([*compiler, *flags, "-c", str(probe), "-o", f"{probe}.o"])
        except BuildError:
            continue
        return flags
    return None


def link_flags(target: Target, work: Path, sanitize: str) -> list[str]:
    """Return the flags for linking; ``work`` gets the files that they name."""
    if sanitize:  # the program that loads the library brings the sanitizer's own library
        return ["-shared"]
    flags = ["-shared", "-s"]
    if target.system == "macos":  # the C++ library is part of the system
        flags.append(f"-Wl,-install_name,@rpath/{target.library}")
    else:
        flags += ["-static-libstdc++", "-static-libgcc"]
    if target.system == "linux":  # no undefined symbols, and no exports from the C++ library
        (work / "exports").write_text(EXPORTS)
        flags += ["-Wl,-z,defs", f"-Wl,--version-script={work / 'exports'}"]
    return flags


def run(command: Sequence[str]) -> None:
    """Run a compiler.

    :raises BuildError: it cannot be run, or it fails
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BuildError(f"{said or f'exit code {done.returncode}'}\n{shlex.join(command)}")
