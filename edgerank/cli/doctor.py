"""``edgerank doctor``"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgerank.cli.options import bundle_option
from edgerank.cpu import THREADS_VARIABLE
from edgerank.kernels import STOCK

if TYPE_CHECKING:
    from edgerank.cuda import CudaSetup
    from edgerank.doctor import Diagnosis

CANNOT_RUN = 1  # the exit status


@click.command()
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON object.")
def doctor(model: Path, as_json: bool) -> None:
    """Describe this machine and measure its speed.

    The output has the CPU, the memory, the versions of libraries, the GPUs and their missing
    libraries, the kernels, and the variant of the bundle that runs. To measure the speed, short
    documents are scored for about a second, with the kernels in use and with ONNX Runtime's own
    operators. The exit status is 1 if something keeps edgerank from running.
    """
    from edgerank.doctor import diagnose

    found = diagnose(model)
    if as_json:
        click.echo(msgspec.json.encode(found, enc_hook=str))
    else:
        _print(found)
    if found.problems:
        raise click.exceptions.Exit(CANNOT_RUN)


def _print(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


def _rows(found: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yield the findings for people, with their names."""
    cpu, memory, library = found.cpu, found.memory, found.library
    yield "CPU", f"{cpu.name} ({cpu.architecture})"
    yield "instruction sets", ", ".join(cpu.instruction_sets) or "the system lists none"
    quota = "" if cpu.quota is None else f", quota {cpu.quota:g} CPUs"
    yield (
        "cores",
        f"{cpu.physical_cores} physical for this process, {cpu.logical_cores} logical{quota}",
    )
    bound = f", by {THREADS_VARIABLE}" if cpu.default_threads < cpu.physical_cores else ""
    yield "threads", f"{cpu.default_threads}{bound}"
    limit = "" if memory.limit is None else f", limit {_gib(memory.limit)}"
    yield "memory", f"{'unknown' if memory.total is None else _gib(memory.total)}{limit}"
    yield "versions", ", ".join(f"{name} {number}" for name, number in found.versions.items())
    if found.providers:
        yield "providers", ", ".join(found.providers)
    if found.cuda is not None:
        yield from _gpu_rows(found.cuda)
    if found.kernels is not None:
        yield "kernels", str(found.kernels)
    yield "available", ", ".join([*library.instruction_sets, STOCK])
    if library.problem is None:
        yield "library", str(library.path)
    elif found.kernels is None or found.kernels.reason != library.problem:
        yield "library", f"{library.path}: {library.problem}"
    if found.model is not None:
        yield "model", f"{found.model.source}, {found.model.bundle}"
        yield "variant", f"{found.model.variant} on {found.model.provider}: {found.model.reason}"
    if found.speed is not None:
        rates = found.speed.pairs_per_second.items()
        compared = "" if found.speed.ratio is None else f", {found.speed.ratio:.2f} times stock"
        yield "pairs a second", ", ".join(f"{rate:,.0f} {name}" for name, rate in rates) + compared
    for problem in found.problems:
        yield "problem", problem


def _gpu_rows(cuda: CudaSetup) -> Iterator[tuple[str, str]]:
    """Yield the findings about GPUs and, for those who want one, what is missing."""
    driver = cuda.driver
    if driver is None:
        yield "GPU", "no NVIDIA driver"
    else:
        newest = ".".join(map(str, driver.cuda_version))
        yield "driver", f"{driver.version}, which runs CUDA up to {newest}"
        for number, gpu in enumerate(driver.gpus):
            yield f"GPU {number}", str(gpu)
        if not driver.gpus:
            yield "GPU", "the driver shows none to this process"
    if cuda.built_for is not None:
        yield "CUDA", f"onnxruntime is built for {cuda.built_for}"
    for library in cuda.libraries:
        state = library.version or "found" if library.is_found else "not found"
        yield library.name, state if library.is_needed else f"{state}, not needed by every model"
    for advice in cuda.advice:
        yield "advice", advice


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
