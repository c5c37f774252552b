"""What scores pairs of texts: bundles in this process, peers in processes of their own.

Scores are kept in files, so that a long run that breaks off goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.common.bundles import graph_bytes
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.processes import Worker, convert, make_environment
from benchmarks.quality.rescoring import Scorer
from edgerank import Reranker
from edgerank.cpu import default_threads
from edgerank.files import write_atomically

Pair = tuple[str, str]  # query, document
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """A model, loaded."""

    score: Scorer
    num_bytes: int  # of graph and weights
    identity: str  # names all that scores depend on besides the texts


@contextmanager
def bundle_system(bundle: Path, kernels: str | None = None) -> Iterator[System]:
    with Reranker(bundle, kernels=kernels) as reranker:
        identity = f"{reranker.bundle.digest} {reranker.kernels.name}"
        yield System(reranker.score_pairs, graph_bytes(reranker.bundle), identity)


@contextmanager
def peer_system(
    name: str, setting: str, checkpoint: Path, environments: Path, work: Path
) -> Iterator[System]:
    """Make a peer's environment and convert its model, unless that is done, and start it.

    :raises PeerError: it cannot run this
    """
    (peer,) = (peer for peer in PEERS if peer.name == name)
    python = make_environment(environments, peer.environment)
    converter = make_environment(environments, peer.converter or peer.environment)
    convert(converter, peer.script, checkpoint, setting, work)
    worker = Worker(python, peer.script, checkpoint, setting, work, threads=default_threads())

    def score(pairs: Sequence[Pair]) -> Scores:
        requests = [
            {"query": query, "documents": [document for _, document in group]}
            for query, group in groupby(pairs, key=lambda pair: pair[0])
        ]
        answer = worker.score(requests)
        return np.array([value for scores in answer.scores for value in scores])

    try:
        identity = f"{checkpoint.name} {peer.script} {setting} {worker.ready.versions}"
        yield System(score, worker.ready.model_bytes, identity)
    finally:
        worker.close()


def kept_scores(
    system: System, pairs: Sequence[Pair], directory: Path, name: str, *, documents_at_once: int
) -> Scores:
    """Score pairs, or read back what was scored before: [pairs].

    A document is scored in one call with all of its queries, as an embedding model embeds it once.

    :param name: of the progress bar
    :param documents_at_once: of a call, whose scores an interruption loses
    """
    documents = list(dict.fromkeys(document for _, document in pairs))
    parts = {document: place // documents_at_once for place, document in enumerate(documents)}
    part_of = np.array([parts[document] for _, document in pairs])
    scores = np.zeros(len(pairs))
    for part in tqdm(range(int(part_of.max()) + 1), desc=name):
        (places,) = np.nonzero(part_of == part)
        scores[places] = _kept(system, [pairs[place] for place in places], directory)
    return scores


def _kept(system: System, pairs: Sequence[Pair], directory: Path) -> Scores:
    digest = hashlib.sha256(msgspec.json.encode((system.identity, pairs))).hexdigest()
    path = directory / f"{digest}.json"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        scores = np.asarray(system.score(pairs), np.float64)
        write_atomically(path, msgspec.json.encode(scores.tolist()))
    return np.array(msgspec.json.decode(path.read_bytes(), type=list[float]))
