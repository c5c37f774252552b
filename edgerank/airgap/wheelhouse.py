"""The wheelhouse: wheels of exact versions for each target, fetched by pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

import edgerank
from edgerank.airgap.contents import PackError, is_plain
from edgerank.airgap.wheels import Platform, Wheel, follow
from edgerank.errors import InputError

OWN_NAME = "edgerank"


@dataclass(frozen=True)
class Sources:
    """The sources of wheels."""

    extras: Sequence[str]
    wheels: Sequence[Path] = ()  # of edgerank, for each platform; if none fits, pip fetches it
    lock: Path | None = None  # exact versions with hashes; None lets pip choose
    constraint: Path | None = None  # limits pip's choice


@dataclass(frozen=True)
class Collected:
    """The wheels of a target in the order of names, and their dependencies."""

    wheels: Sequence[Wheel]
    needs: Mapping[str, set[str]]


def collect(target: Platform, sources: Sources, directory: Path) -> Collected:
    """Put the wheels of a target into a directory.

    :raises InputError: a file that the sources name cannot be used
    :raises PackError: pip does not get all that is needed
    """
    own = own_wheel(sources.wheels, target)
    with tempfile.TemporaryDirectory() as work:
        options = _target_options(target) + _wanted(target, sources, own, Path(work))
        asked: list[str] = []
        while True:
            wheels = _fetch(options + asked, own, Path(work), target)
            if OWN_NAME not in wheels:
                raise PackError(f"{sources.lock}: it names no version of {OWN_NAME}")
            _check_extras(wheels[OWN_NAME], sources.extras)
            needs, missing = follow(wheels[OWN_NAME], sources.extras, wheels, target)
            # pip evaluates markers for the running Python: request what it left out for the target
            more = {_without_marker(each.requirement) for each in missing} - {*asked}
            if missing and (sources.lock is not None or not more):
                raise PackError(
                    f"Python {target.python}, {target.name}: {missing[0]};"
                    " name exact versions with --lock"
                )
            if not missing:
                break
            asked += sorted(more)
        # and leave out what only the running Python needs
        used = {wheels[OWN_NAME].path.name}.union(*needs.values())
        kept = [wheel for _, wheel in sorted(wheels.items()) if wheel.path.name in used]
        return Collected([_keep(wheel, directory) for wheel in kept], needs)


def own_wheel(paths: Iterable[Path], target: Platform) -> Wheel | None:
    """Return the first of edgerank's wheels that runs on a target; None if none is given.

    :raises InputError: wheels are given, and none of them runs there
    """
    paths = list(paths)
    for path in paths:
        if not path.is_file() or path.suffix != ".whl":
            raise InputError("wheel", f"{path} is not a wheel")
        wheel = Wheel(path.absolute())
        if wheel.name != OWN_NAME or wheel.version != edgerank.__version__:
            raise InputError(
                "wheel", f"{path} is not of {OWN_NAME} {edgerank.__version__}, which packs"
            )
        if wheel.tags & target.tags:
            return wheel
    if paths:
        raise InputError("wheel", f"none runs on Python {target.python}, {target.name}")
    return None


def lock_for(target: Platform, text: str, path: Path) -> str:
    """Return the lines of a lock that apply to a target, without their markers.

    pip evaluates markers for the running Python, which may not be the target's.

    :raises InputError: a line is no exact version with hashes
    """
    lines: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        said, *hashes = line.split(" --hash=")
        try:
            requirement = Requirement(said.strip())
        except InvalidRequirement as error:
            raise InputError(str(path), f"{line!r} is not an exact version with hashes") from error
        pins = [pin for pin in requirement.specifier if pin.operator == "=="]
        if not pins or not hashes:
            raise InputError(str(path), f"{line!r} is not an exact version with hashes")
        marker = requirement.marker
        if marker is None or marker.evaluate(target.environment):
            joined = " ".join(f"--hash={each.strip()}" for each in hashes)
            lines.append(f"{requirement.name}=={pins[0].version} {joined}\n")
    return "".join(lines)


def requirements_text(wheels: Iterable[Wheel]) -> str:
    """Return exact versions and hashes in pip's format; also usable as a lock."""
    return "".join(
        f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels
    )


def installed_text(wheels: Iterable[Wheel]) -> str:
    """Return the sha256 of every installed file, in the format of ``sha256sum``.

    :raises PackError: a wheel has a file outside of it, or two wheels have one that differs
    """
    found: dict[str, tuple[str, Wheel]] = {}
    for wheel in wheels:
        for name, digest in wheel.installed():
            if not is_plain(name):
                raise PackError(f"{wheel.path.name}: {name!r} points outside the wheel")
            other = found.setdefault(name, (digest, wheel))
            if other[0] != digest:
                raise PackError(f"{other[1].path.name} and {wheel.path.name} both have {name}")
    return "".join(f"{digest}  {name}\n" for name, (digest, _) in sorted(found.items()))


def _check_extras(own: Wheel, extras: Iterable[str]) -> None:
    known = own.metadata.get("provides_extra", [])
    for extra in extras:
        if extra not in known:
            raise InputError("extra", f"{extra!r} is unknown; there are {', '.join(known)}")


def _wanted(target: Platform, sources: Sources, own: Wheel | None, work: Path) -> list[str]:
    """Return the requirements for pip: the lines of the lock, or edgerank."""
    options = []
    if sources.constraint is not None:
        options += ["--constraint", str(sources.constraint)]
    if sources.lock is not None:
        locked = work / "lock.txt"
        locked.write_text(lock_for(target, sources.lock.read_text("utf-8"), sources.lock))
        return [*options, "--require-hashes", "--no-deps", "--requirement", str(locked)]
    wanted = f"{OWN_NAME}[{','.join(sources.extras)}]"
    wanted += f"=={edgerank.__version__}" if own is None else f" @ {own.path.as_uri()}"
    return [*options, wanted]


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _fetch(
    options: Sequence[str], own: Wheel | None, work: Path, target: Platform
) -> dict[str, Wheel]:
    """Have pip fetch wheels into a new directory; return them by name."""
    directory = Path(tempfile.mkdtemp(dir=work))
    if own is not None:
        shutil.copy(own.path, directory)
    _pip_download(options, directory, target)
    return {wheel.name: wheel for wheel in map(Wheel, sorted(directory.glob("*.whl")))}


def _target_options(target: Platform) -> list[str]:
    options = ["--python-version", target.python, "--implementation", "cp"]
    for name in target.pip_platforms:
        options += ["--platform", name]
    return options


def _pip_download(options: Sequence[str], directory: Path, target: Platform) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-input", "--only-binary=:all:", "--find-links", str(directory)]
    done = subprocess.run(
        [*command, "--dest", str(directory), *options], capture_output=True, text=True
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        errors = [line for line in errors if "ResolutionImpossible" not in line]  # has no cause
        reason = (errors or done.stderr.splitlines() or ["it says nothing"])[-1]
        raise PackError(
            f"pip found no wheels for Python {target.python}, {target.name}:"
            f" {reason.removeprefix('ERROR: ')}"
        )


def _keep(wheel: Wheel, directory: Path) -> Wheel:
    """Move a wheel to a directory that targets share.

    :raises PackError: another target has other content under the same name
    """
    place = directory / wheel.path.name
    if place.exists():
        if Wheel(place).sha256 != wheel.sha256:
            raise PackError(f"{wheel.path.name}: two files of that name differ")
    else:
        shutil.move(wheel.path, place)
    return Wheel(place)
