"""A library in place of that of the kernels, with the same interface and no operators."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

# The library remembers, for each thread, what was chosen when a session last registered it.
SOURCE = r"""
#include <string.h>
#include <unistd.h>

static char chosen[32];
static __thread char seen[32];

const char* edgerank_instruction_sets(void) { return "@NAMES@"; }

int edgerank_choose(const char* name, int threads) {
  strncpy(chosen, name, sizeof(chosen) - 1);
  usleep(1000);  /* others may come in between */
  return strstr("@NAMES@", name) != NULL;
}

void* RegisterCustomOps(void* options, const void* api) {
  strcpy(seen, chosen);
  return NULL;
}

const char* seen_by_this_thread(void) { return seen; }
"""


def compile_library(path: Path, *names: str, source: str = SOURCE) -> Path:
    """Compile a library whose kernels this CPU runs are called ``names``; without a compiler, skip.

    :param source: C, with @NAMES@ for the names
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is on PATH")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-o", path, "-"],
        input=source.replace("@NAMES@", ",".join(names)).encode(),
        check=True,
    )
    return path


def seen_by_this_thread(path: Path) -> str:
    """Return what was chosen when this thread last registered the library; "" if it never did."""
    library = ctypes.CDLL(str(path))
    library.seen_by_this_thread.restype = ctypes.c_char_p
    return library.seen_by_this_thread().decode()
