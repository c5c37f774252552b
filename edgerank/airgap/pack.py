"""Makes a pack: an archive of bundles, wheels, a bill of materials and licences."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import edgerank
from edgerank.airgap.archive import write_tar
from edgerank.airgap.contents import (
    ATTRIBUTIONS,
    COMMAND,
    FORMAT_VERSION,
    INSTALLER,
    MANIFEST,
    SBOM,
    SIGNATURE,
    PackedBundle,
    PackManifest,
    Target,
)
from edgerank.airgap.sbom import bill_of_materials
from edgerank.airgap.wheelhouse import (
    OWN_NAME,
    Sources,
    collect,
    installed_text,
    requirements_text,
)
from edgerank.airgap.wheels import Platform, Wheel
from edgerank.bundle import (
    SIGNATURE_NAME,
    Bundle,
    read_bundle,
    sha256_of,
    sign_bundle,
    verify_bundle,
    write_manifest,
)
from edgerank.errors import InputError
from edgerank.manifest import MANIFEST_NAME, File
from edgerank.signing import sign

if TYPE_CHECKING:
    from minisign import SecretKey

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ABOUT = re.compile(r"(MODEL_CARD|README|LICEN[CS]E|NOTICE)[^/]*")  # files of a bundle for people


def pack(
    output: Path,
    bundles: Mapping[str, Path],
    targets: Sequence[Platform],
    sources: Sources,
    key: SecretKey | None = None,
    variants: Sequence[str] = (),
) -> PackManifest:
    """Write a pack. The same bundles, wheels and key give the same bytes.

    A bundle's variants for a GPU are left out, its manifest rewritten, unless they are asked for.

    :param bundles: directories by name
    :param key: signs the pack and each bundle in it, in place of a signature that it had; without
        a key the pack is not signed, and ``unpack`` will refuse it
    :param variants: names of the variants to pack; all that need no GPU by default
    :raises BundleError: a bundle is missing, altered or malformed
    :raises InputError: an option is unusable, or the output cannot be written
    :raises PackError: pip does not get all wheels
    """
    opened = {_checked_name(name): read_bundle(path) for name, path in bundles.items()}
    kept = _chosen_variants(opened, variants)
    with tempfile.TemporaryDirectory(dir=_existing(output.parent), prefix=".pack-") as work:
        root = Path(work, "pack")
        wheelhouse = root / "wheels"
        wheelhouse.mkdir(parents=True)
        packed = [
            _add_bundle(root, name, bundle, kept[name], key) for name, bundle in opened.items()
        ]
        described: list[Target] = []
        wheels: dict[str, Wheel] = {}
        needs: dict[str, set[str]] = {}
        for target in targets:
            found = collect(target, sources, wheelhouse)
            wheels.update({wheel.path.name: wheel for wheel in found.wheels})
            for name, needed in found.needs.items():
                needs.setdefault(name, set()).update(needed)
            described.append(_add_target(root, target, found.wheels))
        in_order = sorted(wheels.values(), key=lambda wheel: (wheel.name, wheel.path.name))
        _write(root / SBOM, bill_of_materials(edgerank.__version__, in_order, needs, packed))
        write_attributions(root, in_order, packed)
        shutil.copyfile(Path(__file__).with_name(INSTALLER), root / INSTALLER)
        (root / COMMAND).parent.mkdir()
        shutil.copyfile(Path(__file__).with_name("command.sh"), root / COMMAND)
        manifest = PackManifest(
            FORMAT_VERSION,
            edgerank.__version__,
            tuple(described),
            tuple(packed),
            {
                path.relative_to(root).as_posix(): File(path.stat().st_size, sha256_of(path))
                for path in sorted(root.rglob("*"))
                if path.is_file()
            },
        )
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        (root / MANIFEST).write_bytes(encoded)
        if key is not None:
            (root / SIGNATURE).write_bytes(sign(encoded, key, "edgerank pack's manifest"))
        _write_archive(root, Path(work, "archive"), output, key)
    return manifest


def write_attributions(
    root: Path, wheels: Iterable[Wheel], bundles: Iterable[PackedBundle]
) -> None:
    """Collect the licence texts of all wheels, and list the licences of packages and models."""
    wheels = list(wheels)
    own = [wheel for wheel in wheels if wheel.name == OWN_NAME]
    apache = dict(_texts(own[0])).get("LICENSE")  # edgerank's own
    lines = ["What this pack holds of others, and under which licence.\n"]
    for wheel in wheels:
        directory = f"licenses/{wheel.name}-{wheel.version}"
        names = []
        texts = _texts(wheel)
        if not texts and apache is not None and "apache" in (wheel.license or "").lower():
            texts = [("LICENSE", apache)]  # this licence requires a copy of it
        for name, text in texts:
            place = root / directory / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text)
            names.append(f"{directory}/{place.name}")
        where = ", ".join(dict.fromkeys(names)) or "its wheel has no licence text"
        lines.append(f"{wheel.name} {wheel.version}: {wheel.license or 'see its text'}; {where}")
    lines += [
        f"model {bundle.name}: {bundle.license or 'unknown'}; made from {bundle.model}"
        for bundle in bundles
    ]
    _write(root / ATTRIBUTIONS, "\n".join(dict.fromkeys(lines)) + "\n")


def _texts(wheel: Wheel) -> list[tuple[str, bytes]]:
    """Return a wheel's licence texts by names without directories."""
    return [(name.replace("/", "_"), text) for name, text in wheel.license_files()]


