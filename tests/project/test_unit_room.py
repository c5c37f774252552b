"""The tests of tests/unit pass where nothing but edgerank, pytest and hypothesis is installed.

``make test-unit`` shows it in an environment of its own; here, all other packages are hidden from
the process of the tests, though not from processes that they start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement

from tests.support import ROOT

HIDE = """
import sys, pytest

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)

hidden = set(sys.argv[1].split())
sys.meta_path.insert(0, Hidden())
sys.exit(pytest.main(sys.argv[2:]))
"""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_of(*names: str) -> set[str]:
    """Distributions with all that they require, without extras."""
    found: set[str] = set()
    waiting = [normalised(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(normalised(requirement.name))
    return found


def hidden_packages() -> set[str]:
    """Importable names of what is installed and needed by none of the three."""
    kept = distributions_of("edgerank", "pytest", "hypothesis")
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if kept.isdisjoint(map(normalised, owners))
    }
    return hidden | {"quantize"}


def run_hidden(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-c", HIDE, " ".join(hidden_packages()), "-q", *arguments],
        cwd=ROOT,
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_the_unit_tests_pass_without_any_other_package():
    assert hidden_packages() >= {"torch", "transformers", "onnx", "grpc", "scipy", "numba"}
    done = run_hidden("tests/unit", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d+ passed", done.stdout)


def test_a_hidden_package_would_be_noticed(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it():\n    import scipy.stats\n")
    done = run_hidden(str(tmp_path), "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "No module named 'scipy' (hidden)" in done.stdout
