"""A Debian with Python in a directory, of any architecture: unpacked, not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("python3", "libstdc++6", "dash", "coreutils")
MERGED = ("bin", "lib", "lib64", "sbin")  # links into usr, in releases that have them there alone


def make_root(directory: Path, architecture: str) -> Path:
    """Fetch and unpack packages; return the root. Skip where that cannot be."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    config = directory / "apt.conf"
    config.write_text(
        f'APT::Architecture "{architecture}";\n'
        f'APT::Architectures {{ "{architecture}"; }};\n'
        'APT::Install-Recommends "false";\n'
        'APT::Sandbox::User "";\n'
        f'Dir::State "{directory}/state";\n'
        'Dir::State::status "/dev/null";\n'
        f'Dir::Cache "{directory}/cache";\n'
    )
    for each in ("state/lists/partial", "cache/archives/partial"):
        (directory / each).mkdir(parents=True)
    for command in (["update"], ["install", "--yes", "--download-only", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            env={**os.environ, "APT_CONFIG": str(config)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"apt-get fetches nothing: {done.stderr.splitlines()[-1]}")
    root = directory / "root"
    for package in sorted((directory / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    for name in MERGED:
        if not (root / name).exists() and (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return root


def python_of(root: Path) -> str:
    """Return the version of its Python, as 3.N."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")
