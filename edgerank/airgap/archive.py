"""The archive of a pack: a reproducible tar file, followed by a signature.

tar ignores the signature after the end of the tar file. The signature covers every byte before it,
so it can be checked before anything is parsed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from edgerank.airgap.contents import (
    COMMAND,
    INSTALLER,
    MANIFEST,
    SIGNATURE,
    PackError,
    PackManifest,
    decode_manifest,
    is_plain,
)
from edgerank.bundle import READ_BYTES
from edgerank.errors import InputError
from edgerank.files import atomic_directory
from edgerank.signing import MAX_BYTES, SignatureError, check_signature, open_trusted

if TYPE_CHECKING:
    from minisign import PublicKey

SIGNATURE_START = b"untrusted comment: "
MAX_MEMBERS = 100_000
MAX_MANIFEST_BYTES = 1 << 26
TIME = 315_532_800  # of every member: 1980, the first year that zip knows


def write_tar(root: Path, target: IO[bytes]) -> None:
    """Write the files in a directory: the manifest first, and the others in the order of names.

    The archive has only names and contents, without times, owners or modes of this machine.
    """
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    names.sort(key=lambda name: name != MANIFEST)
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = (root / name).stat().st_size
            member.mtime = TIME
            member.mode = 0o755 if name in (INSTALLER, COMMAND) else 0o644
            with (root / name).open("rb") as file:
                tar.addfile(member, file)


def unpack(path: Path, trust: Path, output: Path) -> PackManifest:
    """Check a pack's signature, then its table of contents, then write it file by file.

    :param output: the directory to make; nothing is written to it if a check fails
    :raises PackError: the pack is not signed by the trusted key, or has content that is not allowed
    :raises InputError: the pack or the key cannot be read, or the output exists
    """
    trusted = open_trusted(trust)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    with file:
        try:
            size, signature = _find_signature(file)
            check_signature(_Part(file, size), signature, trusted)
        except SignatureError as error:
            raise PackError(f"{path}: {error}") from error
        try:
            with tarfile.open(fileobj=cast(IO[bytes], _Part(file, size)), mode="r:") as tar:
                members = _read_members(path, tar, size)
                manifest = _read_manifest(path, tar, members, trusted)
                _check_contents(path, members, manifest)
                _write(path, tar, members, manifest, output)
        except tarfile.TarError as error:
            raise PackError(f"{path}: not a pack: {error}") from error
    return manifest


class _Part(io.RawIOBase):
    """The first bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(start + offset)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return self._file.read(left if size < 0 else min(size, left))


def _find_signature(file: IO[bytes]) -> tuple[int, bytes]:
    """Return the size of the signed part, and the signature."""
    end = file.seek(0, os.SEEK_END)
    begin = file.seek(max(0, end - MAX_BYTES))
    tail = file.read(MAX_BYTES)
    place = tail.rfind(SIGNATURE_START)
    if place < 0 or (begin + place) % tarfile.BLOCKSIZE:
        raise SignatureError("it is not signed, or not whole; `edgerank pack --sign` signs")
    return begin + place, tail[place:]


def _read_members(path: Path, tar: tarfile.TarFile, size: int) -> list[tarfile.TarInfo]:
    """Read the list of members; refuse all but plain files with safe paths."""
    members: list[tarfile.TarInfo] = []
    seen: set[str] = set()
    total = 0
    for member in tar:
        members.append(member)
        total += member.size
        if len(members) > MAX_MEMBERS or total > size:
            raise PackError(f"{path}: it claims more than it can hold, as archives do that flood")
        if member.type != tarfile.REGTYPE or member.issparse():
            raise PackError(f"{path}: {member.name!r} is not a plain file: {_kind(member)}")
        if not is_plain(member.name):
            raise PackError(f"{path}: {member.name!r} points outside the pack")
        # for file systems that ignore case
        name = unicodedata.normalize("NFC", member.name).casefold()
        if name in seen:
            raise PackError(f"{path}: {member.name!r} is there twice")
        seen.add(name)
    parents = {str(parent) for name in seen for parent in PurePosixPath(name).parents}
    for name in sorted(seen & parents):
        raise PackError(f"{path}: {name!r} is a file and a directory")
    if not members or members[0].name != MANIFEST:
        raise PackError(f"{path}: not a pack: {MANIFEST} does not come first")
    return members


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    if member.isdir():
        return "a directory"
    return "a sparse file" if member.issparse() else "a device or something else"


def _read_manifest(
    path: Path, tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo], trusted: PublicKey
) -> PackManifest:
    """Read the manifest and its signature, which later proves an installation unchanged."""
    found = {member.name: member for member in members}
    contents: list[bytes] = []
    for name, most in ((MANIFEST, MAX_MANIFEST_BYTES), (SIGNATURE, MAX_BYTES)):
        if name not in found:
            raise PackError(f"{path}: {name!r} is missing")
        if found[name].size > most:
            raise PackError(f"{path}: {name} has {found[name].size} bytes")
        file = tar.extractfile(found[name])
        assert file is not None  # a plain file
        contents.append(file.read())
    try:
        check_signature(contents[0], contents[1], trusted)
    except SignatureError as error:
        raise PackError(f"{path}: {MANIFEST}: {error}") from error
    return decode_manifest(f"{path}: {MANIFEST}", contents[0])


def _check_contents(path: Path, members: Sequence[tarfile.TarInfo], manifest: PackManifest) -> None:
    """Check that the members have the names and sizes of the manifest."""
    sizes = {member.name: member.size for member in members}
    for name in (MANIFEST, SIGNATURE):
        del sizes[name]
    for name in sorted(sizes.keys() ^ manifest.files.keys()):
        where = f"not in {MANIFEST}" if name in sizes else "missing"
        raise PackError(f"{path}: {name!r} is {where}")
    for name, size in sizes.items():
        if size != manifest.files[name].size:
            raise PackError(
                f"{path}: {name!r} has {size} bytes instead of {manifest.files[name].size}"
            )


def _write(
    path: Path,
    tar: tarfile.TarFile,
    members: Sequence[tarfile.TarInfo],
    manifest: PackManifest,
    output: Path,
) -> None:
    """Write all files to a temporary directory, compare hashes, and rename the directory."""
    needed = sum(member.size for member in members)
    present = next(place for place in (output, *output.absolute().parents) if place.exists())
    free = shutil.disk_usage(present).free
    if needed > free:
        raise InputError(str(output), f"{needed:,} bytes are needed, and {free:,} are free")
    try:
        with atomic_directory(output, lambda _: False) as staging:
            for member in members:
                place = staging / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                source = tar.extractfile(member)
                assert source is not None  # a plain file
                with place.open("xb") as file:
                    while chunk := source.read(READ_BYTES):
                        digest.update(chunk)
                        file.write(chunk)
                expected = manifest.files.get(member.name)
                if expected is not None and digest.hexdigest() != expected.sha256:
                    raise PackError(
                        f"{path}: {member.name!r} was altered: its sha256 is not the manifest's"
                    )
            for name in (INSTALLER, COMMAND):
                (staging / name).chmod(0o755)
    except FileExistsError as error:
        raise InputError(str(output), "it exists; name a new directory") from error
    except OSError as error:
        raise InputError(str(output), error.strerror or str(error)) from error
