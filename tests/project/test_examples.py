"""Examples that need no more than edgerank, or the runtime of another language."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from edgerank import Client
from edgerank.bundle import DEFAULT_BUNDLE
from tests.support import ROOT
from tests.support.serving import ServerProcess

EXAMPLES = ROOT / "examples"
PROTO = ROOT / "proto/edgerank/v1/rerank.proto"
# a directory with node_modules of: npm install @grpc/grpc-js @grpc/proto-loader
NODE_PACKAGES = Path(os.environ.get("EDGERANK_NODE", ROOT / ".venv/node")) / "node_modules"
GO_TOOLS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
GO_PACKAGES = Path("/usr/share/gocode")
GO_PAGE = EXAMPLES / "go/README.md"
TIMEOUT_S = 240
NOVEL = "Dune is a novel by Frank Herbert."


@pytest.fixture(scope="module")
def server():
    with ServerProcess("--model", DEFAULT_BUNDLE) as running:
        yield running


def output_of(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_files_of_a_directory_are_ranked(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/dune.md").write_text(NOVEL)
    (tmp_path / "paris.txt").write_text("Paris is the capital of France.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    command = (sys.executable, EXAMPLES / "rerank_files.py", "who wrote dune?", tmp_path)
    lines = output_of(*command).splitlines()
    assert [line.split()[-1] for line in lines] == [
        str(tmp_path / "deep/dune.md"),
        str(tmp_path / "paris.txt"),
    ]


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_PACKAGES / "@grpc/grpc-js").exists(),
    reason="needs Node.js, and EDGERANK_NODE with @grpc/grpc-js and @grpc/proto-loader",
)
def test_a_client_in_node_ranks(server, tmp_path):
    shutil.copy(EXAMPLES / "grpc_client.mjs", tmp_path)  # packages are looked for beside it
    (tmp_path / "node_modules").symlink_to(NODE_PACKAGES.resolve())
    command = ("node", tmp_path / "grpc_client.mjs", server.address, PROTO)
    assert output_of(*command).strip().endswith(NOVEL)


@pytest.mark.skipif(
    not all(map(shutil.which, GO_TOOLS))
    or not (GO_PACKAGES / "src/google.golang.org/grpc").exists(),
    reason=f"needs {', '.join(GO_TOOLS)} and of Debian golang-google-grpc-dev and"
    " golang-github-golang-protobuf-1-5-dev",
)
def test_a_client_in_go_ranks(server, tmp_path):
    program = tmp_path / "src/example.org/rank"
    program.mkdir(parents=True)
    shutil.copy(EXAMPLES / "go/main.go", program)
    (generate,) = re.findall(
        r"^    (protoc .*?[^\\])$", GO_PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    generate = generate.replace("../../proto", str(ROOT / "proto")).replace("\\\n", " ")
    output_of(*shlex.split(generate), cwd=program)
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": f"{tmp_path}:{GO_PACKAGES}"}
    output = output_of("go", "run", ".", server.address, cwd=program, env=environment)
    assert output.strip().endswith(NOVEL)


def test_the_server_of_a_small_machine_starts_and_ranks(tmp_path):
    config = EXAMPLES / "edge_box/edgerank.toml"
    socket = f"unix:{tmp_path}/socket"
    options = ("--config", config, "--listen", socket, "--http", "127.0.0.1:0")
    with ServerProcess(*options, "--log-level", "info") as server:
        documents = ["Paris is the capital of France.", NOVEL]
        with Client(socket) as client:
            assert client.rank("who wrote dune?", documents)[0].index == 1
        body = json.dumps({"query": "who wrote dune?", "documents": documents})
        request = urllib.request.Request(f"http://{server.http}/v1/rerank", body.encode())
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["results"][0]["index"] == 1
