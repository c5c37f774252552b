"""Chooses the kernels of sessions: compiled ones, or ONNX Runtime's own operators.

The library of compiled kernels is optional: without it ONNX Runtime runs stock operators, which
give the same scores up to rounding.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgerank.errors import InputError, ProviderError

if TYPE_CHECKING:
    import onnxruntime as ort

DOMAIN = "edgerank.kernels"  # of the operators; also the name of the library in a bundle's needs
AUTO, STOCK = "auto", "stock"
VARIABLE = "EDGERANK_KERNELS"  # the default choice
BUILD = "python -m edgerank.kernels.build"
_FILES = {"win32": "edgerank_kernels.dll", "darwin": "libedgerank_kernels.dylib"}
SOURCES = Path(__file__).parent / "src"  # a wheel has none
LIBRARY = Path(__file__).parent / _FILES.get(sys.platform, "libedgerank_kernels.so")

# the library has one global choice, which a session reads when it is created
_registering = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """The chosen kernels, and the reason for the choice."""

    name: str  # "stock", or the instruction set of compiled kernels
    reason: str
    library: Path | None = None  # None for stock

    @property
    def are_compiled(self) -> bool:
        """Whether sessions use the library."""
        return self.library is not None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Library:
    """The library of compiled kernels, as this process finds it."""

    path: Path
    # those with kernels that this CPU can run, the fastest first, and last one that "auto" never
    # takes, because it rounds more
    instruction_sets: tuple[str, ...]
    problem: str | None  # why there are none


def find_library() -> Library:
    """Look for the library of this platform, which is optional."""
    if problem := _why_absent_or_stale():
        return Library(LIBRARY, (), problem)
    try:
        loaded = load_library(LIBRARY)
        names = loaded.edgerank_instruction_sets().decode()
    except (OSError, AttributeError) as error:  # of another system, or another library altogether
        problem = f"the library cannot be loaded: {error}; {_how_to_build()} builds it anew"
        return Library(LIBRARY, (), problem)
    if not names:
        problem = "this CPU has none of the instruction sets that the library is made for"
        return Library(LIBRARY, (), problem)
    return Library(LIBRARY, tuple(names.split(",")), None)


def _why_absent_or_stale() -> str | None:
    """Return why there is no library of these sources, and what to do; None if there is one."""
    from edgerank.kernels import build, toolchain

    if LIBRARY.exists():
        stamp = build.read_stamp(LIBRARY)  # where there are no sources, it came with the package
        if stamp is None or not SOURCES.is_dir() or stamp.sources == build.digest_of(SOURCES):
            return None
        return f"the library was built from other sources; build it again: {BUILD}"
    if toolchain.host_target() is None:
        return f"there are no kernels for this {platform.machine()} machine"
    try:
        reason = build.absence_of(LIBRARY).read_text()
    except OSError:
        return f"the library is not built; to build it with a C++ compiler, run {_how_to_build()}"
    return f"the library is not built, because {reason}; with a compiler, run {_how_to_build()}"


def _how_to_build() -> str:
    from edgerank.kernels import build

    return BUILD if SOURCES.is_dir() else build.REINSTALL


def available() -> tuple[str, ...]:
    """Return the instruction sets that there are kernels for, as `Library` has them; () if none."""
    return find_library().instruction_sets


def choose_kernels(asked: str | None = None) -> Kernels:
    """Choose the kernels of sessions.

    :param asked: "auto", "stock", or the name of an instruction set; by default what the variable
        EDGERANK_KERNELS says, and "auto" where it says nothing. "auto" takes the fastest kernels
        that this CPU can run, and stock operators where there are none.
    :raises InputError: there are no kernels of that name here
    """
    by = ""
    if asked is None and os.environ.get(VARIABLE):
        asked, by = os.environ[VARIABLE], f" by {VARIABLE}"
    if asked == STOCK:
        return Kernels(STOCK, f"asked for{by}")
    library = find_library()
    names = library.instruction_sets
    if asked is None or asked == AUTO:
        if not names:
            return Kernels(STOCK, str(library.problem))
        return Kernels(names[0], "the fastest that this CPU can run", library.path)
    if asked not in names:
        known = ", ".join([AUTO, STOCK, *names])
        but = "" if library.problem is None else f" ({library.problem})"
        place = f" in {VARIABLE}" if by else ""
        raise InputError("kernels", f"{asked!r}{place} cannot be used here; choose {known}{but}")
    return Kernels(asked, f"asked for{by}", library.path)


def register(options: ort.SessionOptions, kernels: Kernels, threads: int) -> None:
    """Make a session that is opened with ``options`` use ``kernels``; stock needs nothing.

    :param threads: number of threads of the session
    :raises ProviderError: the library does not fit the installed ONNX Runtime
    """
    if kernels.library is None:
        return
    with _registering:
        load_library(kernels.library).edgerank_choose(kernels.name.encode(), threads)
        try:
            options.register_custom_ops_library(str(kernels.library))
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ProviderError(
                f"{kernels.library}: ONNX Runtime does not take it: {error};"
                f" {_how_to_build()} builds it anew, and {VARIABLE}={STOCK} does without"
            ) from error


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """Load the library, which stays loaded.

    :raises OSError: it is missing, or not made for this system
    :raises AttributeError: it is another library
    """
    loaded = ctypes.CDLL(str(path))
    loaded.edgerank_instruction_sets.restype = ctypes.c_char_p
    loaded.edgerank_choose.argtypes = [ctypes.c_char_p, ctypes.c_int]
    return loaded
