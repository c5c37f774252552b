"""What figures are of: the machine and its versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgerank.cpu import physical_cores

NOTEWORTHY = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
NOTEWORTHY += ("amx_bf16", "asimddp", "i8mm", "bf16", "sve")


def describe_machine() -> dict[str, str]:
    """Return the machine's properties by name, for people."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": fields.get("model name", platform.machine()),
        "family, model, stepping": ", ".join(
            fields.get(name, "?") for name in ("cpu family", "model", "stepping")
        ),
        "instruction sets": ", ".join(name for name in NOTEWORTHY if name in flags) or "none noted",
        "cores": f"{physical_cores()} physical given to the process, {os.cpu_count()} logical",
        "caches": _caches(),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} "
        f"{platform.libc_ver()[1]}",
        "Python": platform.python_version(),
    }


def _caches() -> str:
    """List the sizes of the caches that the first core has or shares, by level."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        found[(index / "level").read_text().strip()] = (index / "size").read_text().strip()
    return ", ".join(f"L{level} {size}" for level, size in found.items()) or "?"
