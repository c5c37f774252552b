"""The work: checkpoints of real geometries, and texts of real lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.common.checkpoints import (
    ETTIN_32M,
    ETTIN_150M,
    MXBAI_BASE_V2,
    MXBAI_LARGE_V2,
    write_ettin,
    write_minilm,
    write_mxbai_v1,
    write_mxbai_v2,
)
from benchmarks.common.layers import Layer, decoder_layer
from benchmarks.peers.catalogue import BERT, DEBERTA, DECODER, MODERNBERT
from edgerank.evaluation import read_collection
from quantize.measure.calibration import read_calibration

DOCUMENT_TOKENS = 40, 250  # the fewest and the most
QUERY_TOKENS = 5, 40
LONG_TOKENS = 4000
# of cisi's documents of so many tokens: the deciles of their words
WORDS = (27, 60, 76, 87, 100, 113, 125, 141, 155, 179, 224)

NAMES = "ABCDEF"

Request = dict[str, Any]  # "query": str, "documents": list[str]


@dataclass(frozen=True)
class Job:
    """A kind of call: lines go to a worker one by one; requests of a line are concurrent."""

    name: str
    lines: tuple[tuple[Request, ...], ...]

    @property
    def documents(self) -> int:
        return sum(len(request["documents"]) for line in self.lines for request in line)


@dataclass(frozen=True)
class Texts:
    """Queries and documents, drawn in turn; lengths are in tokens of one tokenizer."""

    source: str
    queries: list[str]
    documents: list[str]
    tokenizer: Tokenizer

    def request(self, documents: int, number: int = 0) -> Request:
        """Return the request of a number: other queries and documents than the next one's."""
        first = number * documents
        return {
            "query": self.queries[number % len(self.queries)],
            "documents": [
                self.documents[index % len(self.documents)]
                for index in range(first, first + documents)
            ],
        }

    def of_length(self, tokens: int, number: int = 0) -> str:
        """Return a text of so many tokens, of documents end to end."""
        enough = tokens // DOCUMENT_TOKENS[0] + 2
        places = [(number + index) % len(self.documents) for index in range(enough)]
        text = " ".join(self.documents[place] for place in places)
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return text[: offsets[tokens - 1][1]]


Jobs = Callable[[Texts], tuple[Job, ...]]


@dataclass(frozen=True)
class Workload:
    """A checkpoint and what is asked of it."""

    name: str
    family: str
    model: str  # whose geometry it is
    layer: Layer
    layers: int
    whole_layers: int  # of the real model
    weights: str  # what they are, for people
    write: Callable[[Path], None]  # the checkpoint
    jobs: Jobs


def draw_texts(collection: Path | None, tokenizer: Tokenizer) -> Texts:
    """Take texts of a collection in BEIR's layout, or make some of the same lengths."""
    rng = np.random.default_rng(0)
    if collection is None:
        source, queries, documents = "generated", *_generated(rng)
    else:
        read = read_collection(collection)
        source = read.name
        queries, documents = list(read.queries.values()), list(read.documents.values())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encode = partial(tokenizer.encode_batch, add_special_tokens=False)
    kept: list[list[str]] = []
    for texts, (fewest, most) in ((queries, QUERY_TOKENS), (documents, DOCUMENT_TOKENS)):
        lengths = [len(encoding.ids) for encoding in encode(texts)]
        kept.append([t for t, n in zip(texts, lengths, strict=True) if fewest <= n <= most])
        rng.shuffle(kept[-1])
    return Texts(source, *kept, tokenizer)


def _generated(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Draw words of the built-in text; as many a document as real ones have."""
    pairs = read_calibration(None).pairs
    words = np.array(" ".join(pair.document for pair in pairs).split())
    shares = np.linspace(0, 1, len(WORDS))
    counts = np.interp(rng.random(1200), shares, WORDS).astype(int)
    documents = [" ".join(rng.choice(words, count)) for count in counts.tolist()]
    return list(dict.fromkeys(pair.query for pair in pairs)), documents


def one_by_one(texts: Texts, documents: int, queries: int = 1) -> tuple[tuple[Request, ...], ...]:
    return tuple((texts.request(documents, number),) for number in range(queries))


def large_jobs(texts: Texts) -> tuple[Job, ...]:
    long = {"query": texts.queries[0], "documents": [texts.of_length(LONG_TOKENS)]}
    return Job("1 x 32", one_by_one(texts, 32)), Job("1 x 1 of 4,000 tokens", ((long,),))


def base_jobs(texts: Texts) -> tuple[Job, ...]:
    return (Job("1 x 32", one_by_one(texts, 32)),)


def small_jobs(texts: Texts) -> tuple[Job, ...]:
    together = tuple(texts.request(20, number) for number in range(32))
    return Job("1 x 100", one_by_one(texts, 100)), Job("32 callers x 20", (together,))


def workloads(layers: int) -> tuple[Workload, ...]:
    """Return all workloads; decoders cut to so many layers at most."""

    def decoder(name: str, model: str, config: dict[str, Any], jobs: Jobs) -> Workload:
        whole = config["num_hidden_layers"]
        kept = min(layers, whole)
        write = partial(write_mxbai_v2, config={**config, "num_hidden_layers": kept})
        layer = decoder_layer(config)
        return Workload(name, DECODER, model, layer, kept, whole, "random", write, jobs)

    def ettin(name: str, model: str, config: dict[str, Any]) -> Workload:
        num_layers, hidden = config["num_hidden_layers"], config["hidden_size"]
        layer = Layer(hidden, config["intermediate_size"], hidden, is_gated=True)
        write = partial(write_ettin, config=config)
        return Workload(
            name, MODERNBERT, model, layer, num_layers, num_layers, "random", write, base_jobs
        )

    return (
        decoder("A", "mxbai-rerank-large-v2", MXBAI_LARGE_V2, large_jobs),
        decoder("B", "mxbai-rerank-base-v2", MXBAI_BASE_V2, base_jobs),
        Workload(
            name="C",
            family=BERT,
            model="ms-marco-MiniLM-L6",
            layer=Layer(384, 1536, 384),
            layers=6,
            whole_layers=6,
            weights="all-MiniLM-L6-v2's real encoder under a random classifier",
            write=write_minilm,
            jobs=small_jobs,
        ),
        Workload(
            name="D",
            family=DEBERTA,
            model="mxbai-rerank-base-v1",
            layer=Layer(768, 3072, 768),
            layers=12,
            whole_layers=12,
            weights="random",
            write=write_mxbai_v1,
            jobs=base_jobs,
        ),
        ettin("E", "ettin-reranker-32m", ETTIN_32M),
        ettin("F", "ettin-reranker-150m", ETTIN_150M),
    )
