"""The bundle: a directory with a graph, its weights, a tokenizer and a manifest that explains them.

The manifest, ``edgerank.json``, says everything about behaviour: how text becomes tokens, what is
cut when it is too long, how the graph's output becomes a score. A model family is data here and
nowhere a condition in the runtime.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgerank.errors import BundleError

MANIFEST_NAME = "edgerank.json"
FORMAT_VERSION = 1
MIN_LENGTH = 16  # tokens; less leaves no room for a query beside a document
READ_BYTES = 1 << 20
DEFAULT_BUNDLE = Path(__file__).parent / "models" / "default"  # comes with the package


Positive = Annotated[int, msgspec.Meta(ge=1)]


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of the prompt, tokenised by itself; it may hold {query} or {document}."""

    text: str
    token_type: int = 0


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a query and a document become tokens; pieces are concatenated as token ids."""

    query: tuple[Piece, ...]  # up to the document: what all documents of a query share
    document: tuple[Piece, ...]
    instruction: str | None = None  # put before the query piece's text; None: takes none
    default_instruction: str | None = None  # where the caller gives none
    strip: bool = False  # texts lose the white space around them

    def __post_init__(self) -> None:
        for pieces, placeholder in ((self.query, "{query}"), (self.document, "{document}")):
            if sum(placeholder in piece.text for piece in pieces) != 1:
                raise ValueError(f"exactly one piece must hold {placeholder}")


class Truncation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is cut when query, document and ``reserved`` tokens exceed the maximum length.

    * document: the query to ``query_share`` of the length, then the document to what is left,
      or to the length
    * longest: the longer of query and document first
    * each: query and document are sequences of their own, each cut to the length
    """

    rule: Literal["document", "longest", "each"]
    reserved: int  # tokens of the maximum length that the fixed pieces take; may be negative
    query_share: tuple[Positive, Positive] = (1, 1)  # numerator, denominator
    long_documents: Literal["truncate", "split"] = "truncate"  # unless the caller says


Activation = Literal["identity", "sigmoid", "tanh"]


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the graph's output becomes a score.

    * logit: one number per query-document pair, through ``activation``
    * similarity: the cosine of two unit vectors
    """

    rule: Literal["logit", "similarity"]
    activation: Activation = "identity"
    normalize_offset: float = 0.0  # a normalised logit is sigmoid(logit - offset)


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from."""

    model: str
    revision: str | None = None
    license: str | None = None


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must be."""

    size: int  # bytes
    sha256: str  # hexadecimal


class Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document's score in the original model and in the bundle."""

    document: str  # its id in the text that was scored
    query: int  # place of its query there, from 0
    reference: float
    score: float


class Fidelity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle against the original model in float32, on text that nothing was tuned to."""

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
    # after each layer: rms error of the stream / its rms; nothing for imported graphs
    layers: tuple[float, ...]


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Matrices left in float32, and what that bought."""

    matrices: tuple[str, ...]
    added_bytes: int
    mean_error_without: float
    kendall_tau_without: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of edgerank.json."""

    format_version: Positive
    source: Source
    family: str
    architecture: str
    precision: str
    recipe: str  # how the weights were rounded, for people
    max_length: int  # tokens, as the truncation rule counts them
    max_length_limit: int  # the most that max_length may be set to
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring
    model: str  # file name of the graph
    tokenizer: str  # file name
    files: dict[str, File]
    fidelity: Fidelity | None  # None for float32
    kept: Kept | None  # None if that was not asked for

    def __post_init__(self) -> None:
        if not MIN_LENGTH <= self.max_length <= self.max_length_limit:
            raise ValueError(
                f"max_length is {self.max_length}, not from {MIN_LENGTH} to max_length_limit"
            )


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and what its manifest says."""

    directory: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        return self.directory / self.manifest.model

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / self.manifest.tokenizer

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.manifest.files.values())


def read_bundle(directory: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest and check that every file is there at its full size.

    :raises BundleError: the bundle is missing, incomplete, malformed or of a newer format
    """
    directory = Path(directory)
    path = directory / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}; a bundle is a directory that `edgerank quantize`"
            " made"
        ) from error
    manifest = _decode(path, content)
    for name in (manifest.model, manifest.tokenizer):
        if name not in manifest.files:
            raise BundleError(f"{path}: {name!r} is not among the bundle's files")
    for name, file in manifest.files.items():
        _check_size(directory, name, file.size)
    return Bundle(directory, manifest)


def verify_bundle(bundle: Bundle) -> Iterator[str]:
    """Compare every file with its sha256, yielding each name once it has been found intact.

    :raises BundleError: a file was altered, or cannot be read
    """
    for name, file in bundle.manifest.files.items():
        path = bundle.directory / name
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error
        if digest != file.sha256:
            raise BundleError(
                f"{path}: altered: its sha256 is not the manifest's; copy the bundle again"
            )
        yield name


def describe_files(directory: Path) -> dict[str, File]:
    """Return size and sha256 of every file in a directory, by name."""
    return {
        path.name: File(path.stat().st_size, sha256_of(path))
        for path in sorted(directory.iterdir())
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write edgerank.json; a bundle is complete once it is there."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_NAME).write_bytes(encoded + b"\n")


def sha256_of(path: Path) -> str:
    """Hash a file without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _Versioned(msgspec.Struct):
    format_version: Positive


def _decode(path: Path, content: bytes) -> Manifest:
    """Decode the manifest, its version first: a newer format may differ in everything else."""
    try:
        version = msgspec.json.decode(content, type=_Versioned).format_version
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{path}: the bundle has format {version}, this edgerank reads up to"
                f" {FORMAT_VERSION}; upgrade edgerank"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not a valid manifest: {error}") from error


def _check_size(directory: Path, name: str, size: int) -> None:
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise BundleError(f"{directory / MANIFEST_NAME}: {name!r} points outside the bundle")
    path = directory / name
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    if not path.is_file():
        raise BundleError(f"{path}: not a file")
    if actual != size:
        raise BundleError(
            f"{path}: {actual} bytes instead of {size}; the copy is incomplete or altered"
        )
