"""What a pack holds: its manifest, and the names of its files.

``install.py`` reads the manifest too, with the standard library alone.
"""

from __future__ import annotations

import msgspec

from edgerank.errors import EdgerankError
from edgerank.manifest import File

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INSTALLER = "install.py"
SBOM = "sbom.cdx.json"
ATTRIBUTIONS = "licenses/NOTICE.txt"


class PackError(EdgerankError):
    """A pack cannot be made, trusted or read; the message names the file."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an installation runs on."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64": Linux with glibc 2.28 or newer
    requirements: str  # file of the exact versions and their hashes


class PackedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle in a pack, in the directory models/NAME."""

    name: str
    model: str  # what its manifest says of its source, and so on
    revision: str | None
    license: str | None
    digest: str  # sha256 of its manifest, hexadecimal


class PackManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is in a pack."""

    format_version: int
    edgerank: str  # version
    targets: tuple[Target, ...]
    bundles: tuple[PackedBundle, ...]
    files: dict[str, File]  # by path from the root of the pack, without this manifest
