"""Stores when a process is killed, the disk is full, or several processes are at work."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgerank import DocumentStore, StoreError
from edgerank.lock import writing as hold
from edgerank.store import arrays, format, writing
from tests.support import ROOT
from tests.support.cli import environment
from tests.support.kills import in_a_process_killed_at
from tests.support.stores import HashedReranker

OLD = {f"old{number}": f"the old book {number}" for number in range(4)}
NEW = {f"new{number}": f"a new book {number}" for number in range(3)}
QUERY = "the book 3"
SMALL = {"SEGMENT_DOCUMENTS": 2, "BATCH_DOCUMENTS": 2}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(writing, name, value)
    # what a killed process has written is not lost, synced or not
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


OPERATIONS = (
    (arrays.ArrayFile, "__init__"),
    (arrays.ArrayFile, "write"),
    (os, "fsync"),
    (Path, "replace"),
    (Path, "unlink"),
)  # that a process is killed before


def state(directory: Path) -> tuple[tuple[str, ...], list[float]]:
    """The ids and their scores, once all files have been found intact."""
    with DocumentStore.open(directory, HashedReranker(), backend="numpy", verify=True) as store:
        names = tuple(sorted(store.ids))
        return names, [round(float(score), 4) for score in store.score(QUERY, names)]


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(("kind", "stride"), [("add", 3), ("replace", 5), ("delete", 1)])
def test_a_change_that_is_killed_anywhere_leaves_the_old_state_or_the_new(kind, stride, tmp_path):
    origin = tmp_path / "origin"
    DocumentStore.build(origin, OLD, HashedReranker(), backend="numpy")

    def change(directory: Path) -> None:
        store = DocumentStore.open(directory, HashedReranker(), backend="numpy")
        if kind == "delete":
            store.delete(["old0", "old2", "old3"])
        else:
            more = {"old1": "another text", **NEW} if kind == "replace" else NEW
            store.add(more, replace=kind == "replace")

    done = copied(origin, tmp_path / "done")
    change(done)
    old, new = state(origin), state(done)
    assert old != new
    seen = set()
    for step in range(1, 10_000, stride):
        directory = copied(origin, tmp_path / f"{step}")
        if not in_a_process_killed_at(step, lambda: change(directory), OPERATIONS):  # noqa: B023
            break
        found = state(directory)
        assert found in (old, new)
        seen.add(found == new)
        if found == old:  # and the next one begins as if nothing had been
            change(directory)
            assert state(directory) == new
            assert {path.name for path in directory.iterdir()} == {
                *json.loads((directory / "store.json").read_bytes())["files"],
                "store.json",
                "lock",
            }
    assert step > 10
    assert seen == {False, True} if stride == 1 else False in seen


def test_a_build_that_is_killed_anywhere_goes_on_with_what_it_had(tmp_path):
    def build(directory: Path) -> None:
        DocumentStore.build(directory, NEW, HashedReranker(), backend="numpy")

    done = tmp_path / "done"
    build(done)
    kept = set()
    for step in range(1, 10_000, 4):
        directory = tmp_path / f"{step}"
        if not in_a_process_killed_at(step, lambda: build(directory), OPERATIONS):  # noqa: B023
            break
        if (directory / "store.json").exists():
            manifest = format.read_store_manifest(directory)
            kept.add(manifest.num_documents)
            if not manifest.is_complete:
                with pytest.raises(StoreError, match="build was broken off"):
                    DocumentStore.open(directory, HashedReranker())
                build(directory)
            assert {*manifest.files} <= {path.name for path in directory.iterdir()}
        else:
            build(directory)
        assert state(directory) == state(done)
    assert kept == {0, 2, 3}


def test_a_build_goes_on_only_with_the_same_documents_and_model(tmp_path):
    directory = tmp_path / "store"

    def broken_off():
        yield from list(NEW.items())[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DocumentStore.build(directory, broken_off(), HashedReranker())
    assert format.read_store_manifest(directory).num_documents == 2
    changed = {**NEW, "new1": "another text"}
    with pytest.raises(StoreError, match="the documents are not those of the build"):
        DocumentStore.build(directory, changed, HashedReranker())
    with pytest.raises(StoreError, match="by another model"):
        DocumentStore.build(directory, NEW, HashedReranker(digest="b" * 64))
    store = DocumentStore.build(directory, NEW, HashedReranker(), backend="numpy")
    assert store.ids == list(NEW)


@pytest.mark.parametrize("kind", ["build", "add"])
def test_a_full_disk_is_an_error_that_leaves_the_old_state(kind, tmp_path):
    """A limit on the size of files stands in for the disk."""
    directory = tmp_path / "store"
    if kind == "add":
        DocumentStore.build(directory, OLD, HashedReranker(), backend="numpy")
    large = {"large": "many words in one document " * 400}

    def change() -> None:
        if kind == "add":
            DocumentStore.open(directory, HashedReranker(), backend="numpy").add(large)
        else:
            DocumentStore.build(directory, large, HashedReranker(), backend="numpy")

    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
        try:
            change()
        except StoreError as error:
            os._exit(7 if "it cannot be written" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
    files = {path.name for path in directory.iterdir()} - {"store.json", "lock"}
    assert files == format.read_store_manifest(directory).files.keys()
    if kind == "add":
        assert state(directory)[0] == tuple(OLD)
    change()
    assert "large" in state(directory)[0]


def test_there_is_one_writer_at_a_time(tmp_path):
    store = DocumentStore.build(tmp_path / "store", OLD, HashedReranker(), backend="numpy")
    program = (
        "import sys; from pathlib import Path; from edgerank.errors import StoreError\n"
        "from edgerank.lock import writing\n"
        "with writing(Path(sys.argv[1]) / 'lock', StoreError):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(store.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for change in (
            lambda: store.add(NEW),
            lambda: store.delete(["old1"]),
        ):
            with pytest.raises(StoreError, match="another process is writing"):
                change()
        assert DocumentStore.open(store.directory, HashedReranker()).ids == list(OLD)
        other.kill()  # and its lock goes with it
    store.add(NEW)
    with (
        hold(store.directory / format.LOCK_NAME, StoreError),
        pytest.raises(StoreError, match="another process is writing"),
    ):
        store.delete(["old1"])


def test_readers_see_one_state_or_another_while_a_process_writes(tmp_path):
    directory = tmp_path / "store"
    DocumentStore.build(directory, OLD, HashedReranker(), backend="numpy")
    before = state(directory)
    reader = DocumentStore.open(directory, HashedReranker(), backend="numpy")
    child = os.fork()
    if child == 0:
        try:
            store = DocumentStore.open(directory, HashedReranker(), backend="numpy")
            for _ in range(60):
                store.add(NEW)
                store.delete(NEW)
        finally:
            os._exit(0)
    seen = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        found = state(directory)
        seen.add(found[0])
        assert found[0] in (tuple(OLD), tuple(sorted({**OLD, **NEW})))
        assert [round(float(s), 4) for s in reader.score(QUERY, before[0])] == before[1]
    assert len(seen) == 2
    assert state(directory) == before


PROGRAM = """
import sys
from edgerank import DocumentStore
from edgerank.store import writing
from tests.support.stores import HashedReranker
writing.SEGMENT_DOCUMENTS = writing.BATCH_DOCUMENTS = 50
documents = {f"d{number}": f"document number {number} of many" for number in range(4000)}
print("begun", flush=True)
DocumentStore.build(sys.argv[1], documents, HashedReranker(), backend="numpy")
"""


def test_a_process_that_is_killed_at_random_moments_ends_its_build_at_last(tmp_path):
    def num_stored() -> int:
        if not (tmp_path / "store" / "store.json").exists():
            return 0
        return format.read_store_manifest(tmp_path / "store").num_documents

    rng = np.random.default_rng(int(time.time()))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store")]
    counts = [0]
    for _ in range(4):
        aim = counts[-1] + 50 * rng.integers(1, 8)  # most documents are left to do
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=ROOT, env=environment()
        ) as process:
            assert process.stdout.readline() == b"begun\n"
            while num_stored() < aim:
                assert process.poll() is None
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        counts.append(num_stored())
    assert counts == sorted(counts)
    assert 0 < counts[-1] < 4000
    subprocess.run(command, check=True, cwd=ROOT, env=environment())
    store = DocumentStore.open(tmp_path / "store", HashedReranker(), backend="numpy", verify=True)
    assert store.ids == [f"d{number}" for number in range(4000)]
