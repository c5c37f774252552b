"""Compile the kernels: ``src/*.cpp`` become one shared library beside this file.

    python -m edgerank.kernels.build             # for this machine
    python edgerank/kernels/build.py --help      # the same, where edgerank is not installed

It needs nothing but the standard library, because pip runs it before edgerank's dependencies are
there. A machine without a C++ compiler is no error: edgerank then runs on ONNX Runtime's operators.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
WITHOUT = "edgerank uses ONNX Runtime's stock operators."
REINSTALL = "pip install --force-reinstall --no-deps --no-binary edgerank edgerank"
NO_SOURCES = f"""This installation has no sources of the kernels. Where there is a C++ compiler, run
    {REINSTALL}
or install a checkout."""


@dataclass(frozen=True)
class Target:
    """A platform that kernels can be compiled for."""

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
# The warning is of gcc 12, about its own header; clang does not know it.
AVX512 = (
    "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma"
    " -Wno-unknown-warning-option -Wno-maybe-uninitialized -Wno-uninitialized"
)

# The flags of instruction_set_NAME.cpp; where there are two, the first that the compiler knows.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": ("-mavx2 -mfma",),
        "avx_vnni": ("-mavx2 -mfma -mavxvnni",),
        "avx512": (AVX512,),
        "avx512_vnni": (f"{AVX512} -mavx512vnni",),
        "avx512_bf16": (f"{AVX512} -mavx512vnni -mavx512bf16",),
        "amx": (f"{AVX512} -mavx512vnni -mamx-tile -mamx-int8",),
    },
    "aarch64": {  # zig has a spelling of its own
        "dotprod": ("-march=armv8.2-a+dotprod", "-mcpu=generic+v8_2a+dotprod"),
        "i8mm": ("-march=armv8.2-a+dotprod+i8mm", "-mcpu=generic+v8_2a+dotprod+i8mm"),
    },
}
EXPORTS = "{ global: RegisterCustomOps; edgerank_*; local: *; };\n"


class BuildError(Exception):
    """The kernels cannot be compiled; the message has what the compiler said."""

    @property
    def summary(self) -> str:
        """The first line that speaks of an error, or else the first."""
        lines = str(self).splitlines()
        return next((line for line in lines if "error:" in line), lines[0])


@dataclass(frozen=True)
class Built:
    """What a build came to."""

    library: Path | None  # None: there is no compiler, or nothing to compile
    message: str  # one line


def build(
    target: str | None = None,
    compiler: Sequence[str] | None = None,
    output: Path = HERE,
    sources: Path = HERE / "src",
    sanitize: str = "",
    werror: bool = False,
) -> Built:
    """Compile the kernels, unless the library in ``output`` is of these sources and options.

    A library that is not is removed, also where no new one can be made.

    :param target: a key of TARGETS; None for this machine
    :param compiler: the command of a compiler for ``target``; None for what `find_compiler` finds
    :param sanitize: for the compiler's option -fsanitize, such as "address,undefined"
    :param werror: let warnings be errors
    :raises BuildError: the target is unknown, there are no sources, or the compiler fails
    :raises OSError: the library cannot be written or removed
    """
    if target is not None and target not in TARGETS:
        raise BuildError(f"{target!r} is not a target; those are {', '.join(TARGETS)}")
    if not sources.is_dir():
        raise BuildError(NO_SOURCES)
    name = target or host_target()
    if name is None:
        return Built(None, f"There are no kernels for this {platform.machine()} machine: {WITHOUT}")
    compiler = compiler or find_compiler(target)
    library = output / TARGETS[name].library
    wanted = Stamp(digest_of(sources), f"{name} {sanitize}", shlex.join(compiler or ()), werror)
    if library.exists() and does_for(read_stamp(library), wanted):
        return Built(library, f"{library.name} is up to date.")
    library.unlink(missing_ok=True)
    if compiler is None:
        note_absence(library, "there was no C++ compiler")
        return Built(None, f"No C++ compiler found: {WITHOUT}")
    began = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as work:
            made, left_out = compile_library(
                TARGETS[name], compiler, sources, Path(work), sanitize, werror
            )
            partial = library.with_name(f".{library.name}.{os.getpid()}")  # on the same file system
            shutil.copy(made, partial)
            os.replace(partial, library)
    except BuildError as error:
        note_absence(library, f"the compiler failed: {error.summary}")
        raise
    absence_of(library).unlink(missing_ok=True)
    write_stamp(library, wanted)
    seconds = time.monotonic() - began
    without = f", without {', '.join(left_out)}" if left_out else ""
    command = shlex.join([Path(compiler[0]).name, *compiler[1:]])
    return Built(library, f"Built {library.name} with {command} in {seconds:.1f} s{without}.")


def host_target() -> str | None:
    """The key of TARGETS for this machine and Python, or None."""
    machine = platform.machine().lower()
    architecture = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    name = f"{architecture}-{system}"
    return name if name in TARGETS and sys.maxsize > 2**32 else None


def find_compiler(target: str | None = None) -> list[str] | None:
    """The command of a C++ compiler for a target; None if this machine has none for itself.

    For this machine, $CXX or else the first of COMPILERS on the path; for a target that was asked
    for, PyPI's ziglang.

    :raises BuildError: ziglang is asked for and not installed
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


