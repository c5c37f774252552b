"""Files are written whole or not at all, and read with the numbers of their lines."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import msgspec
import pytest

from edgerank import InputError
from edgerank.files import atomic_directory, numbered_lines, read_jsonl, write_atomically


class Record(msgspec.Struct):
    name: str
    size: int = 0


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_written_and_replaced_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"second" * 100_000):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 300_000 for number in range(2)]
    path.write_bytes(contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            write_atomically(path, contents[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert set() < seen <= set(contents)


def test_a_directory_takes_its_place_with_the_parents_that_it_needs(tmp_path):
    target = tmp_path / "new" / "deep"
    with atomic_directory(target, lambda _: False) as staging:
        (staging / "inside").touch()
        assert not target.exists()
    assert names(target) == ["inside"]
    assert names(target.parent) == ["deep"]


def test_a_directory_is_replaced_only_where_it_may_be(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileExistsError), atomic_directory(target, lambda _: False):
        pass
    assert names(target) == ["old"]
    with atomic_directory(target, lambda found: found == target) as staging:
        (staging / "new").touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_that_fails_leaves_everything_as_it_was(tmp_path, exists):
    target = tmp_path / "new" / "deep" if not exists else tmp_path / "target"
    if exists:
        target.mkdir()
        (target / "old").touch()
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    with pytest.raises(KeyboardInterrupt), atomic_directory(target, lambda _: True) as staging:
        (staging / "half").touch()
        raise KeyboardInterrupt
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before


def test_lines_keep_their_numbers_where_blank_ones_are_skipped():
    lines = [b"\xef\xbb\xbf first\n", b"\n", b" \t\r\n", b"second\r\n", b"\xef\xbb\xbfthird"]
    assert list(numbered_lines(lines)) == [
        (1, b" first\n"),
        (4, b"second\r\n"),
        (5, b"\xef\xbb\xbfthird"),  # the mark is one at the beginning of a file alone
    ]
    assert list(numbered_lines([b"\xef\xbb\xbf\n", b"x"])) == [(2, b"x")]


def test_records_are_read_with_the_numbers_of_their_lines(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"name": "a"}\n\n{"name": "b", "size": 2, "more": []}')
    assert list(read_jsonl(path, Record)) == [(1, Record("a")), (3, Record("b", 2))]


@pytest.mark.parametrize(
    "line",
    [b'{"name": ', b'{"size": 1}', b'{"name": 5}', b"[]", b'{"name": "\xff"}', b"[" * 100_000],
    ids=lambda line: repr(line[:12]),
)
def test_a_line_that_is_no_record_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"name": "a"}\n\n' + line)
    records = read_jsonl(path, Record)
    assert next(records) == (1, Record("a"))
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: line 3: "):
        next(records)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, reason in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {reason}"):
            list(read_jsonl(path, Record))
