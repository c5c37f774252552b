"""The manifest of a bundle, which describes its behaviour as data.

``edgerank.json`` describes how text becomes tokens, how long texts are cut, how the output of a
graph becomes a score, and which graphs there are. A model family is data here: the runtime has no
code for a family.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec

from edgerank.documents import LongDocuments, check_integer

MANIFEST_NAME = "edgerank.json"
FORMAT_VERSION = 3
MIN_LENGTH = 16  # tokens; fewer leave no room for a query and a document
CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

Positive = Annotated[int, msgspec.Meta(ge=1)]
PrecisionName = Literal["int8", "int8-fine", "int4", "fp32", "fp16", "bf16"]


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of the prompt, tokenised separately; it may contain {query} or {document}."""

    text: str
    token_type: int = 0
    is_token: bool = False  # the text is the name of one token of the vocabulary

    @property
    def is_fixed(self) -> bool:
        """Whether the piece contains neither query nor document."""
        return self.is_token or not ("{query}" in self.text or "{document}" in self.text)


class Expansion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shorter queries are filled up with a token, whose vectors belong to the query."""

    token: str
    length: Positive  # tokens, including the fixed pieces
    is_seen: bool  # whether other tokens of the query attend to the added ones


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a query and a document become tokens: the token ids of all pieces, concatenated."""

    query: tuple[Piece, ...]  # before the document: the pieces that all documents of a query share
    document: tuple[Piece, ...]
    instruction: str | None = None  # before the query's text; None: takes none
    default_instruction: str | None = None  # used if the caller gives none
    strip: bool = False  # whether white space around texts is removed
    expansion: Expansion | None = None  # for queries that are encoded separately

    def __post_init__(self) -> None:
        for pieces, placeholder in ((self.query, "{query}"), (self.document, "{document}")):
            if sum(placeholder in piece.text for piece in pieces if not piece.is_token) != 1:
                raise ValueError(f"exactly one piece must hold {placeholder}")


class Truncation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which text is cut if query, document and ``reserved`` tokens exceed the maximum length.

    * document: the query to ``query_share`` of the length, then the document to what is left,
      or to the length; the text after {document} in its piece is kept, and is ``reserved``
    * longest: the longer one of query and document first
    * each: query and document are separate sequences, each cut to the length, or the query to
      ``query_length``
    """

    rule: Literal["document", "longest", "each"]
    reserved: int  # tokens of the maximum length that the fixed pieces take; may be negative
    query_share: tuple[Positive, Positive] = (1, 1)  # numerator, denominator
    long_documents: Literal["truncate", "split"] = "truncate"  # unless the caller chooses
    query_length: Positive | None = None  # of a query in its own sequence; None: the length

    def treatment(self, asked: LongDocuments | None) -> LongDocuments:
        """Return the treatment of long documents: the caller's, or else the bundle's."""
        return asked or self.long_documents


Activation = Literal["identity", "sigmoid", "tanh"]


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How late_interaction compares a query and a document that were encoded separately.

    The logit is a sum of three features, each times its weight, and ``bias``. The graph
    computes the same for a pair. ``edgerank.store.features`` defines the features.
    """

    cosine: float
    nearest: float
    exact: float
    bias: float
    # repetitions of a word that count half: for any document, and more for each of its words
    saturation: tuple[float, float]
    token_weights: str  # file name: .npy, float32 [vocabulary]


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the output of a graph becomes a score; ``edgerank.rules`` computes it.

    * logit: one number per query-document pair, through ``activation``
    * late_interaction: the same; the graph has token vectors as another output
    * cosine: the cosine of the unit vectors of query and document
    * maxsim: for each token of the query, its largest cosine with a token of the document; the sum
    """

    rule: Literal["logit", "late_interaction", "cosine", "maxsim"]
    activation: Activation = "identity"
    normalize_offset: float = 0.0  # a normalised logit is sigmoid(logit - offset)
    skipped_tokens: tuple[int, ...] = ()  # ids of tokens of a document that maxsim leaves out
    is_mean: bool = False  # whether maxsim is divided by the number of the query's tokens
    comparison: Comparison | None = None  # for late_interaction in stores


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checkpoint of the weights."""

    model: str  # name of the checkpoint, such as its id on the hub
    revision: str | None = None  # commit of the checkpoint
    license: str | None = None  # as the checkpoint names it


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and hash that a file must have."""

    size: int  # bytes
    sha256: str  # hexadecimal


class Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document's score in the original model and in the variant."""

    document: str  # id of the document in the scored text
    query: int  # number of its query there, from 0
    reference: float
    score: float


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A variant against the original model in float32, on held-out text."""

    text: str  # source of the pairs
    queries: int
    pairs: int
    spread: float  # standard deviation of the original's scores, to compare errors with
    mean_error: float  # of the scores, absolute
    p99_error: float
    max_error: float
    kendall_tau: float  # of a query's documents, mean over queries
    min_kendall_tau: float
    top10_overlap: float  # share of a query's first ten, mean over queries
    min_top10_overlap: float
    worst: tuple[Compared, ...]  # the documents with the largest errors
    # after each layer: rms error of the hidden state / its rms; empty for exported graphs
    layers: tuple[float, ...]
    provider: str = CPU_PROVIDER  # the execution provider that computed the figures
    is_emulated: bool = False  # computed in float32 with rounded results of operators


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Matrices that were kept in float32, and the figures without that."""

    matrices: tuple[str, ...]
    added_bytes: int
    mean_error_without: float
    kendall_tau_without: float


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requirements of a variant besides its execution provider."""

    instruction_sets: tuple[str, ...] = ()  # of the CPU, as Linux names them: "avx512_vnni"
    libraries: tuple[str, ...] = ()  # of custom operators
    gpu: bool = False


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the graphs of a bundle."""

    name: str
    precision: PrecisionName
    provider: str  # ONNX Runtime's execution provider that the graph is made for
    recipe: str  # description of how the weights were rounded
    graph: str  # file name
    weights: tuple[str, ...]  # files of the graph's weights; variants may share them
    needs: Needs
    fidelity: Fidelity | None  # None for float32
    kept: Kept | None  # None without --keep-fp32


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of edgerank.json."""

    format_version: Positive
    source: Source
    family: str  # for people; the runtime does not use it
    architecture: str  # for people; the runtime does not use it
    max_length: int  # tokens, as the truncation rule counts them
    max_length_limit: int  # largest value that max_length may be set to
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring
    scripts: tuple[str, ...]  # of queries, as ``edgerank.scripts`` names them; (): any
    tokenizer: str  # file name
    variants: tuple[Variant, ...]  # in the order of preference
    files: dict[str, File]  # all other files of the bundle, by name

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
        """Return the manifest of a bundle with only some of its variants and their files."""
        kept = [variant for variant in self.variants if variant.name in names]
        others = [variant for variant in self.variants if variant.name not in names]
        left_out = {name for variant in others for name in (variant.graph, *variant.weights)}
        left_out -= {name for variant in kept for name in (variant.graph, *variant.weights)}
        files = {name: file for name, file in self.files.items() if name not in left_out}
        return msgspec.structs.replace(self, variants=tuple(kept), files=files)

    def length(self, asked: int | None) -> int:
        """Return the maximum length in tokens: the caller's, or else the bundle's.

        :raises InputError: it is out of range
        """
        if asked is None:
            return self.max_length
        check_integer("max_length", asked, MIN_LENGTH, self.max_length_limit)
        return asked
