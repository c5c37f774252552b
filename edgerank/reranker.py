"""The public face: open a bundle, rank documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from tqdm import tqdm

from edgerank.bundle import MIN_LENGTH, Bundle, read_bundle, verify_bundle
from edgerank.cpu import physical_cores
from edgerank.engine import CPU_PROVIDER, Engine
from edgerank.errors import InputError
from edgerank.packing import EMPTY, Batch, Group, pack
from edgerank.prompt import (
    Document,
    Encoded,
    LongDocuments,
    PromptEncoder,
    check_long_documents,
    check_text,
    document_text,
)
from edgerank.scoring import Scores, activate, best_of_each, similarities, top

MAX_BATCH_TOKENS = (
    512  # enough to keep matrix products at full speed, small enough to stay in cache
)


@dataclass(frozen=True)
class Hit:
    """A ranked document."""

    index: int  # its place in the input
    score: float
    document: Document | None


@dataclass(frozen=True)
class _Pair:
    """A query and a document's text, both checked."""

    query: str
    text: str
    name: str  # of the document, for errors


class Reranker:
    """A model, opened. Safe to call from several threads; they share its cores in turns.

    reranker = Reranker.open("models/mxbai-rerank-large-v2")
    for hit in reranker.rank("who wrote dune?", documents, top_k=5):
        print(hit.score, hit.index, hit.document)
    """

    def __init__(
        self, bundle: Bundle, prompt: PromptEncoder, engine: Engine, max_batch_tokens: int
    ) -> None:
        """Use ``Reranker.open``."""
        self.bundle = bundle
        self._prompt = prompt
        self._engine = engine
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[str] = (CPU_PROVIDER,),
        max_length: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        verify: bool = False,
    ) -> Reranker:
        """Open a bundle directory.

        :param threads: threads to compute with; the physical cores given to the process by default
        :param providers: ONNX Runtime execution providers, most wanted first
        :param max_length: tokens of query and document together; the bundle's default by default
        :param max_batch_tokens: tokens of one micro-batch; more take more memory
        :param verify: compare every file with its sha256 first
        :raises BundleError: the bundle is missing, altered, incomplete or too new
        :raises ProviderError: a provider is not available
        :raises InputError: an option is out of range
        """
        opened = read_bundle(bundle)
        if verify:
            for _ in verify_bundle(opened):
                pass
        limit = opened.manifest.max_length_limit
        length = opened.manifest.max_length if max_length is None else max_length
        _check_range("max_length", length, MIN_LENGTH, limit)
        _check_range("max_batch_tokens", max_batch_tokens, 16, None)
        if isinstance(providers, str):
            raise InputError(f"providers: expected a list of names, got the string {providers!r}")
        threads = physical_cores() if threads is None else threads
        _check_range("threads", threads, 1, None)
        return cls(
            opened,
            PromptEncoder(opened, length),
            Engine(opened, threads=threads, providers=providers),
            max_batch_tokens,
        )

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_k: int | None = None,
        return_documents: bool = True,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments = "truncate",
        show_progress: bool = False,
    ) -> list[Hit]:
        """Rank documents by relevance to a query, best first; equal scores keep input order.

        :param documents: strings, or mappings of fields to strings
        :param top_k: how many hits to return, all by default
        :param instruction: what relevance means, for families that take one
        :param normalize: scores in [0, 1]
        :param long_documents: what to do with a document over the maximum length: "truncate" it,
            "split" it and take the best part's score, or "refuse" it
        :param show_progress: draw a progress bar on stderr
        :raises InputError: a text or an option is unusable
        """
        documents = list(_listed(documents))
        if top_k is not None:
            _check_range("top_k", top_k, 1, None)
        scores = self.score(
            query,
            documents,
            instruction=instruction,
            normalize=normalize,
            long_documents=long_documents,
            show_progress=show_progress,
        )
        return [
            Hit(index, float(scores[index]), documents[index] if return_documents else None)
            for index in top(scores, top_k)
        ]

    def score(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments = "truncate",
        show_progress: bool = False,
    ) -> Scores:
        """Score documents against a query: float32 [len(documents)], in input order.

        Parameters and errors are those of ``rank``.
        """
        check_text(query, "query")
        names = (f"documents[{index}]" for index in count())
        pairs = [
            _Pair(query, document_text(document, name), name)
            for document, name in zip(_listed(documents), names, strict=False)
        ]
        return self._score(pairs, instruction, normalize, long_documents, show_progress)

    def score_pairs(
        self,
        pairs: Iterable[tuple[str, Document]],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments = "truncate",
        show_progress: bool = False,
    ) -> Scores:
        """Score (query, document) pairs: float32 [len(pairs)], in input order.

        Pairs with the same query share its work wherever they stand. Parameters and errors are
        those of ``rank``.
        """
        if not isinstance(pairs, Iterable):
            raise InputError(f"pairs: expected a list of pairs, got {type(pairs).__name__}")
        checked = []
        for index, pair in enumerate(pairs):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise InputError(f"pairs[{index}]: expected a (query, document) pair")
            query = check_text(pair[0], f"pairs[{index}] query")
            name = f"pairs[{index}] document"
            checked.append(_Pair(query, document_text(pair[1], name), name))
        return self._score(checked, instruction, normalize, long_documents, show_progress)

    def _score(
        self,
        pairs: list[_Pair],
        instruction: str | None,
        normalize: bool,
        long_documents: LongDocuments,
        show_progress: bool,
    ) -> Scores:
        check_long_documents(long_documents)
        if instruction is not None:
            check_text(instruction, "instruction")
        scoring = self.bundle.manifest.scoring

        def encode(query: str, documents: Mapping[str, str]) -> Encoded:
            return self._prompt.encode(query, documents, instruction, long_documents)

        def run(groups: list[Group]) -> Scores:
            batches = pack(groups, max_tokens=self._max_batch_tokens, causal=self._engine.is_causal)
            num_scores = sum(len(group.sequences) for group in groups)
            return self._engine.run(_observed(batches, num_scores, show_progress), num_scores)

        if not pairs:
            return np.zeros(0, np.float32)
        score = _score_by_logit if scoring.rule == "logit" else _score_by_similarity
        return activate(score(pairs, encode, run), scoring, normalize=normalize)


