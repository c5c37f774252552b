"""The whole path of a closed site, from one file to answers: run where there is no network.

    python -m tests.airgap.path PACK PUB CHECKPOINT WORK

Each step is a command as an administrator gives it. What was installed from the pack verifies,
ranks, serves and rolls back; quantizing and evaluating run from the checkout, whose libraries are
too large to install in a test.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerank.airgap.install import move_link
from tests.support import ROOT

QUERY = "who wrote dune?"
DOCUMENTS = ["Paris is the capital of France.", "Dune was written by Frank Herbert."]
COMMAND = ROOT / "edgerank/airgap/command.sh"
SWITCHES = dict(re.findall(r'^: "\$\{(\w+):=(\w+)\}"; export \1$', COMMAND.read_text(), re.M))
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def main() -> None:
    pack, public, checkpoint, work = map(Path, sys.argv[1:])
    start_loopback()
    interfaces = [name for _, name in socket.if_nameindex()]
    assert interfaces == ["lo"], interfaces
    unpacked, releases, current = work / "unpacked", work / "releases", work / "current"
    documents = work / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    checkout = [sys.executable, "-m", "edgerank"]
    edgerank = [current / "bin" / "edgerank"]

    with step("unpack"):
        run(*checkout, "unpack", pack, "--trust", public, "-o", unpacked)
    with step("install"):
        run(sys.executable, unpacked / "install.py", releases / "1", "--link", current)
    with step("verify"):
        verify = [*edgerank, "verify", "--installed", current, "--trust", public]
        assert run(*verify).startswith("signed  manifest.json\nintact  edgerank ")
        packages = installed(current)
        assert packages == of_the_bill(current), packages ^ of_the_bill(current)
        assert packages == of_the_notice(current)
    with step("rank"):
        model = ["--model", current / "models/default", "--trust", public]
        assert best(run(*edgerank, "rerank", QUERY, documents, *model, "--json")) == DOCUMENTS[1]
    with step("serve"), serving(edgerank, *model) as (grpc, http):
        first = run(*edgerank, "client", QUERY, documents, "--server", grpc, "--json")
        assert best(first) == DOCUMENTS[1]
        assert ask_over_http(http) == 1
    with step("quantize"):
        bundle = work / "models" / "tiny"
        run(*checkout, "quantize", checkpoint, "-o", bundle)
        assert len(json.loads(run(*edgerank, "rerank", QUERY, documents, "-m", bundle, "--json")))
    with step("eval"):
        write_collection(work / "collection")
        assert "ndcg" in run(*checkout, "eval", bundle, work / "collection", "--json").lower()
    with step("upgrade and roll back"):
        # stands for another release: another model, and the packages of the first
        shutil.copytree(releases / "1/bin", releases / "2/bin")
        (releases / "2/venv").symlink_to(releases / "1/venv")
        shutil.copytree(bundle, releases / "2/models/default")
        move_link(current, releases / "2")
        with serving(edgerank, "--model", current / "models/default") as (grpc, _):
            second = run(*edgerank, "client", QUERY, documents, "--server", grpc, "--json")
        move_link(current, releases / "1")
        with serving(edgerank, "--model", current / "models/default") as (grpc, _):
            third = run(*edgerank, "client", QUERY, documents, "--server", grpc, "--json")
        assert first == third != second
    with step("stay offline"):
        assert len(SWITCHES) > 8
        assert switches(current) >= SWITCHES.items()
        assert run(*verify)  # all of this has left no trace


def start_loopback() -> None:
    """Bring up the only interface that a new network namespace has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


@contextmanager
def step(name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)  # noqa: T201


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def best(output: str) -> str:
    return json.loads(output)[0]["text"]


@contextmanager
def serving(command: list[Path], *options: str | Path) -> Iterator[tuple[str, str]]:
    """Run a server; yield its addresses for gRPC and HTTP once it serves."""
    ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*map(str, command), "serve", *map(str, options), *ports],
        stderr=subprocess.PIPE,
        text=True,
    )
    addresses: list[str] = []
    try:
        assert server.stderr is not None
        for line in server.stderr:
            record = json.loads(line)
            if record["message"] == "listening":
                addresses = record["addresses"]
            if record["message"] == "serving":
                break
        assert addresses, server.wait(10)
        yield addresses[0], addresses[-1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def ask_over_http(address: str) -> int:
    """Return the index of the best document."""
    body = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
    request = urllib.request.Request(
        f"http://{address}/v1/rerank", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["results"][0]["index"]


def write_collection(directory: Path) -> None:
    (directory / "qrels").mkdir(parents=True)
    documents = [{"_id": str(index), "text": text} for index, text in enumerate(DOCUMENTS)]
    (directory / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (directory / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}))
    (directory / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")


def installed(release: Path) -> set[tuple[str, str]]:
    """Return the packages of an installation with their versions."""
    code = (
        "from importlib.metadata import distributions\n"
        "for each in distributions(): print(each.name, each.version)"
    )
    lines = run(release / "venv/bin/python", "-I", "-c", code).splitlines()
    return {(canonical(line.split()[0]), line.split()[1]) for line in lines}


def of_the_bill(release: Path) -> set[tuple[str, str]]:
    """Return the packages that the bill of materials names."""
    bill = json.loads((release / "sbom.cdx.json").read_text())
    libraries = [each for each in bill["components"] if each["type"] == "library"]
    return {(canonical(each["name"]), each["version"]) for each in libraries}


def of_the_notice(release: Path) -> set[tuple[str, str]]:
    """Return the packages that the attributions name, each of which must have a licence text."""
    found = set()
    for line in (release / "licenses/NOTICE.txt").read_text().splitlines():
        package = re.fullmatch(r"(\S+) (\d\S*): (.+); (licenses/.+)", line)
        if package:
            texts = package[4].split(", ")
            assert all((release / text).stat().st_size for text in texts), line
            found.add((package[1], package[2]))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def switches(release: Path) -> set[tuple[str, str]]:
    """Return the environment that the installed command gives to edgerank."""
    command = (release / "bin/edgerank").read_text()
    probe = re.sub(r"^exec .*$", f"exec '{shutil.which('env')}'", command, flags=re.MULTILINE)
    done = subprocess.run(["sh"], input=probe, env={}, capture_output=True, text=True, check=True)
    return {tuple(line.split("=", 1)) for line in done.stdout.splitlines()}  # type: ignore[misc]


if __name__ == "__main__":
    os.environ.pop("EDGERANK_MODEL", None)
    main()
