"""The files of a store, and its manifest.

A store is a directory. Documents lie in segments, each a few files that are written once and never
changed. ``store.json`` names the files of the store, with their sizes and sha256. A change writes
new files, syncs them to the disk, and then replaces ``store.json`` in one step, so that after any
failure the store is in its old or its new state. Files that ``store.json`` does not name are left
over from an unfinished change; the next change removes them.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import msgspec

from edgerank.bundle import check_sizes
from edgerank.errors import StoreError
from edgerank.files import write_atomically
from edgerank.manifest import File, Positive

STORE_NAME = "store.json"
LOCK_NAME = "lock"
FORMAT_VERSION = 1
OWN_FILE = re.compile(r"[0-9a-f]{16}\.[a-z_]+|\.store\.json\.[0-9a-f]{8}")


class Binding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that the documents were encoded by, and its settings that change the vectors."""

    model: str  # for people
    bundle: str  # sha256 of the bundle's manifest
    rule: str  # how it scores
    max_length: Positive  # most tokens of a part of a document
    dimension: Positive  # of the vectors


class SegmentInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Documents that were written together. Its files are called ``name``.<array>."""

    name: str
    documents: Positive
    parts: Positive
    tokens: int  # number of tokens whose vectors are kept
    deleted: str | None = None  # file with the indices of deleted documents
    num_deleted: int = 0


class StoreManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of store.json."""

    format_version: Positive
    binding: Binding
    is_complete: bool  # False while it is being built for the first time
    corpus: str  # sha256 of the documents stored by an unfinished build; empty once complete
    segments: tuple[SegmentInfo, ...]
    files: dict[str, File]

    @property
    def num_documents(self) -> int:
        """Number of documents, without deleted ones."""
        return sum(segment.documents - segment.num_deleted for segment in self.segments)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class _Versioned(msgspec.Struct):
    format_version: Positive


def new_name() -> str:
    """Return a new, unique name for files."""
    return secrets.token_hex(8)


def read_binding(directory: Path) -> Binding:
    """Read which model a store belongs to.

    :raises StoreError: the store is missing, malformed, or of another format
    """
    return decode_store_manifest(directory, read_content(directory)).binding


def read_store_manifest(directory: Path) -> StoreManifest:
    """Read store.json and check that every file in it exists at its full size.

    :raises StoreError: the store is missing, incomplete, malformed, or of another format
    """
    manifest = decode_store_manifest(directory, read_content(directory))
    check_sizes(directory / STORE_NAME, manifest.files, StoreError)
    return manifest


def read_content(directory: Path) -> bytes:
    """Read the bytes of store.json.

    :raises StoreError: it cannot be read
    """
    path = directory / STORE_NAME
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror or error}; a store is a directory that `edgerank store build`"
            " made"
        ) from error


def decode_store_manifest(directory: Path, content: bytes) -> StoreManifest:
    """Decode store.json, its version first.

    :raises StoreError: it is malformed, or of another format
    """
    path = directory / STORE_NAME
    try:
        version = msgspec.json.decode(content, type=_Versioned).format_version
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path}: the store has format {version}, this edgerank reads format"
                f" {FORMAT_VERSION}; build it again"
            )
        return msgspec.json.decode(content, type=StoreManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path}: not a valid manifest: {error}") from error


def commit(directory: Path, manifest: StoreManifest) -> None:
    """Replace store.json; the files that the manifest names must be synced already.

    :raises OSError: it cannot be written; the old one stays
    """
    sync_directory(directory)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_atomically(directory / STORE_NAME, encoded + b"\n")
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Sync the names in a directory to the disk."""
    if os.name != "posix":
        return  # other systems do not open directories
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path, manifest: StoreManifest | None) -> None:
    """Remove files with names of a store's files that the manifest does not name."""
    kept = set() if manifest is None else manifest.files.keys()
    for path in directory.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in kept:
            try:
                path.unlink()
            except OSError:  # another process has it open, where that forbids it: the next time
                continue
