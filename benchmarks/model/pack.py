"""How large is a pack for a site without internet access, and how long do its steps take?

Packs of the model in the package with the extras server and http, each made, unpacked, installed
and checked by the commands of the documentation. Wheels come from where pip is configured to get
them; edgerank's own are those of `make wheels`. What is for another machine is not installed.
Ranking is a command of its own, from its start to its answer.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.paths import ROOT
from benchmarks.common.record import Figure, Row
from edgerank.airgap.wheels import parse_platforms
from edgerank.errors import EdgerankError

DOCUMENTS = "Paris is the capital of France.\nDune was written by Frank Herbert.\n"


@click.option("--machine", "machines", multiple=True, default=["x86_64", "aarch64"])
@options.work
def measure(machines: list[str], work: Path | None) -> Iterator[Row]:
    wheels = sorted((ROOT / "dist").glob("edgerank-*-manylinux*.whl"))
    if not wheels:
        raise EdgerankError("there are no wheels in dist/: make wheels")
    [here] = parse_platforms((), ())
    with options.directory(work) as place:
        for machine in machines:
            directory = Path(place, machine)
            directory.mkdir()
            target = ["--python", here.python, "--platform", f"manylinux_2_28_{machine}"]
            found = steps(directory, target, wheels, install=machine == here.machine)
            yield Row({"pack": f"Python {here.python}, {machine}"}, found)


def steps(
    directory: Path, target: list[str], wheels: list[Path], *, install: bool
) -> dict[str, Figure]:
    """Go the way of a pack; return sizes and seconds."""
    edgerank = [sys.executable, "-m", "edgerank"]
    key, file, unpacked = directory / "key", directory / "pack", directory / "unpacked"
    run(*edgerank, "keygen", key)
    options = [*target, "--extra", "server", "--extra", "http", "--sign", key]
    own = [part for wheel in wheels for part in ("--wheel", wheel)]
    trust = ["--trust", directory / "key.pub"]
    seconds = {
        "packing": run(*edgerank, "pack", file, *options, *own),
        "unpacking": run(*edgerank, "unpack", file, *trust, "-o", unpacked),
    }
    sizes = {"pack": file.stat().st_size}
    if install:
        site, documents = directory / "site", directory / "documents.txt"
        documents.write_text(DOCUMENTS)
        own_command = site / "bin/edgerank"
        seconds["installing"] = run(sys.executable, unpacked / "install.py", site)
        seconds["verifying"] = run(own_command, "verify", "--installed", site, *trust)
        model = ["--model", site / "models/default", *trust]
        seconds["ranking"] = run(own_command, "rerank", "who wrote dune?", documents, *model)
        files = [path for path in site.rglob("*") if path.is_file() and not path.is_symlink()]
        sizes["installed"] = sum(path.stat().st_size for path in files)
    return {name: Figure(size / 1e6, "MB") for name, size in sizes.items()} | {
        name: Figure(each, "s") for name, each in seconds.items()
    }


def run(*command: str | Path) -> float:
    """Run a command; return how many seconds it took.

    :raises EdgerankError: it failed
    """
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise EdgerankError(done.stderr.strip())
    return time.perf_counter() - start
