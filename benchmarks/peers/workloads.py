"""The work: checkpoints of real geometries, and texts of real lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.checkpoints import MXBAI_LARGE_V2
from benchmarks.peers.catalogue import BERT, DEBERTA, DECODER
from benchmarks.peers.models import MXBAI_BASE_V2, write_deberta, write_decoder, write_minilm
from edgerank.evaluation import read_collection
from quantize.measure.calibration import read_calibration

DOCUMENT_TOKENS = 40, 250  # the fewest and the most
QUERY_TOKENS = 5, 40
LONG_TOKENS = 4000
# of cisi's documents of so many tokens: the deciles of their words
WORDS = (27, 60, 76, 87, 100, 113, 125, 141, 155, 179, 224)

Request = dict[str, Any]  # "query": str, "documents": list[str]


@dataclass(frozen=True)
class Geometry:
    """The matrices of a layer, for counting operations."""

    model: str  # whose geometry it is
    layers: int
    hidden: int
    wide: int
    key_value: int  # width of keys, and of values
    is_gated: bool = False  # two matrices into the wide side

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Depth and width of a layer's products, by name."""
        shapes = {"q": (self.hidden, self.hidden), "kv": (self.hidden, 2 * self.key_value)}
        shapes |= {"o": (self.hidden, self.hidden), "up": (self.hidden, self.wide)}
        if self.is_gated:
            shapes["gate"] = (self.hidden, self.wide)
        return shapes | {"down": (self.wide, self.hidden)}

    def operations(self, tokens: int, scored: int) -> float:
        """Multiplications and additions that scores need: the last layer's scored rows alone."""
        sizes = {name: depth * width for name, (depth, width) in self.matrices.items()}
        layer, keys = sum(sizes.values()), sizes["kv"]
        return 2.0 * (tokens * ((self.layers - 1) * layer + keys) + scored * (layer - keys))


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
    geometry: Geometry
    weights: str  # what they are, for people
    whole_layers: int  # of the real model
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
        cut = {**config, "num_hidden_layers": min(layers, config["num_hidden_layers"])}
        head = config["hidden_size"] // config["num_attention_heads"]
        geometry = Geometry(
            model,
            cut["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            head * config["num_key_value_heads"],
            is_gated=True,
        )
        write = partial(write_decoder, config=cut)
        whole = config["num_hidden_layers"]
        return Workload(name, DECODER, geometry, "random", whole, write, jobs)

    return (
        decoder("A", "mxbai-rerank-large-v2", MXBAI_LARGE_V2, large_jobs),
        decoder("B", "mxbai-rerank-base-v2", MXBAI_BASE_V2, base_jobs),
        Workload(
            "C",
            BERT,
            Geometry("ms-marco-MiniLM-L6", 6, 384, 1536, 384),
            "all-MiniLM-L6-v2's real encoder under a random classifier",
            6,
            write_minilm,
            small_jobs,
        ),
        Workload(
            "D",
            DEBERTA,
            Geometry("mxbai-rerank-base-v1", 12, 768, 3072, 768),
            "random",
            12,
            write_deberta,
            base_jobs,
        ),
    )