def _chosen_variants(
    bundles: Mapping[str, Bundle], names: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Return the names of the variants of each bundle that are packed.

    :raises InputError: a bundle has none, or no bundle has one that is asked for
    """
    chosen: dict[str, Sequence[str]] = {}
    for name, bundle in bundles.items():
        there = bundle.manifest.variants
        chosen[name] = [
            each.name for each in there if (each.name in names if names else not each.needs.gpu)
        ]
        if not chosen[name]:
            known = ", ".join(each.name for each in there)
            asked = f"none of {', '.join(names)}" if names else "only variants for a GPU"
            raise InputError("variant", f"{bundle.directory} has {asked}; choose among {known}")
    missing = {*names}.difference(*chosen.values())
    if missing:
        raise InputError("variant", f"{', '.join(sorted(missing))}: no bundle has it")
    return chosen


def _add_bundle(
    root: Path, name: str, bundle: Bundle, variants: Sequence[str], key: SecretKey | None
) -> PackedBundle:
    """Copy the files of a bundle and its texts for people, and check the copy.

    Without some variants, the manifest is rewritten, and its signature is not copied.
    """
    place = root / "models" / name
    place.mkdir(parents=True)
    about = [path.name for path in bundle.directory.iterdir() if ABOUT.fullmatch(path.name)]
    manifest = bundle.manifest.with_variants(variants)
    for file in {*manifest.files, *about}:
        shutil.copyfile(bundle.directory / file, place / file)
    if manifest == bundle.manifest:
        signature = [SIGNATURE_NAME] if (bundle.directory / SIGNATURE_NAME).exists() else []
        for file in (MANIFEST_NAME, *signature):
            shutil.copyfile(bundle.directory / file, place / file)
    else:
        write_manifest(place, manifest)
    copy = read_bundle(place)
    if key is not None:
        sign_bundle(copy, key)
    else:
        for _ in verify_bundle(copy):
            pass
    source = copy.manifest.source
    return PackedBundle(name, source.model, source.revision, source.license, copy.digest)


def _add_target(root: Path, target: Platform, wheels: Sequence[Wheel]) -> Target:
    """Write the lists of a target: its packages, and their installed files."""
    name = f"{target.python}-{target.name}"
    requirements, installed = f"requirements/{name}.txt", f"installed/{name}.sha256"
    _write(root / requirements, requirements_text(wheels))
    _write(root / installed, installed_text(wheels))
    files = tuple(wheel.path.name for wheel in wheels)
    return Target(target.python, target.name, requirements, files, installed)


def _write_archive(root: Path, partial: Path, output: Path, key: SecretKey | None) -> None:
    try:
        with partial.open("w+b") as file:
            write_tar(root, file)
            if key is not None:
                file.seek(0)
                signature = sign(file, key, "edgerank pack")
                file.seek(0, os.SEEK_END)
                file.write(signature)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise InputError(str(output), error.strerror or str(error)) from error


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InputError("model", f"{name!r} is no name for a directory; use NAME=BUNDLE")
    return name


def _existing(directory: Path) -> Path:
    if not directory.is_dir():
        raise InputError(str(directory), "there is no such directory")
    return directory


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
