"""Compile the kernels, ``src/*.cpp``, into one shared library beside this file, if they changed.

    python -m edgerank.kernels.build             # for this machine
    python edgerank/kernels/build.py --help      # the same, where edgerank is not installed

This module needs only the standard library, because pip runs it before it installs edgerank's
dependencies. If there is no C++ compiler, edgerank runs on ONNX Runtime's own operators.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:  # relative, because hatch_build.py imports it without edgerank
    from .toolchain import TARGETS, BuildError, compile_library, find_compiler, host_target
else:  # started by its path; Python may leave the directory out (PYTHONSAFEPATH)
    sys.path.insert(0, str(Path(__file__).parent))
    from toolchain import TARGETS, BuildError, compile_library, find_compiler, host_target

HERE = Path(__file__).parent
WITHOUT = "edgerank uses ONNX Runtime's stock operators."
REINSTALL = "pip install --force-reinstall --no-deps --no-binary edgerank edgerank"
NO_SOURCES = f"""This installation has no sources of the kernels. If you have a C++ compiler, run
    {REINSTALL}
or install a checkout."""


@dataclass(frozen=True)
class Built:
    """The result of a build."""

    library: Path | None  # None: there is no compiler, or there are no kernels for this machine
    message: str  # one line


def build(
    target: str | None = None,
    compiler: Sequence[str] | None = None,
    output: Path = HERE,
    sources: Path = HERE / "src",
    sanitize: str = "",
    werror: bool = False,
) -> Built:
    """Compile the kernels, unless ``output`` has a library of the same sources and options.

    A library of other sources or options is removed, even if no new one can be made.

    :param target: a key of TARGETS; None for this machine
    :param compiler: the command of a compiler for ``target``; None to use `find_compiler`
    :param sanitize: the value of the compiler's option -fsanitize, such as "address,undefined"
    :param werror: treat warnings as errors
    :raises BuildError: the target is unknown, there are no sources, or the compiler fails
    :raises OSError: the library cannot be written or removed
    """
    if target is not None and target not in TARGETS:
        raise BuildError(f"{target!r} is not a target; choose {', '.join(TARGETS)}")
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
            # on the file system of the library, so that replacing it is atomic
            partial = library.with_name(f".{library.name}.{os.getpid()}")
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


def digest_of(sources: Path) -> str:
    """Return the sha256 of what a library is made from: the sources and toolchain.py."""
    digest = hashlib.sha256()
    for file in [HERE / "toolchain.py", *sorted(sources.glob("*.*"))]:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What a library was built from, and how; it is kept in a file beside the library."""

    sources: str  # see digest_of
    options: str
    compiler: str  # its command; "" for none
    werror: bool


def read_stamp(library: Path) -> Stamp | None:
    """Return the stamp of a library, or None if it has none."""
    try:
        sources, options, compiler, werror = _stamp_of(library).read_text().split("\n")
    except (OSError, ValueError):
        return None
    return Stamp(sources, options, compiler, werror == "werror")


def write_stamp(library: Path, stamp: Stamp) -> None:
    """Write the stamp of a library.

    :raises OSError: it cannot be written
    """
    lines = [stamp.sources, stamp.options, stamp.compiler, "werror" if stamp.werror else ""]
    _stamp_of(library).write_text("\n".join(lines))


def _stamp_of(library: Path) -> Path:
    return library.with_name(f"{library.name}.built")


def does_for(kept: Stamp | None, wanted: Stamp) -> bool:
    """Return whether a library with the stamp ``kept`` can be used where ``wanted`` is asked for.

    Without a compiler, a library of any compiler can be used.
    """
    return (
        kept is not None
        and (kept.sources, kept.options) == (wanted.sources, wanted.options)
        and wanted.compiler in ("", kept.compiler)
        and (kept.werror or not wanted.werror)
    )


def absence_of(library: Path) -> Path:
    """Return the path of the file that says why there is no library."""
    return library.with_name(f"{library.name}.absent")


def note_absence(library: Path, reason: str) -> None:
    """Write the reason why there is no library to a file, if the directory can be written."""
    with contextlib.suppress(OSError):
        absence_of(library).write_text(reason)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status: 0, or 1 if the build failed."""
    parser = argparse.ArgumentParser(
        description="Compile edgerank's kernels, if they changed and there is a C++ compiler."
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        help="compile for this platform; the default compiler is then PyPI's ziglang",
    )
    parser.add_argument(
        "--compiler",
        metavar="COMMAND",
        help="use this C++ compiler; the default for this machine is $CXX, c++, g++ or clang++",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=HERE,
        metavar="DIR",
        help="write the library to this directory; the default is the package's own",
    )
    parser.add_argument(
        "--sanitize",
        default="",
        metavar="NAMES",
        help="compile with these sanitizers, such as address,undefined",
    )
    parser.add_argument("--werror", action="store_true", help="treat warnings as errors")
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
