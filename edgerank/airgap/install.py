"""Install the pack that this script is in. It needs only Python: no network, pip or compiler.

    python3 install.py /opt/edgerank/releases/1 --link /opt/edgerank/current

The script compares every file with the manifest, unpacks the wheels into a virtual environment and
copies the models. Then it compares what it has written with the manifest, and moves the link.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEPT = ("bin/", "licenses/", "models/", "sbom.cdx.json")  # copied for every target
LISTS = ("requirements", "installed")  # fields of a target that name a file to copy
PYTHON = "venv/bin/python"
SETTINGS = "venv/pyvenv.cfg"


class Refused(Exception):
    """The installation cannot be made; the message is one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Install this pack, without a network.")
    parser.add_argument(
        "directory", type=Path, help="the directory to install into, which must not exist"
    )
    parser.add_argument(
        "--link",
        type=Path,
        help="after the installation, point this symbolic link to it; make the link if needed",
    )
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    os.umask(0o022)  # users other than the administrator run what is installed
    try:
        install(directory)
        if arguments.link is not None:
            move_link(arguments.link.absolute(), directory)
    except (Refused, OSError, zipfile.BadZipFile) as error:
        print(f"install.py: error: {error}", file=sys.stderr)
        return 2
    print(f"installed {directory}")
    return 0


def install(directory: Path) -> None:
    """Install into a new directory. If that fails, nothing is left of the directory.

    :raises Refused: the pack was altered or is for other machines, or the directory exists
    :raises OSError: the directory cannot be written
    """
    manifest = check_files()
    target = choose_target(manifest)
    if directory.exists() or directory.is_symlink():
        raise Refused(f"{directory} exists; name a new directory")
    directory.mkdir(parents=True)
    try:
        write_environment(directory, target)
        own = ["manifest.json", "manifest.json.minisig", *(target[each] for each in LISTS)]
        for name in [*own, *(each for each in manifest["files"] if each.startswith(KEPT))]:
            if (HERE / name).exists():  # a pack that nobody has signed has no signature
                place = directory / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(HERE / name, place)
        command = directory / "bin" / "edgerank"
        command.chmod(0o755)
        run([str(command), "verify", "--installed", str(directory)])
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def check_files() -> dict[str, Any]:
    """Compare every file of the pack with the manifest, and return the manifest.

    :raises Refused: a file was altered, added or removed
    """
    try:
        manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(f"manifest.json: {error}") from error
    here = {p.relative_to(HERE).as_posix() for p in HERE.rglob("*") if not p.is_dir()}
    expected = manifest["files"]
    for name in sorted((here - {"manifest.json", "manifest.json.minisig"}) ^ expected.keys()):
        raise Refused(f"{name} is {'not in manifest.json' if name in here else 'missing'}")
    for name, file in sorted(expected.items()):
        path = HERE / name
        if path.is_symlink() or sha256_of(path) != file["sha256"]:
            raise Refused(f"{name} was altered: its sha256 is not the manifest's")
    return manifest


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def choose_target(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the target of the pack that fits this Python and this machine.

    :raises Refused: there is none
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine, (library, glibc) = platform.machine(), platform.libc_ver()
    minor = int(glibc.split(".")[1]) if library == "glibc" else 0
    target: dict[str, Any]
    for target in manifest["targets"]:
        needed, _, wanted = target["platform"].removeprefix("manylinux_2_").partition("_")
        if (target["python"], wanted) == (version, machine) and int(needed) <= minor:
            return target
    has = ", ".join(f"Python {each['python']} {each['platform']}" for each in manifest["targets"])
    raise Refused(
        f"this is Python {version} on {machine}, {library or 'no glibc'} {glibc}; the pack is for"
        f" {has}"
    )


def write_environment(directory: Path, target: dict[str, Any]) -> None:
    """Make a virtual environment of this Python that has only the files of the target's wheels.

    Two installations differ in nothing but the path of Python. So there is no bytecode, there are
    no commands with that path in them, and every file can be compared with the manifest.
    """
    base = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    (directory / PYTHON).parent.mkdir(parents=True)
    (directory / PYTHON).symlink_to(base)
    (directory / SETTINGS).write_text(settings_of(base))
    packages = directory / packages_of(target["python"])
    for name in target["wheels"]:
        with zipfile.ZipFile(HERE / "wheels" / name) as wheel:
            for entry, place in places_of(wheel.namelist()):
                path = packages / place
                if ".." in path.parts or not path.is_relative_to(packages):
                    raise Refused(f"{name}: {entry!r} points outside the installation")
                path.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(entry) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file)


def settings_of(python: Path) -> str:
    """Return the content of pyvenv.cfg (PEP 405) for a Python."""
    return f"home = {python.parent}\ninclude-system-site-packages = false\n"


def packages_of(version: str) -> str:
    """Return the directory of the packages, relative to the installation."""
    return f"venv/lib/python{version}/site-packages"


def places_of(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the entries of a wheel to install, each with its path below the packages.

    Scripts, headers and data are left out, because bin/edgerank needs only what Python imports.
    """
    for entry in entries:
        first, _, rest = entry.partition("/")
        if entry.endswith("/"):
            continue
        if not first.endswith(".data"):
            yield entry, entry
        elif rest.startswith(("purelib/", "platlib/")):
            yield entry, rest.partition("/")[2]


def move_link(link: Path, directory: Path) -> None:
    """Point a symbolic link to the directory in one step, so that the link is never missing.

    :raises Refused: something else has the link's name
    """
    if link.exists() and not link.is_symlink():
        raise Refused(f"{link} exists and is not a link; the installation is in {directory}")
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(directory)
    os.replace(new, link)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise Refused(f"{Path(command[0]).name}: {reason.removeprefix('edgerank: error: ')}")


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - this script may be started by any Python
        sys.exit("install.py: error: edgerank needs Python 3.10 or newer")
    sys.exit(main())
