"""Bundles that say that their graph is for a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgerank.bundle import MANIFEST_NAME
from edgerank.manifest import CUDA_PROVIDER, Manifest, Needs


def with_variants(bundle: Path, target: Path, name: str) -> Path:
    """Copy a bundle and put a variant for CUDA before its own, with the same graph."""
    shutil.copytree(bundle, target)
    path = target / MANIFEST_NAME
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    replace = msgspec.structs.replace
    own = manifest.variants[0]
    added = replace(own, name=name, provider=CUDA_PROVIDER, needs=Needs(gpu=True))
    path.write_bytes(msgspec.json.encode(replace(manifest, variants=(added, *manifest.variants))))
    return target
