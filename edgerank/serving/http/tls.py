"""Certificates for HTTP."""

from __future__ import annotations

import ssl
import tempfile
from contextlib import suppress
from pathlib import Path

from edgerank.errors import InputError
from edgerank.serving.certificates import CertificateFiles, Certificates


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """Make a context whose handshakes read the files anew when they change.

    :raises InputError: a file cannot be read, or holds no certificate or key
    """
    watched = files.watched()
    try:
        current = _context(watched.get()[0])
    except ssl.SSLError as error:
        raise InputError(str(files.cert), f"not a certificate with its key: {error}") from error

    def renew(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        nonlocal current
        certificates, is_new = watched.get()
        if is_new:
            with suppress(ssl.SSLError):  # half-written files: those from before serve on
                current = _context(certificates)
        connection.context = current

    current.sni_callback = renew
    return current


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.TemporaryDirectory() as directory:  # the module takes files only
        cert, key = Path(directory, "cert"), Path(directory, "key")
        key.touch(0o600)
        cert.write_bytes(certificates.cert)
        key.write_bytes(certificates.key)
        context.load_cert_chain(cert, key)
    if certificates.client_ca is not None:
        context.load_verify_locations(cadata=certificates.client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context
