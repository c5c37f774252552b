"""Compile the kernels when pip installs edgerank, or when a wheel is built.

If EDGERANK_KERNELS_TARGET names a target of toolchain.py, ziglang compiles a wheel for that
platform. Otherwise the wheel is for this machine. If the kernels cannot be compiled for it, the
wheel has none, and is for any platform.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

if TYPE_CHECKING:
    from edgerank.kernels import build, toolchain
else:  # as modules of another package: edgerank itself needs packages that are not installed yet
    package = sys.modules["edgerank_kernels"] = ModuleType("edgerank_kernels")
    package.__path__ = [str(Path(__file__).parent)]
    build = import_module("edgerank_kernels.build")
    toolchain = import_module("edgerank_kernels.toolchain")


class KernelsHook(BuildHookInterface[BuilderConfig]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = os.environ.get("EDGERANK_KERNELS_TARGET")
        if target:
            built = build.build(target, output=Path(self.root, "build", "kernels", target))
        else:
            built = build_if_possible()
        self.app.display_info(built.message)
        if version == "editable":
            return
        if built.library is None:
            include_reason(build_data["force_include"])
            return
        platform = toolchain.TARGETS[target].wheel if target else platform_of_this_machine()
        build_data["force_include"][str(built.library)] = f"edgerank/kernels/{built.library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def build_if_possible() -> build.Built:
    """Compile for this machine; if that fails, edgerank is installed without kernels."""
    try:
        return build.build()
    except toolchain.BuildError as error:
        reason = error.summary
    except OSError as error:  # such as a checkout that cannot be written to
        reason = str(error)
    return build.Built(None, f"The kernels were not compiled ({reason}): {build.WITHOUT}")


def include_reason(files: dict[str, str]) -> None:
    """Put the file that says why there are no kernels into the wheel."""
    host = toolchain.host_target()
    if host is None:
        return
    note = build.absence_of(build.HERE / toolchain.TARGETS[host].library)
    if note.exists():
        files[str(note)] = f"edgerank/kernels/{note.name}"


def platform_of_this_machine() -> str:
    """Return this machine's platform for a wheel's name; the wheel may use any system library."""
    return next(
        tag.platform
        for tag in sys_tags()
        if not tag.platform.startswith(("manylinux", "musllinux"))
    )
