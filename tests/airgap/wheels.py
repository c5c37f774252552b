"""Wheels made of what is installed: tests of packs fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT


def build_own_wheel(directory: Path) -> Path:
    """Build edgerank's wheel from the sources."""
    import hatchling.build

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return directory / hatchling.build.build_wheel(str(directory))
    finally:
        os.chdir(before)


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """Return what is installed of these requirements and of all that they need, by name."""
    waiting = [Requirement(name) for name in names]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found[name] = distribution(name)
            for line in found[name].requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found


def rebuild(distribution: Distribution, directory: Path) -> Path:
    """Make a wheel of an installed package, leaving out what its installer added."""
    tags = re.findall(r"^Tag: (.*)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    python, abi, _ = tags[0].split("-")
    platforms = ".".join(sorted({tag.split("-")[2] for tag in tags}))
    pythons = ".".join(sorted({tag.split("-")[0] for tag in tags})) or python
    stem = f"{re.sub(r'[-_.]+', '_', distribution.name)}-{distribution.version}"
    path = directory / f"{stem}-{pythons}-{abi}-{platforms}.whl"
    with zipfile.ZipFile(path, "w") as file:
        record = []
        info = ""
        for name, content in sorted(_contents(distribution)):
            entry = zipfile.ZipInfo(name)  # 1980, so that the wheel is the same each time
            entry.external_attr = 0o644 << 16
            file.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name},sha256={digest.decode()},{len(content)}\n")
            if name.endswith(".dist-info/METADATA"):
                info = name.removesuffix("METADATA")
        entry = zipfile.ZipInfo(f"{info}RECORD")
        entry.external_attr = 0o644 << 16
        file.writestr(entry, "".join([*record, f"{info}RECORD,,\n"]))
    return path


def _contents(distribution: Distribution) -> Iterator[tuple[str, bytes]]:
    added = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
    for file in distribution.files or ():
        name = file.as_posix()
        is_added = name.endswith(tuple(f".dist-info/{each}" for each in added))
        if not name.startswith("..") and "__pycache__" not in name and not is_added:
            yield name, file.locate().read_bytes()
