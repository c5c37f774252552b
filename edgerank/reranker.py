"""``Reranker``: opens a bundle, ranks and scores documents, and encodes texts."""

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
    """An open model, which ranks and scores documents.

    Several threads may use one reranker; it computes one micro-batch at a time.

        reranker = Reranker()  # the model in the package; or Reranker("models/mxbai-large")
        for hit in reranker.rank("who wrote dune?", documents, top_k=5):
            print(hit.score, hit.index, hit.document)

    Open a reranker once and keep it. ``close``, or the end of a ``with`` block, frees its memory.
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
        :param threads: number of threads to compute with. The default is the number of physical
            cores that the process may use, or OMP_NUM_THREADS if that is fewer
        :param providers: ONNX Runtime execution providers to choose a variant by, the preferred
            one first; "cpu", "cuda" and "tensorrt" are short names. The default is the bundle's
            order
        :param device: number of the GPU, as CUDA numbers the GPUs of this process, for a variant
            that runs on a GPU
        :param variant: name of the bundle's variant to run. The default is the first that this
            machine can run
        :param kernels: the kernels to compute with: "auto" for the fastest compiled kernels that
            this CPU can run, or ONNX Runtime's operators if there are none; "stock" for ONNX
            Runtime's operators; or the name of an instruction set. The default is the value of
            EDGERANK_KERNELS, or "auto"
        :param max_length: most tokens of query and document together. The default is the bundle's
        :param max_batch_tokens: most tokens of one micro-batch; a larger number takes more memory.
            The default is 1,024 with compiled kernels and 512 with ONNX Runtime's operators; on a
            GPU it depends on the free memory
        :param verify: whether to compare every file with its sha256 first
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
        """The lowest and the highest score that the model can give; infinite for logits."""
        return self._rule.score_range

    @property
    def rule(self) -> ScoringRule:
        """The rule that turns the outputs of the bundle's graph into scores."""
        return self._rule

    @property
    def vectors_output(self) -> Output:
        """The output of the graph that has the vectors of texts.

        :raises InputError: the model reads query and document together, and has none
        """
        self._check_encodes()
        assert self._rule.vectors is not None
        return self._rule.vectors

    @property
    def encodes_apart(self) -> bool:
        """Whether ``score_pairs`` encodes a document once for all queries."""
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

        :param query: the text to rank for; not blank
        :param documents: strings, or mappings of fields to strings. A mapping is read as its
            ``title``, its ``text``, and each other field as ``field: value``, each on its own line
        :param top_k: number of hits to return; all by default
        :param return_documents: whether hits have the documents; otherwise ``hit.document`` is None
        :param instruction: a sentence that says what relevance means, for models that take one
        :param normalize: whether to convert scores to the range from 0 to 1
        :param long_documents: how to treat a document over the maximum length: "truncate" it,
            "split" it and take the best part's score, or "refuse" it. The default is the bundle's
        :param show_progress: whether to draw a progress bar on stderr
        :return: hits with ``score``, ``index`` in the input, and ``document``
        :raises InputError: a text or an option is unusable
        :raises EdgerankError: the reranker is closed
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

        Equal queries are processed once, in whatever order the pairs are. Parameters and errors are
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
        """Encode texts as vectors of length 1, with an embedding or a late-interaction model.

        With an embedding model, the dot product of a query's and a document's vector is the score.
        A late-interaction model gives a vector for each token, special tokens included. If its
        score is MaxSim, a query also has vectors of the tokens that fill it up, and a document has
        none of the tokens that are not compared. A text over the maximum length is cut.

        :param texts: strings, or mappings as for ``rank``
        :param kind: "query" or "document", which models read differently
        :param show_progress: whether to draw a progress bar on stderr
        :return: in input order, float32 [len(texts), dimension] of an embedding model, or a list of
            float32 [tokens, dimension] of a late-interaction model
        :raises InputError: a text or an option is unusable, or the model reads query and document
            together
        :raises EdgerankError: the reranker is closed
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
        """Turn checked pairs into tokens, for callers that schedule the engine themselves.

        :param max_document_tokens: cut documents to this many tokens first

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
        """Turn texts into tokens, as ``prepare`` does; parameters and errors are ``encode``'s."""
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
        """Turn a query into tokens, to compare it with documents that were encoded before.

        :raises InputError: the query or the instruction is unusable
        """
        check_query(query)
        if instruction is not None:
            check_text(instruction, "instruction")
        self._warn_of_script([query])
        [tokens] = self._prompt.encode_texts([query], "query", instruction)
        return tokens

    def tokenize_documents(self, texts: Sequence[str]) -> tuple[list[Tokens], list[int]]:
        """Turn whole documents into tokens: one over the maximum length becomes several parts.

        :return: the parts, and for each part the index of its text
        """
        return self._prompt.encode_parts(texts)

    def compute(self, prepared: Prepared[R], *, show_progress: bool = False) -> R:
        """Compute the result of ``prepare`` or ``prepare_texts``.

        :raises EdgerankError: the reranker is closed
        """
        num_scores = prepared.num_scores
        batches = _observed(self._batches(prepared.groups), num_scores, show_progress)
        results = self._run(batches, prepared.output)
        return prepared.reduce(gather(results, prepared.output, num_scores))

    def steps(self, groups: Sequence[Group], output: Output) -> Iterator[tuple[Batch, Array]]:
        """Compute groups: each item of the iterator is one micro-batch and its output.

        :param output: the output of the graph that ``Prepared`` names
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
