"""Wheels: their names, tags, requirements and licences."""

from __future__ import annotations

import platform
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from edgerank.airgap.contents import PackError
from edgerank.airgap.install import places_of
from edgerank.bundle import sha256_of, sha256_of_file
from edgerank.errors import InputError

MANYLINUX = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)")
OLD_NAMES = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors|thirdparty)[^/]*$", re.IGNORECASE)
CODE = (".py", ".pyc", ".pyi", ".so", "/")


@dataclass(frozen=True)
class Platform:
    """A version of Python and a Linux platform for which wheels are chosen."""

    python: str  # "3.11"
    glibc: int  # the minor version of glibc 2
    machine: str

    @property
    def name(self) -> str:
        return f"manylinux_2_{self.glibc}_{self.machine}"

    @property
    def pip_platforms(self) -> list[str]:
        """Every tag of a platform that runs there, the newest first."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 4, -1)]
        olds = [f"{old}_{self.machine}" for old, minor in OLD_NAMES.items() if minor <= self.glibc]
        return [*tags, *olds, f"linux_{self.machine}"]  # the last: built by the user

    @property
    def tags(self) -> set[Tag]:
        version = tuple(map(int, self.python.split(".")))
        interpreter = f"cp{''.join(self.python.split('.'))}"
        platforms = self.pip_platforms
        return {
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, interpreter, platforms),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment for evaluating markers of requirements."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def parse_platforms(pythons: Sequence[str], names: Sequence[str]) -> list[Platform]:
    """Return each combination of a Python and a platform; by default those of this process.

    :raises InputError: a version or a platform is not one that edgerank can be packed for
    """
    pythons = pythons or [f"{sys.version_info.major}.{sys.version_info.minor}"]
    for python in pythons:
        if not re.fullmatch(r"3\.\d+", python) or int(python[2:]) < 10:
            raise InputError("python", f"{python!r} is not a version such as 3.11, from 3.10 on")
    return [
        Platform(python, *_parse_platform(name))
        for python in pythons
        for name in names or [_this_platform()]
    ]


def _parse_platform(name: str) -> tuple[int, str]:
    old, _, machine = name.partition("_")
    if old in OLD_NAMES:
        name = f"manylinux_2_{OLD_NAMES[old]}_{machine}"
    found = MANYLINUX.fullmatch(name)
    if found is None:
        raise InputError(
            "platform",
            f"{name!r} is not a platform such as manylinux_2_28_x86_64 or manylinux_2_28_aarch64",
        )
    return int(found[1]), found[2]


def _this_platform() -> str:
    for tag in sys_tags():
        if MANYLINUX.fullmatch(tag.platform):
            return tag.platform
    raise InputError("platform", f"this machine, {platform.platform()}, is none; name a platform")


@dataclass(frozen=True)
class Wheel:
    """A wheel on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The normalized name of the package."""
        return str(self._parsed[0])

    @property
    def version(self) -> str:
        return self._parsed[1]

    @property
    def tags(self) -> frozenset[Tag]:
        return self._parsed[2]

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)

    @cached_property
    def metadata(self) -> RawMetadata:
        """The metadata of the wheel.

        :raises PackError: it has no metadata
        """
        with zipfile.ZipFile(self.path) as file:
            for entry in file.namelist():
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry):
                    return parse_email(file.read(entry))[0]
        raise PackError(f"{self.path.name}: a wheel without metadata")

    @property
    def license(self) -> str | None:
        """Its licence: an SPDX expression if there is one, otherwise free text."""
        said = self.metadata.get("license_expression") or self.metadata.get("license", "")
        if said and len(said) < 80 and "\n" not in said.strip():
            return said.strip()
        for classifier in self.metadata.get("classifiers", []):
            if classifier.startswith("License :: ") and classifier.count("::") > 1:
                return classifier.rpartition(" :: ")[2]
        return None

    def license_files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the licence texts in it, by the last part of their names."""
        with zipfile.ZipFile(self.path) as file:
            for entry in sorted(file.namelist()):
                directory, _, rest = entry.partition("/")
                listed = directory.endswith(".dist-info") and rest.startswith("licenses/")
                if not entry.endswith(CODE) and (listed or LICENCE_FILE.match(rest)):
                    yield rest.removeprefix("licenses/"), file.read(entry)

    def installed(self) -> Iterator[tuple[str, str]]:
        """Yield the path and sha256 of each installed file."""
        with zipfile.ZipFile(self.path) as file:
            for entry, place in places_of(file.namelist()):
                with file.open(entry) as content:
                    yield place, sha256_of_file(content)

    @cached_property
    def _parsed(self) -> tuple[str, str, frozenset[Tag]]:
        name, version, _, tags = parse_wheel_filename(self.path.name)
        return name, str(version), tags


def requirements_of(wheel: Wheel, extras: Iterable[str], target: Platform) -> Iterator[Requirement]:
    """Yield the requirements of a wheel on a platform."""
    environments = [{**target.environment, "extra": extra} for extra in ("", *extras)]
    for line in wheel.metadata.get("requires_dist", []):
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(each) for each in environments):
            yield requirement


@dataclass(frozen=True)
class Missing:
    """A requirement that no wheel meets, or only one of another version."""

    by: Wheel
    requirement: Requirement
    found: Wheel | None

    def __str__(self) -> str:
        has = "missing" if self.found is None else f"there as {self.found.version}"
        needed = f"{self.requirement.name}{self.requirement.specifier}"
        return f"{self.by.name} {self.by.version} needs {needed}, which is {has}"


def follow(
    root: Wheel, extras: Iterable[str], wheels: Mapping[str, Wheel], target: Platform
) -> tuple[dict[str, set[str]], list[Missing]]:
    """Find all direct and indirect requirements of a wheel on a platform.

    :return: the files that each wheel's file needs, and what is missing
    """
    waiting = [(root, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    needs: dict[str, set[str]] = {}
    missing: list[Missing] = []
    while waiting:
        wheel, wanted = waiting.pop()
        if (wheel.name, wanted) in seen:
            continue
        seen.add((wheel.name, wanted))
        for requirement in requirements_of(wheel, wanted, target):
            found = wheels.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(found.version, True):
                missing.append(Missing(wheel, requirement, found))
                continue
            waiting.append((found, frozenset(requirement.extras)))
            needs.setdefault(wheel.path.name, set()).add(found.path.name)
    return needs, missing