def digest_of(sources: Path) -> str:
    """Of all that a library is made of: the sources, and this file with the flags."""
    digest = hashlib.sha256()
    for file in [Path(__file__), *sorted(sources.glob("*.*"))]:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What a library was made of and how; kept in a file beside it."""

    sources: str  # their digest
    options: str
    compiler: str  # "" for none
    werror: bool


def read_stamp(library: Path) -> Stamp | None:
    try:
        sources, options, compiler, werror = _stamp_of(library).read_text().split("\n")
    except (OSError, ValueError):
        return None
    return Stamp(sources, options, compiler, werror == "werror")


def write_stamp(library: Path, stamp: Stamp) -> None:
    lines = [stamp.sources, stamp.options, stamp.compiler, "werror" if stamp.werror else ""]
    _stamp_of(library).write_text("\n".join(lines))


def _stamp_of(library: Path) -> Path:
    return library.with_name(f"{library.name}.built")


def does_for(kept: Stamp | None, wanted: Stamp) -> bool:
    """Whether a library with a stamp need not be made anew; another compiler must be there to."""
    return (
        kept is not None
        and (kept.sources, kept.options) == (wanted.sources, wanted.options)
        and wanted.compiler in ("", kept.compiler)
        and (kept.werror or not wanted.werror)
    )


def absence_of(library: Path) -> Path:
    """The file that says why there is no library, for who looks for it later."""
    return library.with_name(f"{library.name}.absent")


def note_absence(library: Path, reason: str) -> None:
    with contextlib.suppress(OSError):  # a directory that cannot be written to is no new failure
        absence_of(library).write_text(reason)


def compile_library(
    target: Target,
    compiler: Sequence[str],
    sources: Path,
    work: Path,
    sanitize: str,
    werror: bool,
) -> tuple[Path, list[str]]:
    """Compile and link in ``work``.

    Returns the library, and the instruction sets that it lacks: they have no source, or the
    compiler does not know them.
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
    return sources / f"instruction_set_{name}.cpp"


def flags_of_instruction_sets(
    architecture: str, compiler: Sequence[str], sources: Path, work: Path
) -> dict[str, list[str]]:
    """The flags of each instruction set that has a source and that the compiler knows.

    :raises BuildError: a source is of an instruction set that INSTRUCTION_SETS does not have
    """
    expected = {source_of(sources, name) for known in INSTRUCTION_SETS.values() for name in known}
    if unknown := sorted(set(sources.glob("instruction_set_*.cpp")) - expected):
        raise BuildError(f"{unknown[0].name}: build.py has no flags for it")
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
    """The first of some spellings of flags with which the compiler compiles an empty file."""
    probe.write_text("")
    for flags in map(str.split, spellings):
        try:
            run([*compiler, *flags, "-c", str(probe), "-o", f"{probe}.o"])
        except BuildError:
            continue
        return flags
    return None


def link_flags(target: Target, work: Path, sanitize: str) -> list[str]:
    if sanitize:  # the sanitizer's own library comes with the program that loads this one
        return ["-shared"]
    flags = ["-shared", "-s"]
    if target.system == "macos":  # its C++ library is part of the system
        flags.append(f"-Wl,-install_name,@rpath/{target.library}")
    else:
        flags += ["-static-libstdc++", "-static-libgcc"]
    if target.system == "linux":  # nothing undefined, and of the C++ library nothing exported
        (work / "exports").write_text(EXPORTS)
        flags += ["-Wl,-z,defs", f"-Wl,--version-script={work / 'exports'}"]
    return flags


def run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BuildError(f"{said or f'exit code {done.returncode}'}\n{shlex.join(command)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Compile edgerank's kernels, if there is a C++ compiler and they have changed."
    )
    parser.add_argument("--target", choices=TARGETS, help="compile for it by ziglang of PyPI")
    parser.add_argument(
        "--compiler",
        metavar="COMMAND",
        help="the C++ compiler of the target; by default $CXX, c++, g++ or clang++ for this"
        " machine",
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, metavar="DIR", help="where the library goes"
    )
    parser.add_argument("--sanitize", default="", metavar="NAMES", help="such as address,undefined")
    parser.add_argument("--werror", action="store_true", help="let warnings be errors")
    options = parser.parse_args(arguments)
    compiler = shlex.split(options.compiler or "", posix=os.name != "nt")
    try:
        built = build(
            options.target,
            compiler,
            options.output,
            sanitize=options.sanitize,
            werror=options.werror,
        )
    except (BuildError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{built.message}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
