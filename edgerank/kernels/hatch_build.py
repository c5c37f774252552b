"""Compiles the kernels when pip installs edgerank or a wheel of it is built.

With EDGERANK_KERNELS_TARGET, a target of build.py, the wheel is for that platform, compiled by
ziglang. Without it, the wheel is for this machine; if the kernels cannot be compiled, the wheel has
none and is for any platform.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

if TYPE_CHECKING:
    from edgerank.kernels import build as kernels
else:  # by its path: edgerank itself needs packages that are not there yet
    place = importlib.util.spec_from_file_location(
        "edgerank_kernels_build", Path(__file__).with_name("build.py")
    )
    kernels = sys.modules[place.name] = importlib.util.module_from_spec(place)
    place.loader.exec_module(kernels)


class KernelsHook(BuildHookInterface[BuilderConfig]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = os.environ.get("EDGERANK_KERNELS_TARGET")
        if target:
            built = kernels.build(target, output=Path(self.root, "build", "kernels", target))
        else:
            built = build_if_possible()
        self.app.display_info(built.message)
        if version == "editable":
            return
        if built.library is None:
            include_reason(build_data["force_include"])
            return
        platform = kernels.TARGETS[target].wheel if target else platform_of_this_machine()
        build_data["force_include"][str(built.library)] = f"edgerank/kernels/{built.library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def build_if_possible() -> kernels.Built:
    """Compile for this machine; if that fails, edgerank is installed without kernels."""
    try:
        return kernels.build()
    except kernels.BuildError as error:
        reason = error.summary
    except OSError as error:  # such as a checkout that cannot be written to
        reason = str(error)
    return kernels.Built(None, f"The kernels were not compiled ({reason}): {kernels.WITHOUT}")


def include_reason(files: dict[str, str]) -> None:
    """Put the file that says why there are no kernels into the wheel."""
    host = kernels.host_target()
    if host and (note := kernels.absence_of(kernels.HERE / kernels.TARGETS[host].library)).exists():
        files[str(note)] = f"edgerank/kernels/{note.name}"


def platform_of_this_machine() -> str:
    """As in the name of a wheel that is made here and may use all of this system's libraries."""
    return next(
        tag.platform
        for tag in sys_tags()
        if not tag.platform.startswith(("manylinux", "musllinux"))
    )
