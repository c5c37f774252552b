"""``Reranker``: a bundle, opened, that ranks and scores documents and encodes texts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, get_args

from tqdm import tqdm

from edgerank.bundle import DEFAULT_BUNDLE, read_bundle, verify_bundle
from edgerank.closing import Closing
from edgerank.cpu import default_threads
from edgerank.documents import (
    Document,
    LongDocuments,
    Pair,
    as_documents,
    check_integer,
    check_long_documents,
    check_query,
    check_text,
    document_text,
    make_pairs,
    validate_pairs,
)
from edgerank.engine import Array, Engine, Output, gather
from edgerank.errors import InputError
from edgerank.gpu import gpu_number
from edgerank.kernels import STOCK, Kernels, choose_kernels
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import (
    GPU_CELLS_PER_TOKEN,
    MAX_GRID_CELLS,
    MIN_BATCH_TOKENS,
    Batch,
    Group,
    Tokens,
    default_batch_tokens,
    gpu_batch_tokens,
    pack,
)
from edgerank.prompt import Encoded, PromptEncoder, TextKind
from edgerank.providers import GPU_PROVIDERS
from edgerank.ranking import Hit, Scores, top
from edgerank.rules import Prepared, ScoringRule, Vectors, scoring_rule
from edgerank.scripts import foreign_script
from edgerank.tokenization import open_tokenizer
from edgerank.variants import choose_variant, machine_capabilities

log = logging.getLogger(__name__)

R = TypeVar("R")


class Reranker(Closing):
    """An opened model. Several threads may use it; it computes one micro-batch at a time.

        reranker = Reranker()  # the model in the package; or Reranker("models/mxbai-large")
        for hit in reranker.rank("who wrote dune?", documents, top_k=5):
            print(hit.score, hit.index, hit.document)

    Open it once and keep it. ``close``, or the end of a ``with`` block, frees its memory.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        device: int = 0,
        variant: str | None = None,
        kernels: str | None = None,
        max_length: int | None = None,
        max_batch_tokens: int | None = None,
        verify: bool = False,
        trust: str | os.PathLike[str] | None = None,
    ) -> None:
        """Open a bundle directory.

        :param bundle: the directory; the model that comes with the package by default
        :param threads: threads to compute with; ``cpu.default_threads()`` by default: the physical
            cores given to the process, and no more than OMP_NUM_THREADS says
        :param providers: ONNX Runtime execution providers to choose a variant by, most wanted
            first, "cpu", "cuda" and "tensorrt" for short; the bundle's order by default
        :param device: number of the GPU, as CUDA numbers those of this process, where the variant
            runs on one
        :param variant: name of the bundle's variant to run; the first that this machine can run by
            default
        :param kernels: what computes: "auto", the fastest compiled kernels that this CPU can run,
            or ONNX Runtime's operators where there are none; "stock", ONNX Runtime's operators; or
            the name of an instruction set. What EDGERANK_KERNELS says, or "auto", by default
        :param max_length: tokens of query and document together; the bundle's default by default
        :param max_batch_tokens: tokens of one micro-batch; more take more memory. 1,024 with
            compiled kernels, 512 with ONNX Runtime's operators, and what a GPU has memory for by
            default (``gpu_batch_tokens``)
        :param verify: compare every file with its sha256 first
        :param trust: file of the public key that must have signed the bundle; implies ``verify``
        :raises BundleError: the bundle is missing, altered, incomplete, of another format, or not
            signed by the trusted key
        :raises ProviderError: this machine lacks what the variant needs, the provider cannot be
            loaded or lacks an operator, or the library of kernels does not fit the installed ONNX
            Runtime
        :raises InputError: an option is out of range
        """
        self.bundle = read_bundle(bundle, trust)
        if verify or trust is not None:
            for _ in verify_bundle(self.bundle):
                pass
        self.max_length = self.bundle.manifest.length(max_length)
        if isinstance(providers, str):
            raise InputError("providers", f"expected a list of names, got the string {providers!r}")
        threads = default_threads() if threads is None else threads
        check_integer("threads", threads, 1)
        self.threads = threads
        self.kernels = choose_kernels(kernels)
        machine = machine_capabilities(self.kernels)
        self.variant = choose_variant(self.bundle, machine, variant, providers)
        provider = self.variant.provider
        if provider != CPU_PROVIDER:
            self.kernels = Kernels(STOCK, f"compiled kernels are not for {provider}")
        check_integer("device", device, 0)
        gpu = gpu_number(machine.gpus, device) if provider in GPU_PROVIDERS else None
        if max_batch_tokens is not None:
            check_integer("max_batch_tokens", max_batch_tokens, MIN_BATCH_TOKENS)
        elif gpu is None:
            max_batch_tokens = default_batch_tokens(compiled=self.kernels.are_compiled)
        else:
            weights = self.bundle.variant_size(self.variant.variant)
            max_batch_tokens = gpu_batch_tokens(gpu.free_memory, weights)
        self.max_batch_tokens = max_batch_tokens
        self._max_cells = MAX_GRID_CELLS
        if gpu is not None:
            self._max_cells = max(MAX_GRID_CELLS, GPU_CELLS_PER_TOKEN * max_batch_tokens)
        self._rule = scoring_rule(self.bundle.manifest.scoring)
        self._has_warned = False
        manifest = self.bundle.manifest
        self._prompt = PromptEncoder(
            manifest.prompt,
            manifest.truncation,
            open_tokenizer(self.bundle.tokenizer_path),
            self.max_length,
        )
        self._engine = Engine(
            self.bundle.graph_path(self.variant.variant),
            self._rule.outputs,
            threads=threads,
            provider=provider,
            device=device,
            kernels=self.kernels,
        )

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score that the model can give; infinite for plain logits."""
        return self._rule.score_range

    @property
    def rule(self) -> ScoringRule:
        """How the bundle makes scores of what its graph gives."""
        return self._rule

    @property
    def vectors_output(self) -> Output:
        """The graph's output that texts are encoded by.

        :raises InputError: there is none
        """
        self._check_encodes()
        assert self._rule.vectors is not None
        return self._rule.vectors

    @property
    def encodes_apart(self) -> bool:
        """Whether a document is encoded once for all queries of ``score_pairs``."""
        return self._rule.encodes_apart

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

        :param documents: strings, or mappings, which read as ``title``, ``text``, and each other
            field as ``field: value``, one below the other
        :param top_k: how many hits to return, all by default
        :param instruction: what relevance means, for families that take one
        :param normalize: scores in [0, 1]
        :param long_documents: what to do with a document over the maximum length: "truncate" it,
            "split" it and take the best part's score, or "refuse" it; what the bundle says by
            default
        :param show_progress: draw a progress bar on stderr
        :raises InputError: a text or an option is unusable
        """
        documents = list(as_documents(documents))
        if top_k is not None:
            check_integer("top_k", top_k, 1)
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
        prepared = self.prepare(
            make_pairs(query, documents),
            instruction=instruction,
            normalize=normalize,
            long_documents=long_documents,
        )
        return self.compute(prepared, show_progress=show_progress)

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
        prepared = self.prepare(
            validate_pairs(pairs),
            instruction=instruction,
            normalize=normalize,
            long_documents=long_documents,
        )
        return self.compute(prepared, show_progress=show_progress)

    def encode(
        self,
        texts: Iterable[Document],
        *,
        kind: TextKind = "document",
        show_progress: bool = False,
    ) -> Vectors:
        """Encode texts by themselves, for embedding and late-interaction bundles.

        Dot products of an embedding bundle's vectors are its scores. A late-interaction bundle has
        a unit vector for each token, special tokens included; where the score is MaxSim, those of a
        document are left out that the bundle says, and a query has those that fill it up. A text
        over the maximum length is cut.

        :param texts: strings, or mappings as for ``rank``
        :param kind: "query" or "document": models read them differently
        :param show_progress: draw a progress bar on stderr
        :return: float32 [len(texts), dimension] of unit vectors, or a list of float32 [tokens,
            dimension], in input order
        :raises InputError: a text or an option is unusable, or the bundle scores pairs only
        """
        return self.compute(self.prepare_texts(texts, kind=kind), show_progress=show_progress)

    def prepare(
        self,
        pairs: Sequence[Pair],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        max_document_tokens: int | None = None,
    ) -> Prepared[Scores]:
        """Turn checked pairs into tokens: ``score`` up to the engine, for those who schedule it.

        :param max_document_tokens: documents are cut to so many tokens first

        Other parameters and errors are those of ``rank``.
        """
        check_long_documents(long_documents)
        if instruction is not None:
            check_text(instruction, "instruction")
        self._warn_of_script(pair.query for pair in pairs)

        def encode(query: str, documents: Mapping[str, Pair]) -> Encoded:
            return self._prompt.encode(
                query, documents, instruction, long_documents, max_document_tokens
            )

        return self._rule.prepare(pairs, encode, normalize=normalize)

    def prepare_texts(
        self, texts: Iterable[Document], *, kind: TextKind = "document"
    ) -> Prepared[Vectors]:
        """Turn texts into tokens: ``encode`` up to the engine, with its parameters and errors."""
        if kind not in get_args(TextKind):
            raise InputError("kind", f"{kind!r} is unknown; choose {', '.join(get_args(TextKind))}")
        self._check_encodes()
        checked = [
            check_query(text, "texts", index)
            if kind == "query"
            else document_text(text, "texts", index)
            for index, text in enumerate(as_documents(texts))
        ]
        if kind == "query":
            self._warn_of_script(checked)
        places = {text: place for place, text in enumerate(dict.fromkeys(checked))}

        def in_order(vectors: Vectors) -> Vectors:
            if isinstance(vectors, list):
                return [vectors[places[text]] for text in checked]
            return vectors[[places[text] for text in checked]]

        encoded = self._prompt.encode_texts(list(places), kind)
        return self._rule.prepare_texts(encoded, kind).then(in_order)

    def tokenize_query(self, query: str, instruction: str | None = None) -> Tokens:
        """Turn a query into tokens, to be compared with documents that were encoded before.

        :raises InputError: the query or the instruction is unusable
        """
        check_query(query)
        if instruction is not None:
            check_text(instruction, "instruction")
        self._warn_of_script([query])
        [tokens] = self._prompt.encode_texts([query], "query", instruction)
        return tokens

    def tokenize_documents(self, texts: Sequence[str]) -> tuple[list[Tokens], list[int]]:
        """Turn documents into tokens, whole: one over the maximum length becomes several parts.

        :return: the parts, and the index of each one's text
        """
        return self._prompt.encode_parts(texts)

    def compute(self, prepared: Prepared[R], *, show_progress: bool = False) -> R:
        """Run what was prepared.

        :raises EdgerankError: the reranker is closed
        """
        num_scores = prepared.num_scores
        batches = _observed(self._batches(prepared.groups), num_scores, show_progress)
        results = self._run(batches, prepared.output)
        return prepared.reduce(gather(results, prepared.output, num_scores))

    def steps(self, groups: Sequence[Group], output: Output) -> Iterator[tuple[Batch, Array]]:
        """Compute groups, one micro-batch for each item that is asked for.

        :param output: of the graph, as ``Prepared`` names it
        :raises EdgerankError: the reranker is closed
        """
        return self._run(self._batches(groups), output)

    def close(self) -> None:
        """Free the model's memory; calls in progress and later ones raise ``EdgerankError``."""
        self._engine.close()

    def _warn_of_script(self, queries: Iterable[str]) -> None:
        """Log once that a query is in a script that the model is not made for."""
        scripts = self.bundle.manifest.scripts
        if self._has_warned or not scripts:
            return
        for query in dict.fromkeys(queries):
            script = foreign_script(query, scripts)
            if script is not None:
                self._has_warned = True
                log.warning(
                    "most of a query is in %s script, and the model %s is made for %s: expect a"
                    " poor order; docs/models.md names multilingual models",
                    script,
                    self.bundle.manifest.source.model,
                    " and ".join(scripts),
                )
                return

    def _check_encodes(self) -> None:
        if self._rule.vectors is None:
            family = self.bundle.manifest.family
            raise InputError("texts", f"family {family} reads a query and a document together")

    def _run(self, batches: Iterable[Batch], output: Output) -> Iterator[tuple[Batch, Array]]:
        for batch, (raw,) in self._engine.run(batches, [output.name]):
            yield batch, raw

    def _batches(self, groups: Sequence[Group]) -> Iterator[Batch]:
        return pack(
            groups,
            max_tokens=self.max_batch_tokens,
            causal=self._engine.is_causal,
            max_cells=self._max_cells,
        )


def _observed(batches: Iterable[Batch], num_scores: int, show_progress: bool) -> Iterator[Batch]:
    """Pass micro-batches on, drawing a bar of the texts that are done."""
    with tqdm(total=num_scores, unit="doc", desc="rerank", disable=not show_progress) as bar:
        for batch in batches:
            yield batch
            bar.update(int((batch.score_ids >= 0).sum()))