Encode = Callable[[str, Mapping[str, str]], Encoded]
Run = Callable[[list[Group]], Scores]


def _score_by_logit(pairs: list[_Pair], encode: Encode, run: Run) -> Scores:
    """Run each distinct pair once, the documents of a query in one group."""
    texts_of: dict[str, dict[str, str]] = {}
    for pair in pairs:
        texts_of.setdefault(pair.query, {}).setdefault(pair.text, pair.name)
    groups: list[Group] = []
    owners: list[int] = []  # for each sequence, the place of its pair
    place_of: dict[tuple[str, str], int] = {}
    for query, texts in texts_of.items():
        encoded = encode(query, texts)
        first = len(place_of)
        place_of.update(((query, text), first + index) for index, text in enumerate(texts))
        score_ids = range(len(owners), len(owners) + len(encoded.sequences))
        groups.append(Group(encoded.query, encoded.sequences, score_ids))
        owners += [first + owner for owner in encoded.owners]
    best = best_of_each(run(groups), owners, len(place_of))
    return best[[place_of[pair.query, pair.text] for pair in pairs]]


def _score_by_similarity(pairs: list[_Pair], encode: Encode, run: Run) -> Scores:
    """Embed each distinct query and each distinct document once, then compare."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    texts: dict[str, str] = {}
    for pair in pairs:
        texts.setdefault(pair.text, pair.name)
    encoded = encode(queries[0], texts)
    sequences = [encode(query, {}).query for query in queries] + encoded.sequences
    vectors = run([Group(EMPTY, sequences, range(len(sequences)))])
    query_vectors, text_vectors = vectors[: len(queries)], vectors[len(queries) :]
    best = {
        query: best_of_each(similarities(vector, text_vectors), encoded.owners, len(texts))
        for query, vector in zip(queries, query_vectors, strict=True)
    }
    place_of = {text: place for place, text in enumerate(texts)}
    return np.array([best[pair.query][place_of[pair.text]] for pair in pairs], np.float32)


def _observed(batches: Iterable[Batch], num_scores: int, show_progress: bool) -> Iterator[Batch]:
    """Pass micro-batches on, drawing a bar of the scores that are done."""
    with tqdm(total=num_scores, unit="doc", desc="rerank", disable=not show_progress) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.score_ids >= 0).sum()))


def _listed(documents: Iterable[Document]) -> Iterable[Document]:
    """Refuse a lone string, whose characters would be taken for documents."""
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        raise InputError(f"documents: expected a list of documents, got {type(documents).__name__}")
    return documents


def _check_range(name: str, value: object, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name}: expected an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}: {value} is out of range; it must be {bounds}")
