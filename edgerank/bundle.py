"""A bundle: a directory with graphs, their weights, a tokenizer and a manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from edgerank.errors import BundleError, EdgerankError
from edgerank.files import write_atomically
from edgerank.manifest import FORMAT_VERSION, MANIFEST_NAME, File, Manifest, Positive, Variant

if TYPE_CHECKING:
    from minisign import SecretKey

READ_BYTES = 1 << 20
SIGNATURE_NAME = f"{MANIFEST_NAME}.minisig"
DEFAULT_BUNDLE = Path(__file__).parent / "models" / "default"  # the model in the package


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: its directory, its manifest and its digest."""

    directory: Path
    manifest: Manifest
    digest: str  # hexadecimal sha256 of the manifest, which has those of the other files

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / self.manifest.tokenizer

    def graph_path(self, variant: Variant) -> Path:
        """Return the path of a variant's graph."""
        return self.directory / variant.graph

    def variant_size(self, variant: Variant) -> int:
        """Return the bytes of a variant's graph and weights."""
        return sum(self.manifest.files[name].size for name in (variant.graph, *variant.weights))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.manifest.files.values())


def read_bundle(
    directory: str | os.PathLike[str], trust: str | os.PathLike[str] | None = None
) -> Bundle:
    """Read a bundle's manifest and check that every file is there at its full size.

    :param trust: file of the public key that must have signed the manifest; None checks nothing
    :raises BundleError: the bundle is missing, incomplete, malformed, of another format, or not
        signed by the trusted key
    :raises InputError: the public key cannot be read
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
    if trust is not None:
        _check_signature(path, content, trust)
    manifest = _decode(path, content)
    check_sizes(path, manifest.files, BundleError)
    return Bundle(directory, manifest, hashlib.sha256(content).hexdigest())


def verify_bundle(bundle: Bundle) -> Iterator[str]:
    """Compare every file with its sha256; yield the name of each intact file.

    :raises BundleError: a file was altered, or cannot be read
    """
    return verify_files(bundle.directory, bundle.manifest.files, BundleError)


def verify_files(
    directory: Path, files: Mapping[str, File], error_type: type[EdgerankError]
) -> Iterator[str]:
    """Compare files with their sha256; yield the name of each intact file.

    :raises EdgerankError: of the type, a file was altered, or cannot be read
    """
    for name, file in files.items():
        path = directory / name
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise error_type(f"{path}: {error.strerror or error}") from error
        if digest != file.sha256:
            raise error_type(
                f"{path}: altered: its sha256 is not the manifest's; copy {directory.name} again"
            )
        yield name


def check_sizes(manifest: Path, files: Mapping[str, File], error_type: type[EdgerankError]) -> None:
    """Check that the files that a manifest names are beside it, at their full size.

    :raises EdgerankError: of the type, one is not
    """
    for name, file in files.items():
        _check_size(manifest, name, file.size, error_type)


def sign_bundle(bundle: Bundle, key: SecretKey) -> Path:
    """Check all files of a bundle, and sign its manifest, which has their sha256.

    :return: the path of the signature
    :raises BundleError: a file was altered, or cannot be read
    :raises OSError: the signature cannot be written
    """
    from edgerank.signing import sign

    for _ in verify_bundle(bundle):
        pass
    content = (bundle.directory / MANIFEST_NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.digest:
        raise BundleError(f"{bundle.directory}: its manifest changed meanwhile; sign it again")
    path = bundle.directory / SIGNATURE_NAME
    write_atomically(path, sign(content, key, "edgerank bundle"))
    return path


def describe_files(directory: Path) -> dict[str, File]:
    """Return size and sha256 of every file in a directory, by name."""
    return {
        path.name: File(path.stat().st_size, sha256_of(path))
        for path in sorted(directory.iterdir())
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write edgerank.json, which completes a bundle."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_atomically(directory / MANIFEST_NAME, encoded + b"\n")


def sha256_of(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return sha256_of_file(file)


def sha256_of_file(file: IO[bytes]) -> str:
    """Hash an open file from its current position."""
    digest = hashlib.sha256()
    while chunk := file.read(READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _check_signature(path: Path, content: bytes, trust: str | os.PathLike[str]) -> None:
    """Check that a trusted key has signed the manifest, before anything in it is read."""
    from edgerank.signing import SignatureError, check_signature, open_trusted

    trusted = open_trusted(trust)
    try:
        signature = path.with_name(SIGNATURE_NAME).read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: not signed: {SIGNATURE_NAME} is missing; `edgerank sign` makes it"
        ) from None
    except OSError as error:
        raise BundleError(f"{path.parent}: {error.strerror or error}") from error
    try:
        check_signature(content, signature, trusted)
    except SignatureError as error:
        raise BundleError(f"{path}: {error}") from error


class _Versioned(msgspec.Struct):
    format_version: Positive


def _decode(path: Path, content: bytes) -> Manifest:
    """Decode the manifest, its version first: a newer format may differ in everything else."""
    try:
        version = msgspec.json.decode(content, type=_Versioned).format_version
        if version != FORMAT_VERSION:
            remedy = "upgrade edgerank" if version > FORMAT_VERSION else "quantize the model again"
            raise BundleError(
                f"{path}: the bundle has format {version}, this edgerank reads format"
                f" {FORMAT_VERSION}; {remedy}"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{path}: not a valid manifest: {error}; copy the bundle again"
        ) from error


def _check_size(manifest: Path, name: str, size: int, error_type: type[EdgerankError]) -> None:
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise error_type(f"{manifest}: {name!r} points outside of its directory")
    path = manifest.with_name(name)
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise error_type(f"{path}: {error.strerror or error}") from error
    if not path.is_file():
        raise error_type(f"{path}: not a file")
    if actual != size:
        raise error_type(
            f"{path}: {actual} bytes instead of {size}; the copy is incomplete or altered"
        )
