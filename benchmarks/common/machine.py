"""The machine that figures were measured on, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnxruntime as ort

from edgerank.cpu import cpu_fields, cpu_name, noteworthy_instruction_sets, physical_cores
from edgerank.kernels import choose_kernels

PACKAGES = ("numpy", "edgerank")


class Machine(msgspec.Struct, frozen=True):
    """A computer and its software, as far as they matter to speed."""

    cpu: str
    stepping: str  # family, model, stepping: the same name may be of different chips
    instruction_sets: list[str]
    physical_cores: int  # given to the process
    logical_cores: int
    caches: dict[str, str]  # of the first core, by level
    memory_gib: float
    system: str
    versions: dict[str, str]
    kernels: str  # of sessions, unless a row says otherwise

    def described(self) -> dict[str, str]:
        """Return the properties by name, for people."""
        return {
            "CPU": self.cpu,
            "family, model, stepping": self.stepping,
            "instruction sets": ", ".join(self.instruction_sets) or "none noted",
            "cores": f"{self.physical_cores} physical, {self.logical_cores} logical",
            "caches": ", ".join(f"{level} {size}" for level, size in self.caches.items()),
            "memory": f"{self.memory_gib:.0f} GiB",
            "system": self.system,
            "versions": ", ".join(f"{name} {number}" for name, number in self.versions.items()),
            "kernels": self.kernels,
        }


def describe_machine() -> Machine:
    """Describe this machine, from Linux's files where there are any.

    :raises InputError: EDGERANK_KERNELS names kernels that are not there
    """
    fields = cpu_fields()
    steppings = (fields.get(name, "?") for name in ("cpu family", "model", "stepping"))
    return Machine(
        cpu=cpu_name(),
        stepping=", ".join(steppings),
        instruction_sets=noteworthy_instruction_sets(),
        physical_cores=physical_cores(),
        logical_cores=os.cpu_count() or 1,
        caches=_caches(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=" ".join([platform.system(), platform.release(), *platform.libc_ver()]).strip(),
        versions={
            "Python": platform.python_version(),
            "onnxruntime": ort.__version__,  # of the package for CPUs, or that for GPUs
            **{package: version(package) for package in PACKAGES},
        },
        kernels=choose_kernels().name,
    )


def _caches() -> dict[str, str]:
    """Return the sizes of the first core's data caches, own or shared, by level."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            level = (index / "level").read_text().strip()
            found[f"L{level}"] = (index / "size").read_text().strip()
    return found
