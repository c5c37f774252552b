"""The public face: open a bundle, rank documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from edgerank.bundle import DEFAULT_BUNDLE, MIN_LENGTH, Bundle, read_bundle, verify_bundle
from edgerank.cpu import physical_cores
from edgerank.engine import CPU_PROVIDER, Engine
from edgerank.errors import InputError
from edgerank.packing import Batch, Group, pack
from edgerank.preparation import Pair, Prepared, checked_pairs, listed, pairs_of, prepare
from edgerank.prompt import (
    Document,
    Encoded,
    LongDocuments,
    PromptEncoder,
    check_long_documents,
    check_text,
)
from edgerank.scoring import Scores, activate, top

MAX_BATCH_TOKENS = (
    512  # enough to keep matrix products at full speed, small enough to stay in cache
)


@dataclass(frozen=True)
class Hit:
    """A ranked document."""

    index: int  # its place in the input
    score: float
    document: Document | None


class Reranker:
    """A model, opened. Safe to call from several threads; they share its cores in turns.

    reranker = Reranker.open()  # the model in the package; or open("models/mxbai-rerank-large-v2")
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
        self.max_batch_tokens = max_batch_tokens

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        threads: int | None = None,
        providers: Sequence[str] = (CPU_PROVIDER,),
        max_length: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        verify: bool = False,
    ) -> Reranker:
        """Open a bundle directory.

        :param bundle: the directory; the model that comes with the package by default
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
        long_documents: LongDocuments | None = None,
        show_progress: bool = False,
    ) -> list[Hit]:
        """Rank documents by relevance to a query, best first; equal scores keep input order.

        :param documents: strings, or mappings of fields to strings
        :param top_k: how many hits to return, all by default
        :param instruction: what relevance means, for families that take one
        :param normalize: scores in [0, 1]
        :param long_documents: what to do with a document over the maximum length: "truncate" it,
            "split" it and take the best part's score, or "refuse" it; what the bundle says by
            default
        :param show_progress: draw a progress bar on stderr
        :raises InputError: a text or an option is unusable
        """
        documents = list(listed(documents))
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
        long_documents: LongDocuments | None = None,
        show_progress: bool = False,
    ) -> Scores:
        """Score documents against a query: float32 [len(documents)], in input order.

        Parameters and errors are those of ``rank``.
        """
        prepared = self.prepare(pairs_of(query, documents), instruction, normalize, long_documents)
        return self._compute(prepared, show_progress)

    def score_pairs(
        self,
        pairs: Iterable[tuple[str, Document]],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        show_progress: bool = False,
    ) -> Scores:
        """Score (query, document) pairs: float32 [len(pairs)], in input order.

        Pairs with the same query share its work wherever they stand. Parameters and errors are
        those of ``rank``.
        """
        checked = checked_pairs(pairs)
        prepared = self.prepare(checked, instruction, normalize, long_documents)
        return self._compute(prepared, show_progress)

    def prepare(
        self,
        pairs: Sequence[Pair],
        instruction: str | None,
        normalize: bool,
        long_documents: LongDocuments | None,
    ) -> Prepared:
        """Turn checked pairs into tokens: ``score`` up to the engine, for those who schedule it.

        Parameters and errors are those of ``rank``.
        """
        check_long_documents(long_documents)
        if instruction is not None:
            check_text(instruction, "instruction")
        scoring = self.bundle.manifest.scoring

        def encode(query: str, documents: Mapping[str, str]) -> Encoded:
            return self._prompt.encode(query, documents, instruction, long_documents)

        prepared = prepare(pairs, encode, scoring.rule)
        return replace(
            prepared,
            finish=lambda raw: activate(prepared.finish(raw), scoring, normalize=normalize),
        )

    def steps(self, groups: Sequence[Group]) -> Iterator[tuple[Batch, Scores]]:
        """Compute groups, one micro-batch for each item that is asked for."""
        return self._engine.steps(self._batches(groups))

    def num_tokens(self, text: str) -> int:
        """Count the tokens of a text by itself."""
        return self._prompt.num_tokens(text)

    def _compute(self, prepared: Prepared, show_progress: bool) -> Scores:
        num_scores = prepared.num_scores
        batches = _observed(self._batches(prepared.groups), num_scores, show_progress)
        return prepared.finish(self._engine.run(batches, num_scores))

    def _batches(self, groups: Sequence[Group]) -> Iterator[Batch]:
        return pack(groups, max_tokens=self.max_batch_tokens, causal=self._engine.is_causal)


def _observed(batches: Iterable[Batch], num_scores: int, show_progress: bool) -> Iterator[Batch]:
    """Pass micro-batches on, drawing a bar of the scores that are done."""
    with tqdm(total=num_scores, unit="doc", desc="rerank", disable=not show_progress) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.score_ids >= 0).sum()))


def _check_range(name: str, value: object, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name}: expected an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}: {value} is out of range; it must be {bounds}")
