"""Write the stubs in edgerank/_proto/ anew: python proto/generate.py [DIRECTORY]

DIRECTORY takes the place of the repository root, for the test that compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PACKAGE = "edgerank/_proto"
SOURCES = ["proto/edgerank/v1", "proto/tei/v1"]


def generate(root: Path) -> None:
    """Write the stubs under ``root``.

    The sources are mapped into the package, so that the stubs import each other from there.
    """
    (root / PACKAGE).mkdir(parents=True, exist_ok=True)
    mapped = [f"-I{PACKAGE}={ROOT / source}" for source in SOURCES]
    names = sorted(path.name for source in SOURCES for path in (ROOT / source).glob("*.proto"))
    outputs = [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    status = protoc.main(["protoc", *mapped, *outputs, *(f"{PACKAGE}/{name}" for name in names)])
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
