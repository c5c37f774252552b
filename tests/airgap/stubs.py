"""Small wheels that stand for real ones, and a pack of them."""

from __future__ import annotations

import platform
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import edgerank
from edgerank.airgap.pack import pack
from edgerank.airgap.wheelhouse import Sources
from edgerank.airgap.wheels import Platform
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.signing import open_key

KERNELS = "edgerank/kernels/libedgerank_kernels.so"
LIBRARY, MODULE = "numbers_lib/core.so", "numbers_lib/__init__.py"
MAIN = "edgerank/__main__.py"  # does nothing: the installer runs what it has installed
X86 = Platform("3.11", 28, "x86_64")
ARM = Platform("3.12", 28, "aarch64")


def write_wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    tag: str = "py3-none-any",
    headers: Sequence[str] = (),
    files: Sequence[str] = (),
    has_text: bool = True,
) -> Path:
    """Write a wheel with nothing but metadata, a licence and some files."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers]
    with zipfile.ZipFile(path, "w") as file:
        for entry, text in {
            f"{info}/METADATA": "\n".join(lines) + "\n",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
            f"{info}/RECORD": "",
            **({f"{info}/licenses/LICENSE": f"the licence of {name}"} if has_text else {}),
            **{name: "" if name.endswith(".py") else "content" for name in files},
        }.items():
            file.writestr(zipfile.ZipInfo(entry), text)
    return path


def write_wheelhouse(directory: Path) -> Path:
    """Write wheels of a project like edgerank, for two platforms; return edgerank's own."""
    headers = [
        "License-Expression: Apache-2.0",
        "Provides-Extra: sign",
        "Provides-Extra: server",
        "Requires-Dist: numbers-lib>=1",
        "Requires-Dist: old-library; python_version < '3.12'",
        "Requires-Dist: new-library[more]; python_version >= '3.12'",
        "Requires-Dist: signer; extra == 'sign'",
        "Requires-Dist: edgerank[sign]; extra == 'server'",
    ]
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tags = {
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp312-abi3-manylinux_2_28_aarch64",
        f"{here}-{here}-manylinux_2_17_{platform.machine()}",
    }
    for tag in sorted(tags):
        licence = ["License: BSD licence of numbers"]
        write_wheel(directory, "numbers_lib", "2.0", tag, licence, [LIBRARY, MODULE])
    write_wheel(directory, "old_library", headers=["License: Apache 2.0"], has_text=False)
    of_the_new = [
        "Provides-Extra: more",
        "Requires-Dist: below-the-new<2; python_version >= '3.12' and extra == 'more'",
    ]
    write_wheel(directory, "new_library", headers=["License: MIT", *of_the_new])
    for version in ("1.0", "2.0"):
        write_wheel(directory, "below_the_new", version, headers=["License: MIT"])
    write_wheel(directory, "signer", headers=["Classifier: License :: OSI Approved :: ISC License"])
    own = directory / "own"
    return write_wheel(
        own, "edgerank", edgerank.__version__, headers=headers, files=[KERNELS, MAIN]
    )


def make_pack(
    output: Path, own: Path, *targets: Platform, key: Path | None = None, **sources: object
) -> Path:
    """Write a pack of the bundle in the package and stubs."""
    secret = None if key is None else open_key(key, lambda: "")
    wanted = Sources(**{"extras": ("sign",), "wheels": (own,), **sources})
    pack(output, {"default": DEFAULT_BUNDLE}, targets or (X86,), wanted, secret)
    return output
