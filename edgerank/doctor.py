"""``edgerank doctor``: describes the machine, the kernels in use, and their speed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import edgerank
from edgerank.cpu import (
    CGROUP_V2,
    cpu_name,
    cpu_quota,
    default_threads,
    noteworthy_instruction_sets,
    physical_cores,
)
from edgerank.errors import EdgerankError
from edgerank.gpu import read_driver
from edgerank.kernels import AUTO, STOCK, Library, choose_kernels, find_library
from edgerank.manifest import CPU_PROVIDER

if TYPE_CHECKING:
    from edgerank.cuda import CudaSetup
    from edgerank.kernels import Kernels
    from edgerank.reranker import Reranker

CGROUP_V1_MEMORY = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
SECONDS = 1.0  # to measure, including the warm-up, for all kernels together
QUERY = "who wrote dune?"
TEXTS = [
    "Dune is a novel by the American author Frank Herbert. It appeared in 1965, after parts of it"
    " had been printed in a magazine, and won the first Nebula Award for the best novel.",
    "Paris is the capital of France and its largest city. It lies on the Seine, in the north of the"
    " country, and has been a centre of finance, science, fashion and the arts for centuries.",
    "A reranker reads a query and a document and gives the document a score for how well it answers"
    " the query. It is the second step of a search, after an index has found the candidates.",
    "A dune is a hill of loose sand that the wind has built. Dunes are found in deserts and along"
    " coasts, and some of them move by several metres a year.",
]
DOCUMENTS = [f"{n}. {text}" for n in range(4) for text in TEXTS]  # equal ones would share work


@dataclass(frozen=True)
class Cpu:
    """The processor, and the part of it that this process may use."""

    name: str
    architecture: str
    instruction_sets: list[str]  # relevant ones, as Linux names them
    logical_cores: int  # of the machine
    physical_cores: int  # given to this process
    default_threads: int  # of a model; fewer if OMP_NUM_THREADS says so
    quota: float | None  # of the cgroup, in CPUs


@dataclass(frozen=True)
class Memory:
    """Memory in bytes; None if it is unknown, or if there is no limit."""

    total: int | None
    limit: int | None  # of the cgroup


@dataclass(frozen=True)
class Model:
    """A bundle, and its variant that runs on this machine."""

    bundle: str
    source: str
    variant: str
    provider: str
    reason: str


@dataclass(frozen=True)
class Speed:
    """Pairs of a query and a document scored in a second, by kernels, or by a GPU."""

    pairs_per_second: dict[str, float]
    ratio: float | None  # of the kernels in use to stock; None for stock, or on a GPU


@dataclass
class Diagnosis:
    """The findings; None for those that a problem has prevented."""

    cpu: Cpu
    memory: Memory
    versions: dict[str, str]
    library: Library
    providers: list[str] = field(default_factory=list)  # of ONNX Runtime
    cuda: CudaSetup | None = None  # GPUs, and missing libraries
    kernels: Kernels | None = None  # of sessions
    model: Model | None = None
    speed: Speed | None = None
    problems: list[str] = field(default_factory=list)  # that keep edgerank from running


def diagnose(bundle: Path) -> Diagnosis:
    """Look at this machine and score with a bundle for about a second."""
    found = Diagnosis(
        cpu=Cpu(
            name=cpu_name(),
            architecture=platform.machine(),
            instruction_sets=noteworthy_instruction_sets(),
            logical_cores=os.cpu_count() or 1,
            physical_cores=physical_cores(),
            default_threads=default_threads(),
            quota=cpu_quota(),
        ),
        memory=Memory(_total_memory(), _memory_limit()),
        versions={"edgerank": edgerank.__version__, "Python": platform.python_version()},
        library=find_library(),
    )
    with _noting(found.problems):
        _look_at_libraries(found)
        found.kernels = choose_kernels()
        _look_at_model(found, bundle)
    return found


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Record an error that keeps edgerank from running, instead of raising it."""
    try:
        yield
    except (ImportError, EdgerankError) as error:
        problems.append(str(error))


def _look_at_libraries(found: Diagnosis) -> None:
    """Import the libraries that edgerank requires.

    :raises ImportError: a library is missing or cannot be loaded
    """
    import numpy as np
    import onnxruntime as ort
    import tokenizers

    for library in (ort, np, tokenizers):
        found.versions[library.__name__] = library.__version__
    found.providers = ort.get_available_providers()
    from edgerank.cuda import look_at_cuda

    found.cuda = look_at_cuda(read_driver())


def _look_at_model(found: Diagnosis, bundle: Path) -> None:
    """Open a bundle with the kernels in use, and measure them against others.

    :raises EdgerankError: it cannot be opened
    """
    from edgerank.reranker import Reranker

    assert found.kernels is not None
    used = found.kernels.name
    with ExitStack() as opened:
        first = opened.enter_context(Reranker(bundle, kernels=used))
        chosen = first.variant
        source = first.bundle.manifest.source.model
        found.model = Model(str(bundle), source, chosen.name, chosen.provider, chosen.reason)
        if chosen.provider != CPU_PROVIDER:
            (rate,) = _pairs_per_second([first])
            found.speed = Speed({chosen.provider: rate}, None)
            return
        others = dict.fromkeys(name for name in (choose_kernels(AUTO).name, STOCK) if name != used)
        rerankers = [opened.enter_context(Reranker(bundle, kernels=name)) for name in others]
        rates = dict(zip((used, *others), _pairs_per_second([first, *rerankers]), strict=True))
    found.speed = Speed(rates, None if used == STOCK else rates[used] / rates[STOCK])


def _pairs_per_second(rerankers: Sequence[Reranker]) -> list[float]:
    """Let rerankers score the same pairs alternately; return their median rates."""
    end = time.perf_counter() + SECONDS
    for reranker in rerankers:
        reranker.score(QUERY, DOCUMENTS[:4])
    rates: list[list[float]] = [[] for _ in rerankers]
    while not rates[0] or time.perf_counter() < end:
        for reranker, own in zip(rerankers, rates, strict=True):
            start = time.perf_counter()
            reranker.score(QUERY, DOCUMENTS)
            own.append(len(DOCUMENTS) / (time.perf_counter() - start))
    return [median(own) for own in rates]


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        return None


def _memory_limit() -> int | None:
    """Read the cgroup's limit in bytes, None if there is none below the machine's memory."""
    for path in (CGROUP_V2 / "memory.max", CGROUP_V1_MEMORY):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # "max"
            continue
        return limit if limit < (_total_memory() or limit) else None
    return None
