"""Signatures of bundles and packs, in the format of minisign: Ed25519 over a BLAKE2b hash.

py-minisign reads and writes the format; the tool ``minisign`` can check and make the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgerank.errors import EdgerankError, InputError
from edgerank.files import open_input, write_atomically

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey

SUFFIX = ".minisig"
MAX_BYTES = 4096  # of a file with a signature or a key, which has a tenth of this


class Readable(Protocol):
    """An object that is read in pieces, such as a file."""

    def read(self, size: int = -1, /) -> bytes: ...


class SignatureError(ValueError):
    """A signature is malformed, or of another key or other content."""


def make_keys(key: Path, password: str | None = None) -> Path:
    """Write a new secret key, which only the owner may read, and its public key.

    :param password: encrypts the secret key; None does not encrypt it
    :return: the path of the public key, KEY.pub
    :raises InputError: one of the files exists, or cannot be written
    """
    with _library():
        from minisign import KeyPair
    public = key.with_name(f"{key.name}.pub")
    for path in (key, public):
        if path.exists():
            raise InputError(str(path), "it exists; a key is not replaced")
    pair = KeyPair.generate()
    public_content = bytes(pair.public_key)
    if password:
        pair.secret_key.encrypt(password)
    try:
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(bytes(pair.secret_key) + b"\n")
        write_atomically(public, public_content + b"\n")
    except OSError as error:
        raise InputError(str(key), error.strerror or str(error)) from error
    return public


def open_key(path: Path, ask_password: Callable[[], str]) -> SecretKey:
    """Read a secret key, asking for its password if it has one.

    :raises InputError: the file is no secret key, or the password is wrong
    """
    with _library():
        import minisign
    try:
        key = minisign.SecretKey.from_bytes(_read(path))
        if key.is_encrypted():
            key.decrypt(ask_password())
    except minisign.Error as error:
        raise InputError(str(path), f"not a secret key that can be used: {error}") from error
    return key


def open_trusted(path: str | os.PathLike[str]) -> PublicKey:
    """Read a public key.

    :raises InputError: the file is no public key
    """
    with _library():
        import minisign
    try:
        return minisign.PublicKey.from_bytes(_read(Path(path)))
    except minisign.Error as error:
        raise InputError("trust", f"{path} is not a public key: {error}") from error


def sign(content: bytes | Readable, key: SecretKey, comment: str) -> bytes:
    """Return the signature of content. It has no date: the same content has the same signature.

    :param comment: a description of the content, which the signature covers too
    """
    signature = key.sign(
        content, untrusted_comment="signature by an edgerank key", trusted_comment=comment
    )
    return bytes(signature) + b"\n"


def check_signature(content: bytes | Readable, signature: bytes, trusted: PublicKey) -> None:
    """Check that a trusted key has signed content.

    :raises SignatureError: it has not
    """
    import minisign

    try:
        parsed = minisign.Signature.from_bytes(signature[:MAX_BYTES])
        if not parsed.is_prehashed():  # legacy: the file would have to fit into memory
            raise SignatureError("its signature is of minisign's legacy form; sign it again")
        trusted.verify(content, parsed)
    except minisign.ParseError as error:
        raise SignatureError(f"its signature is malformed: {error}") from error
    except minisign.VerifyError as error:
        reason = (
            "it is signed by another key than the trusted one"
            if "key identifiers" in str(error)
            else "it was altered after it was signed, or the signature is another file's"
        )
        raise SignatureError(reason) from error


def _read(path: Path) -> bytes:
    with open_input(path) as file:
        return file.read(MAX_BYTES)


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise EdgerankError(
            f"signatures need {error.name}: pip install 'edgerank[sign]'"
        ) from error
