"""Installs what lies beside it. It needs Python alone: no network, no pip, and no compiler.

    python3 install.py /opt/edgerank/releases/1 --link /opt/edgerank/current

It compares every file with the manifest, makes a virtual environment, installs the wheels into it,
copies the models, and then moves the link. The commands in bin/ keep libraries off the network.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OFFLINE = {  # each only where nothing else is set
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime; edgerank sets it too
    "HF_HUB_OFFLINE": "1",  # huggingface_hub opens no connection
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OTEL_TRACES_EXPORTER": "none",  # OpenTelemetry sends where --otlp-endpoint says, or nowhere
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}
COPIED = ("manifest.json", "sbom.cdx.json", "licenses", "models", "requirements")


class Refused(Exception):
    """What keeps the installation from being made, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Install this pack, without a network.")
    parser.add_argument("directory", type=Path, help="the directory to make, a new one")
    parser.add_argument(
        "--link", type=Path, help="make or move this symbolic link to it, once all is done"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave compiling to the first start"
    )
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    try:
        install(directory, compile_now=not arguments.no_compile)
        if arguments.link is not None:
            move_link(arguments.link.absolute(), directory)
    except (Refused, OSError) as error:
        print(f"install.py: error: {error}", file=sys.stderr)
        return 2
    print(f"installed {directory}")
    return 0


def install(directory: Path, *, compile_now: bool) -> None:
    """Make the directory, whole or not at all."""
    manifest = check_files()
    requirements = HERE / choose_target(manifest)["requirements"]
    if directory.exists() or directory.is_symlink():
        raise Refused(f"{directory} exists; name a new directory")
    directory.mkdir(parents=True)
    try:
        environment = directory / "venv"
        run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
        pip = find_pip(requirements)
        python = environment / "bin" / "python"
        command = [str(python), f"{pip}/pip", "--isolated", "--disable-pip-version-check"]
        command += ["install", "--quiet", "--no-input", "--no-cache-dir", "--no-index", "--no-deps"]
        command += ["--require-hashes", "--find-links", str(HERE / "wheels")]
        command += [] if compile_now else ["--no-compile"]
        run([*command, "--requirement", str(requirements)])
        for name in COPIED:
            source = HERE / name
            if source.is_dir():
                shutil.copytree(source, directory / name)
            elif source.exists():
                shutil.copyfile(source, directory / name)
        write_command(directory, "edgerank")
        for name in sorted(bundle["name"] for bundle in manifest["bundles"]):
            run([str(directory / "bin" / "edgerank"), "verify", str(directory / "models" / name)])
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def check_files() -> dict[str, Any]:
    """Compare every file with the manifest, and return it."""
    try:
        manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(f"manifest.json: {error}") from error
    here = {p.relative_to(HERE).as_posix() for p in HERE.rglob("*") if not p.is_dir()}
    expected = manifest["files"]
    for name in sorted(here ^ (expected.keys() | {"manifest.json"})):
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
    """Return what the pack has for this Python on this machine."""
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


def find_pip(requirements: Path) -> Path:
    """Return the wheel of pip that the requirements name."""
    for line in requirements.read_text().splitlines():
        name, _, rest = line.partition("==")
        if name == "pip":
            [wheel] = (HERE / "wheels").glob(f"pip-{rest.split()[0]}-*.whl")
            return wheel
    raise Refused(f"{requirements.name} names no pip")


def write_command(directory: Path, name: str) -> None:
    """Write a command that runs the one of the environment, with the switches set."""
    command = directory / "bin" / name
    command.parent.mkdir()
    switches = [f': "${{{key}:={value}}}"; export {key}' for key, value in OFFLINE.items()]
    target = f"'{directory / 'venv' / 'bin' / name}'"
    command.write_text("\n".join(["#!/bin/sh", *switches, f'exec {target} "$@"', ""]))
    command.chmod(0o755)


def move_link(link: Path, directory: Path) -> None:
    """Point a link to the directory in one step: there is no moment without it."""
    if link.exists() and not link.is_symlink():
        raise Refused(f"{link} is not a link; the installation is in {directory}")
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(directory)
    os.replace(new, link)


def run(command: list[str]) -> None:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))
    }
    done = subprocess.run(command, env=kept, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise Refused(f"{Path(command[0]).name}: {reason}")


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - this script may be started by any Python
        sys.exit("install.py: error: edgerank needs Python 3.10 or newer")
    sys.exit(main())
