"""``DocumentStore``: encodes documents once, and ranks them for any query."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgerank.bundle import DEFAULT_BUNDLE, verify_files
from edgerank.closing import Closing
from edgerank.documents import Document, check_integer
from edgerank.errors import InputError, StoreError
from edgerank.packing import Ids
from edgerank.ranking import Scores, top
from edgerank.reranker import Reranker
from edgerank.rules import Prepared
from edgerank.store.arrays import ranges
from edgerank.store.comparing import Comparer, choose_backend
from edgerank.store.encoding import prepare_query, words_of
from edgerank.store.features import Query, store_rule
from edgerank.store.format import (
    StoreManifest,
    read_binding,
    read_content,
    read_store_manifest,
)
from edgerank.store.search import best_places, bm25
from edgerank.store.segments import Segment
from edgerank.store.writing import (
    Encoder,
    add,
    build,
    check_binding,
    delete,
    find,
    open_segments,
    places_of,
)

CANDIDATES = 200  # of a search: by words, and as many by vectors
SEARCH_HITS = 10  # of a search without top_k
OPENINGS = 20  # tries, while another process changes the store

Documents = Mapping[str, Document] | Iterable[tuple[str, Document]]


@dataclass(frozen=True)
class StoredHit:
    """A ranked document of a store."""

    id: str
    score: float


@dataclass(frozen=True)
class Snapshot:
    """A store as it was when it was opened; later changes do not affect it."""

    manifest: StoreManifest
    segments: Sequence[Segment]

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """For each id, the index of the segment and the index of the document in it."""
        return places_of(self.segments)


class DocumentStore(Closing):
    """Documents that were encoded once, in a directory. Several threads may use one store.

        store = DocumentStore.build("passages", {"dune": "Frank Herbert wrote Dune.", ...})
        for hit in store.rank("who wrote dune?", top_k=5):
            print(hit.score, hit.id)

    ``close``, or the end of a ``with`` block, frees its memory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        model: Reranker | str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        threads: int | None = None,
        backend: str | None = None,
        verify: bool = False,
    ) -> None:
        """Open a store.

        :param directory: directory of the store, made by ``build``
        :param model: the bundle that made the store, or an open reranker of it
        :param threads: number of threads to compute with, if ``model`` is a bundle. The default is
            that of ``Reranker``
        :param backend: what compares vectors: "kernels" (the compiled ones), "numba", "numpy", or
            "auto" for the first of them that there is. The default is the value of EDGERANK_STORE,
            or "auto"
        :param verify: whether to compare every file with its sha256 first
        :raises StoreError: the store is missing, altered or unfinished, or another model made it
        :raises BundleError: the bundle is unusable
        :raises InputError: an option is unusable
        """
        self.directory = Path(directory)
        chosen = choose_backend(backend)
        binding = read_binding(self.directory)
        self._owns_model = not isinstance(model, Reranker)
        self.reranker = (
            model
            if isinstance(model, Reranker)
            else Reranker(model, threads=threads, max_length=binding.max_length)
        )
        self._rule = store_rule(self.reranker.bundle)
        self._comparer = Comparer(self._rule, self.reranker.threads, chosen)
        self._lock = threading.Lock()
        self._snapshot = self._read(verify=verify)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        model: Reranker | str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        threads: int | None = None,
        backend: str | None = None,
        verify: bool = False,
    ) -> DocumentStore:
        """Open a store; parameters and errors are those of ``DocumentStore``."""
        return cls(directory, model, threads=threads, backend=backend, verify=verify)

    @classmethod
    def build(
        cls,
        directory: str | os.PathLike[str],
        documents: Documents,
        model: Reranker | str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        threads: int | None = None,
        backend: str | None = None,
        show_progress: bool = False,
    ) -> DocumentStore:
        """Encode documents and store them in a new directory.

        After an interruption, the same call continues. Until it has finished, the store cannot be
        opened.

        :param documents: a mapping of ids to documents, or pairs of an id and a document. Documents
            are those of ``Reranker.rank``. An iterator is read once, some hundred documents at a
            time. Long documents are stored whole
        :param show_progress: whether to draw a progress bar on stderr
        :raises InputError: a document or its id is unusable
        :raises StoreError: the directory has a store already, the disk is full, or the model reads
            query and document together

        Other parameters are those of ``DocumentStore``.
        """
        choose_backend(backend)
        reranker = model if isinstance(model, Reranker) else Reranker(model, threads=threads)
        try:
            encoder = Encoder(reranker, store_rule(reranker.bundle))
            build(Path(directory), _pairs(documents), encoder, show_progress=show_progress)
            store = cls(directory, reranker, backend=backend)
        except BaseException:
            if reranker is not model:
                reranker.close()
            raise
        store._owns_model = reranker is not model
        return store

    def __len__(self) -> int:
        """Return the number of documents, without deleted ones."""
        return self._snapshot.manifest.num_documents

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    @property
    def ids(self) -> list[str]:
        """The ids of all documents, in the order of their addition."""
        return list(self._places())

    @property
    def manifest(self) -> StoreManifest:
        """The content of store.json."""
        return self._snapshot.manifest

    @property
    def backend(self) -> str:
        """The name of what compares vectors: "kernels", "numba" or "numpy"."""
        return self._comparer.backend.name

    def rank(
        self,
        query: str,
        ids: Iterable[str] | None = None,
        *,
        top_k: int | None = None,
        instruction: str | None = None,
        normalize: bool = False,
        candidates: int = CANDIDATES,
    ) -> list[StoredHit]:
        """Rank documents by relevance to a query, best first.

        :param ids: ids of the documents to rank; None searches the whole store
        :param top_k: number of hits to return. The default is all of ``ids``, and 10 in a search
        :param candidates: in a search, this many documents with the best BM25 scores and this many
            with the nearest pooled vectors are scored
        :return: hits with ``score`` and ``id``
        :raises InputError: an id is not in the store

        Other parameters and errors are those of ``Reranker.rank``.
        """
        if top_k is not None:
            check_integer("top_k", top_k, 1)
        check_integer("candidates", candidates, 1)
        if ids is None:
            encoded = self.reranker.compute(self.prepare_query(query, instruction))
            return self.search_query(query, encoded, top_k, normalize, candidates)
        names = _id_list(ids)
        scores = self.score(query, names, instruction=instruction, normalize=normalize)
        return [StoredHit(names[place], float(scores[place])) for place in top(scores, top_k)]

    def score(
        self,
        query: str,
        ids: Iterable[str],
        *,
        instruction: str | None = None,
        normalize: bool = False,
    ) -> Scores:
        """Score documents against a query: float32 [len(ids)], in the order of ``ids``.

        Parameters and errors are those of ``rank``.
        """
        names = _id_list(ids)
        snapshot = self._snapshot
        found = self._find(snapshot, names)  # before the query is encoded
        encoded = self.reranker.compute(self.prepare_query(query, instruction))
        return self._scores(snapshot, found, encoded, normalize)

    def check_ids(self, ids: Sequence[str]) -> None:
        """Check that the store has documents.

        :raises InputError: an id is not in the store
        """
        self._find(self._snapshot, ids)

    def prepare_query(self, query: str, instruction: str | None = None) -> Prepared[Query]:
        """Turn a query into tokens, for callers that schedule the engine themselves.

        :raises InputError: the query or the instruction is unusable
        """
        return prepare_query(self.reranker, self._rule, query, instruction)

    def score_query(self, query: Query, ids: Sequence[str], normalize: bool = False) -> Scores:
        """Score documents against an encoded query: float32 [len(ids)], in the order of ``ids``.

        :raises InputError: an id is not in the store
        """
        snapshot = self._snapshot
        return self._scores(snapshot, self._find(snapshot, ids), query, normalize)

    def search_query(
        self,
        text: str,
        query: Query,
        top_k: int | None = None,
        normalize: bool = False,
        candidates: int = CANDIDATES,
    ) -> list[StoredHit]:
        """Search the whole store with an encoded query.

        :param text: the text of the query, for BM25

        Other parameters are those of ``rank``.
        """
        segments = self._snapshot.segments
        by_vectors = [self._pooled(segment, query) for segment in segments]
        firsts = [by_vectors]
        if self._rule.has_tokens:  # otherwise the pooled vectors are the whole score
            firsts.append(bm25(segments, words_of(text)))
        chosen = [np.zeros(0, np.int64)]
        counts = [segment.info.documents for segment in segments]
        is_deleted = np.concatenate(
            [np.zeros(0, bool), *(segment.is_deleted for segment in segments)]
        )
        for scores in firsts:
            together = np.concatenate([np.zeros(0, np.float32), *scores])
            together[is_deleted] = -np.inf
            if scores is not by_vectors:
                together[together <= 0] = -np.inf  # has no word of the query
            chosen.append(best_places(together, max(candidates, top_k or SEARCH_HITS)))
        places = np.unique(np.concatenate(chosen))
        starts = np.cumsum([0, *counts])
        names: list[str] = []
        found: list[Scores] = [np.zeros(0, np.float32)]
        for segment, start, end in zip(segments, starts, starts[1:], strict=False):
            own = places[(places >= start) & (places < end)] - start
            names += [segment.names[place] for place in own.tolist()]
            found.append(self._score(segment, own, query, normalize))
        scores_found = np.concatenate(found)
        best = top(scores_found, top_k or SEARCH_HITS)
        return [StoredHit(names[place], float(scores_found[place])) for place in best]

    def add(
        self, documents: Documents, *, replace: bool = False, show_progress: bool = False
    ) -> int:
        """Add all documents, or none after an error; return their number.

        :param documents: as for ``build``
        :param replace: whether to replace documents in the store that have the same ids
        :param show_progress: whether to draw a progress bar on stderr
        :raises InputError: a document or its id is unusable, or the id is in the store
        :raises StoreError: another process is writing, or the disk is full
        """
        encoder = Encoder(self.reranker, self._rule)
        count = add(
            self.directory,
            _pairs(documents),
            encoder,
            replace=replace,
            show_progress=show_progress,
        )
        self.refresh()
        return count

    def delete(self, ids: Iterable[str]) -> int:
        """Delete all of the documents, or none after an error; return their number.

        :raises InputError: an id is not in the store
        :raises StoreError: another process is writing, or the disk is full
        """
        count = delete(self.directory, _id_list(ids), self._rule)
        self.refresh()
        return count

    def refresh(self) -> None:
        """Read the store again, to see changes by other processes.

        :raises StoreError: the store is gone or altered, or another model made it
        """
        self._snapshot = self._read()

    def close(self) -> None:
        """Free the memory. A reranker that was passed as ``model`` stays open."""
        self._comparer.close()
        if self._owns_model:
            self.reranker.close()

    def _read(self, *, verify: bool = False) -> Snapshot:
        """Map the files; try again if another process removes some of them meanwhile."""
        for _ in range(OPENINGS):
            before = read_content(self.directory)
            try:
                manifest = read_store_manifest(self.directory)
                check_binding(self.directory, manifest, self.reranker)
                if verify:
                    for _ in verify_files(self.directory, manifest.files, StoreError):
                        pass
                return Snapshot(manifest, open_segments(self.directory, manifest, self._rule))
            except StoreError:
                if read_content(self.directory) == before:
                    raise
        raise StoreError(f"{self.directory}: it changes all the time; try again")

    def _places(self) -> dict[str, tuple[int, int]]:
        snapshot = self._snapshot
        with self._lock:
            return snapshot.places

    def _find(self, snapshot: Snapshot, ids: Sequence[str]) -> Ids:
        """Return the segment of each document and its index there: int64 [len(ids), 2]."""
        with self._lock:
            places = snapshot.places
        return np.array(find(places, ids), np.int64).reshape(-1, 2)

    def _scores(self, snapshot: Snapshot, found: Ids, query: Query, normalize: bool) -> Scores:
        """Score documents of several segments, in their order."""
        scores = np.zeros(len(found), np.float32)
        for number, segment in enumerate(snapshot.segments):
            places = np.flatnonzero(found[:, 0] == number)
            if len(places):
                scores[places] = self._score(segment, found[places, 1], query, normalize)
        return scores

    def _score(self, segment: Segment, documents: Ids, query: Query, normalize: bool) -> Scores:
        """Score documents of a segment: the best score of a document's parts is its own."""
        if len(documents) == 0:
            return np.zeros(0, np.float32)
        starts, ends = segment.document_parts[documents], segment.document_parts[documents + 1]
        features = self._comparer.features(segment, ranges(starts, ends), query)
        raw = self._rule.combine(query, features, normalize)
        bounds = np.cumsum(ends - starts) - (ends - starts)
        best = np.maximum.reduceat(raw, bounds)
        rule = self.reranker.rule
        return rule.normalization(best) if normalize else rule.activation(best)

    def _pooled(self, segment: Segment, query: Query) -> Scores:
        """Compare all documents of a segment by their pooled vectors: float32 [N]."""
        found = self._comparer.pooled(segment, query)
        return np.maximum.reduceat(found, segment.document_parts[:-1])


def _pairs(documents: Documents) -> Iterable[tuple[str, Document]]:
    if isinstance(documents, Mapping):
        return documents.items()
    if isinstance(documents, str) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputError("documents", f"expected pairs of an id and a document, got {kind}")
    return documents


def _id_list(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError("ids", f"expected a list of ids, got {type(ids).__name__}")
    return list(ids)
