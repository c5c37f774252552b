"""The manifest of a pack, and the names of its files.

``install.py`` reads the manifest too, with the standard library alone.
"""

from __future__ import annotations

import msgspec

from edgerank.errors import EdgerankError
from edgerank.manifest import File

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"  # in a pack that is signed
INSTALLER = "install.py"
COMMAND = "bin/edgerank"
SBOM = "sbom.cdx.json"
ATTRIBUTIONS = "licenses/NOTICE.txt"


class PackError(EdgerankError):
    """A pack cannot be made, trusted or read; the message names the file."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version of Python and a platform, with the files for them."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64": Linux with glibc 2.28 or newer
    requirements: str  # file of the exact versions and their hashes
    wheels: tuple[str, ...]  # files in wheels/
    installed: str  # file with the sha256 of every installed file of the wheels


class PackedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle in a pack, in the directory models/NAME."""

    name: str
    model: str  # this and the others as in the bundle's manifest
    revision: str | None
    license: str | None
    digest: str  # sha256 of its manifest, hexadecimal


class PackManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is in a pack."""

    format_version: int
    edgerank: str  # version
    targets: tuple[Target, ...]
    bundles: tuple[PackedBundle, ...]
    files: dict[str, File]  # all files but this manifest, by path


def decode_manifest(name: str, content: bytes) -> PackManifest:
    """Decode the manifest of a pack.

    :param name: name of the file, for errors
    :raises PackError: it is malformed, or of another format
    """
    try:
        manifest = msgspec.json.decode(content, type=PackManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PackError(f"{name}: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise PackError(
            f"{name}: it has format {manifest.format_version}, this edgerank reads"
            f" {FORMAT_VERSION}; upgrade edgerank"
        )
    for target in manifest.targets:
        wheels = [f"wheels/{wheel}" for wheel in target.wheels]
        for each in (target.requirements, target.installed, *wheels):
            if each not in manifest.files:
                raise PackError(f"{name}: {each!r} is not among its files")
    return manifest


def is_plain(name: str) -> bool:
    """Whether a name is a relative path that stays in its directory, on every system."""
    parts = name.split("/")
    odd = any(not character.isprintable() or character in '\\:*?"<>|' for character in name)
    return not odd and not any(part in ("", ".", "..") for part in parts)
