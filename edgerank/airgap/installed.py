"""Compares an installation with the signed manifest in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgerank.airgap.contents import (
    MANIFEST,
    SIGNATURE,
    PackError,
    PackManifest,
    Target,
    decode_manifest,
)
from edgerank.airgap.install import KEPT, LISTS, PYTHON, SETTINGS, packages_of, settings_of
from edgerank.bundle import sha256_of


@dataclass(frozen=True)
class Installed:
    """The result of a successful check."""

    manifest: PackManifest
    files: int
    python: Path  # the machine's Python, which runs the installation


def verify_installation(directory: Path, trust: Path | None = None) -> Installed:
    """Compare every file of an installation with the manifest: none altered, missing or added.

    :param trust: the public key that must have signed the manifest; None checks no signature
    :raises PackError: a file was altered, is missing or was added
    :raises InputError: the public key cannot be read
    """
    try:
        manifest = _read_manifest(directory, trust)
        expected = _expected(directory, manifest)
        found = set(_files(directory))
        for name in sorted(found ^ expected.keys()):
            raise PackError(f"{directory / name}: {'added' if name in found else 'missing'}")
        python = _check_environment(directory)
        for name, digest in sorted(expected.items()):
            if digest is not None and sha256_of(directory / name) != digest:
                raise PackError(f"{directory / name}: altered: its sha256 is not the manifest's")
    except OSError as error:
        raise PackError(f"{error.filename}: {error.strerror or error}") from error
    return Installed(manifest, len(found), python)


def _read_manifest(directory: Path, trust: Path | None) -> PackManifest:
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise PackError(
            f"{path}: {error.strerror}; an installation is a directory that install.py of a pack"
            " made"
        ) from error
    if trust is not None:
        from edgerank.signing import SignatureError, check_signature, open_trusted

        trusted = open_trusted(trust)
        try:
            check_signature(content, (directory / SIGNATURE).read_bytes(), trusted)
        except FileNotFoundError:
            raise PackError(f"{path}: not signed: {SIGNATURE} is missing") from None
        except SignatureError as error:
            raise PackError(f"{path}: {error}") from error
    return decode_manifest(str(path), content)


def _expected(directory: Path, manifest: PackManifest) -> dict[str, str | None]:
    """Return the sha256 of all files; None for those that are checked in another way."""
    target = _target(directory, manifest)
    kept = {name for name in manifest.files if name.startswith(KEPT)}
    lists = {getattr(target, each) for each in LISTS}
    expected: dict[str, str | None] = dict.fromkeys((MANIFEST, PYTHON, SETTINGS))
    if (directory / SIGNATURE).exists():
        expected[SIGNATURE] = None
    expected.update({name: manifest.files[name].sha256 for name in kept | lists})
    path = directory / target.installed
    if sha256_of(path) != manifest.files[target.installed].sha256:
        raise PackError(f"{path}: altered: its sha256 is not the manifest's")
    for line in path.read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        expected[f"{packages_of(target.python)}/{name}"] = digest
    return expected


def _target(directory: Path, manifest: PackManifest) -> Target:
    """Return the target of the installation, of which it has the lists."""
    for target in manifest.targets:
        if (directory / target.installed).exists():
            return target
    names = ", ".join(target.installed for target in manifest.targets)
    raise PackError(f"{directory}: missing: {names}")


def _files(directory: Path) -> Iterator[str]:
    """Yield the paths of all files.

    :raises PackError: something is no plain file, or an unexpected link
    """
    for place, directories, files in os.walk(directory, onerror=_raise):
        for name in (*directories, *files):
            path = Path(place, name)
            relative = path.relative_to(directory).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode) and relative != PYTHON:
                raise PackError(f"{path}: {'a link' if path.is_symlink() else 'no plain file'}")
            yield relative


def _raise(error: OSError) -> None:
    raise error


def _check_environment(directory: Path) -> Path:
    """Check the files that the installer wrote itself; return the Python that they link to."""
    link, settings = directory / PYTHON, directory / SETTINGS
    if not link.is_symlink():
        raise PackError(f"{link}: altered: no link to the Python that installed it")
    python = Path(os.readlink(link))
    if settings.read_text("utf-8", errors="replace") != settings_of(python):
        raise PackError(f"{settings}: altered: not as the installer writes it")
    return python
