"""Peers' environments and worker processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks.common.paths import ROOT
from benchmarks.common.processes import peak_bytes
from benchmarks.common.turns import WithdrawnError
from benchmarks.peers.catalogue import Environment
from benchmarks.peers.workers.worker import CANNOT_RUN
from edgerank.cpu import CPU_TOPOLOGY

WORKERS = Path(__file__).parent / "workers"
TIMEOUT_S = 1800.0  # for one answer
CONVERT_TIMEOUT_S = 7200.0
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONUNBUFFERED": "1"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class PeerError(WithdrawnError):
    """A peer has no environment, cannot run a workload or broke off; the message says why."""


class Ready(msgspec.Struct, frozen=True):
    """What a worker says once it has scored."""

    import_s: float
    load_s: float
    model_bytes: int
    versions: dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """What a worker says to a line of requests."""

    seconds: float
    scores: list[list[float]]
    error: str | None = None


def make_environment(root: Path, environment: Environment) -> Path:
    """Install an environment's requirements unless they are there: its Python.

    It has no pip, so that its size is the peer's. It is made anew when the requirements change.

    :raises PeerError: it cannot be made
    """
    directory = root / environment.name
    stamp = directory / ".installed"
    options = [word for requirement in environment.requirements for word in requirement.split()]
    files = [ROOT / word for word in options if word.endswith(".txt")]
    wanted = "\n".join([*options, *(file.read_text() for file in files)])
    python = directory / "bin/python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    click.echo(f"making the environment {environment.name}: {' '.join(options)}", err=True)
    shutil.rmtree(directory, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(directory)],
        [*pip, "--python", str(python), "install", *options],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise PeerError(f"its environment: {_last_line(done.stderr)}")
    stamp.write_text(wanted)
    return python


def size_of(directory: Path) -> int:
    """Sum the bytes of the files under a directory, links not followed."""
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and not p.is_symlink())


def convert(python: Path, script: str, checkpoint: Path, setting: str, work: Path) -> float:
    """Have a worker convert a model into ``work``, unless it has: the seconds that this took.

    :raises PeerError: it cannot
    """
    stamp = work / ".converted"
    if stamp.exists():
        return float(stamp.read_text())
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*_command(python, script, checkpoint, setting, work), "--prepare"],
            env={**os.environ, **OFFLINE},
            capture_output=True,
            text=True,
            timeout=CONVERT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"its conversion takes longer than {CONVERT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise PeerError(_last_line(done.stderr))
    seconds = time.perf_counter() - start
    stamp.write_text(str(seconds))
    return seconds


class Worker:
    """A worker process, stopped while others have their turn."""

    def __init__(
        self,
        python: Path,
        script: str,
        checkpoint: Path,
        setting: str,
        work: Path,
        *,
        threads: int,
    ) -> None:
        """Start it and wait until it has scored its first request.

        :raises PeerError: it cannot run this, or ends
        """
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*_command(python, script, checkpoint, setting, work), "--threads", str(threads)],
            env={**os.environ, **OFFLINE, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=lambda: os.sched_setaffinity(0, _cpus(threads)),
        )
        try:
            self.ready = self._read(Ready)
        except PeerError:
            self.close()
            raise
        self.start_s = time.perf_counter() - start
        self._process.send_signal(signal.SIGSTOP)

    def score(self, requests: Sequence[dict[str, Any]]) -> Answer:
        """Have concurrent requests scored.

        :raises PeerError: the worker reports an error, or ends
        """
        self._process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # reading says why
            self._process.stdin.write(json.dumps({"requests": list(requests)}).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._read(Answer)
        self._process.send_signal(signal.SIGSTOP)
        if answer.error is not None:
            raise PeerError(answer.error)
        wanted = [len(request["documents"]) for request in requests]
        if [len(scores) for scores in answer.scores] != wanted:
            raise PeerError("it did not give one score a document")
        return answer

    def peak_bytes(self) -> int:
        """Return the most memory that the process has held."""
        return peak_bytes(Path(f"/proc/{self._process.pid}/status").read_text())

    def close(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def _read(self, kind: type) -> Any:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(TIMEOUT_S, expire)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if expired.is_set():
            raise PeerError(f"no answer within {TIMEOUT_S:.0f} s")
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            reason = _last_line(self._errors.read().decode(errors="replace"))
            raise PeerError(reason if status == CANNOT_RUN else f"exit status {status}: {reason}")
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.MsgspecError as error:
            raise PeerError(f"not an answer: {error}") from error


def _command(python: Path, script: str, checkpoint: Path, setting: str, work: Path) -> list[str]:
    return [
        *(str(python), str(WORKERS / f"{script}.py")),
        *("--checkpoint", str(checkpoint), "--setting", setting, "--work", str(work)),
    ]


def _cpus(threads: int) -> list[int]:
    """Choose CPUs for so many threads: of different cores, as long as there are any."""
    seen: set[str] = set()
    first, others = [], []
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(CPU_TOPOLOGY.format(cpu))
        core = path.read_text() if path.exists() else str(cpu)
        (others if core in seen else first).append(cpu)
        seen.add(core)
    return (first + others)[:threads]


def _last_line(text: str) -> str:
    """Return the line that most likely says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]  # pip puts hints below them
    return (errors or lines or ["it said nothing"])[-1]
