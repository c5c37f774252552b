"""What is imported: by the text of a file, and by a fresh interpreter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the full name of every module, or member of one, that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(ROOT).parts
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def imports_of(pattern: str) -> dict[str, set[str]]:
    """Imports of every file that a glob matches, by its path from the root; there is at least one.

    :param pattern: From the root, as ``edgerank/**/*.py``.
    """
    found = {
        path.relative_to(ROOT).as_posix(): set(imported_modules(path))
        for path in sorted(ROOT.glob(pattern))
    }
    assert found, f"no file matches {pattern}"
    return found


def within(module: str, package: str) -> bool:
    """Tell whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def importers_of(package: str, pattern: str) -> set[str]:
    """Files that a glob matches and that import a package or something in it."""
    return {
        file
        for file, modules in imports_of(pattern).items()
        if any(within(module, package) for module in modules)
    }


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code that may use ``sys`` in a fresh interpreter, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{code}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def loaded_by(code: str, *arguments: str | Path) -> set[str]:
    """Full names of the modules that a fresh interpreter has loaded after running code."""
    done = run(f"{code}\nimport json; print(json.dumps(list(sys.modules)))", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    """The top-level names of modules."""
    return {module.split(".")[0] for module in modules}
