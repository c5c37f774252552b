"""The manifest of a bundle: everything about its behaviour, as data.

``edgerank.json`` says how text becomes tokens, what is cut when it is too long, how the output of a
graph becomes a score, and which graphs there are. A model family is data here and nowhere a
condition in the runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec

from edgerank.documents import LongDocuments, check_integer

MANIFEST_NAME = "edgerank.json"
FORMAT_VERSION = 3
MIN_LENGTH = 16  # tokens; less leaves no room for a query beside a document
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

Positive = Annotated[int, msgspec.Meta(ge=1)]
PrecisionName = Literal["int8", "int8-fine", "int4", "fp32", "fp16", "bf16"]


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of the prompt, tokenised by itself; it may hold {query} or {document}."""

    text: str
    token_type: int = 0
    is_token: bool = False  # text is one token of the vocabulary, whether or not it is read as one

    @property
    def is_fixed(self) -> bool:
        """Whether it holds neither query nor document."""
        return self.is_token or not ("{query}" in self.text or "{document}" in self.text)


class Expansion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query of fewer tokens is filled up with one token, whose vectors count as the query's."""

    token: str
    length: Positive  # tokens, the fixed pieces included
    is_seen: bool  # whether the query's tokens see those that were added


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a query and a document become tokens; pieces are concatenated as token ids."""

    query: tuple[Piece, ...]  # up to the document: what all documents of a query share
    document: tuple[Piece, ...]
    instruction: str | None = None  # put before the query piece's text; None: takes none
    default_instruction: str | None = None  # where the caller gives none
    strip: bool = False  # texts lose the white space around them
    expansion: Expansion | None = None  # for queries that are encoded by themselves

    def __post_init__(self) -> None:
        for pieces, placeholder in ((self.query, "{query}"), (self.document, "{document}")):
            if sum(placeholder in piece.text for piece in pieces if not piece.is_token) != 1:
                raise ValueError(f"exactly one piece must hold {placeholder}")


class Truncation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is cut when query, document and ``reserved`` tokens exceed the maximum length.

    * document: the query to ``query_share`` of the length, then the document to what is left,
      or to the length; what follows {document} in its piece is not cut off and is ``reserved``
    * longest: the longer of query and document first
    * each: query and document are sequences of their own, each cut to the length, or the query to
      ``query_length``
    """

    rule: Literal["document", "longest", "each"]
    reserved: int  # tokens of the maximum length that the fixed pieces take; may be negative
    query_share: tuple[Positive, Positive] = (1, 1)  # numerator, denominator
    long_documents: Literal["truncate", "split"] = "truncate"  # unless the caller says
    query_length: Positive | None = None  # tokens of a query by itself; None: the length

    def treatment(self, asked: LongDocuments | None) -> LongDocuments:
        """Return what becomes of long documents: what the caller asks for, or the bundle's way."""
        return asked or self.long_documents


Activation = Literal["identity", "sigmoid", "tanh"]


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How late_interaction compares a query and a document that were encoded apart.

    The logit is a sum of three features, each times its weight, and ``bias``. It is what the graph
    computes for a pair. ``edgerank.store.features`` says what the features are.
    """

    cosine: float
    nearest: float
    exact: float
    bias: float
    # repetitions of a word that count half: for any document, and more for each of its words
    saturation: tuple[float, float]
    token_weights: str  # file name: .npy, float32 [vocabulary]


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a graph's output becomes a score; ``edgerank.rules`` computes it.

    * logit: one number per query-document pair, through ``activation``
    * late_interaction: the same, from token vectors that the graph also puts out
    * cosine: of the two unit vectors of query and document
    * maxsim: for each token of the query the largest cosine with a token of the document, added up
    """

    rule: Literal["logit", "late_interaction", "cosine", "maxsim"]
    activation: Activation = "identity"
    normalize_offset: float = 0.0  # a normalised logit is sigmoid(logit - offset)
    skipped_tokens: tuple[int, ...] = ()  # maxsim leaves these ids of the document out
    is_mean: bool = False  # maxsim is divided by the tokens of the query
    comparison: Comparison | None = None  # of late_interaction, for documents encoded before


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from."""

    model: str  # the name of the checkpoint, such as its id on the hub
    revision: str | None = None  # commit of the checkpoint
    license: str | None = None  # as the checkpoint names it


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must be."""

    size: int  # bytes
    sha256: str  # hexadecimal


class Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document's score in the original model and in the variant."""

    document: str  # its id in the text that was scored
    query: int  # place of its query there, from 0
    reference: float
    score: float


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A variant against the original model in float32, on held-out text."""

    text: str  # where the pairs come from
    queries: int
    pairs: int
    spread: float  # standard deviation of the original's scores, to read the errors against
    mean_error: float  # of the scores, absolute
    p99_error: float
    max_error: float
    kendall_tau: float  # of a query's documents, mean over queries
    min_kendall_tau: float
    top10_overlap: float  # share of a query's first ten, mean over queries
    min_top10_overlap: float
    worst: tuple[Compared, ...]  # the documents with the largest errors
    # after each layer: rms error of the stream / its rms; nothing for exported graphs
    layers: tuple[float, ...]
    provider: str = CPU_PROVIDER  # ONNX Runtime's execution provider that it was measured on
    is_emulated: bool = False  # in float32, the result of each operator rounded


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Matrices left in float32, and what that bought."""

    matrices: tuple[str, ...]
    added_bytes: int
    mean_error_without: float
    kendall_tau_without: float


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine must have to run a variant, beside its execution provider."""

    instruction_sets: tuple[str, ...] = ()  # of the CPU, as Linux names them: "avx512_vnni"
    libraries: tuple[str, ...] = ()  # of custom operators
    gpu: bool = False


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the graphs of a bundle."""

    name: str
    precision: PrecisionName
    provider: str  # ONNX Runtime's execution provider that the graph is made for
    recipe: str  # how the weights were rounded, for people
    graph: str  # file name
    weights: tuple[str, ...]  # names of the files that the graph maps; variants may share them
    needs: Needs
    fidelity: Fidelity | None  # None for float32
    kept: Kept | None  # None if no matrices were to be kept


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of edgerank.json."""

    format_version: Positive
    source: Source
    family: str  # for people; the runtime does not look at it
    architecture: str  # for people, too
    max_length: int  # tokens, as the truncation rule counts them
    max_length_limit: int  # the most that max_length may be set to
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring
    scripts: tuple[str, ...]  # of queries, as ``edgerank.scripts`` names them; (): any
    tokenizer: str  # file name
    variants: tuple[Variant, ...]  # in the order of preference
    files: dict[str, File]  # all others of the bundle, by name

    def __post_init__(self) -> None:
        if not MIN_LENGTH <= self.max_length <= self.max_length_limit:
            raise ValueError(
                f"max_length is {self.max_length}, not from {MIN_LENGTH} to max_length_limit"
            )
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) < len(names):
            raise ValueError("variants must be one or more, each with a name of its own")
        for name in self.needed_files():
            if name not in self.files:
                raise ValueError(f"{name!r} is not among the files")

    def needed_files(self) -> list[str]:
        """Return the names of the files that the tokenizer, the variants and the rule need."""
        graphs = [name for variant in self.variants for name in (variant.graph, *variant.weights)]
        comparison = self.scoring.comparison
        tables = [] if comparison is None else [comparison.token_weights]
        return list(dict.fromkeys([self.tokenizer, *graphs, *tables]))

    def with_variants(self, names: Collection[str]) -> Manifest:
        """Return the manifest of the bundle with some of its variants, and their files alone."""
        kept = [variant for variant in self.variants if variant.name in names]
        others = [variant for variant in self.variants if variant.name not in names]
        left_out = {name for variant in others for name in (variant.graph, *variant.weights)}
        left_out -= {name for variant in kept for name in (variant.graph, *variant.weights)}
        files = {name: file for name, file in self.files.items() if name not in left_out}
        return msgspec.structs.replace(self, variants=tuple(kept), files=files)

    def length(self, asked: int | None) -> int:
        """Return the maximum length in tokens: what the caller asks for, or the bundle's own.

        :raises InputError: it is out of range
        """
        if asked is None:
            return self.max_length
        check_integer("max_length", asked, MIN_LENGTH, self.max_length_limit)
        return asked
