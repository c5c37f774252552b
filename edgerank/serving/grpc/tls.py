"""Certificates for gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from edgerank.serving.certificates import CertificateFiles, Certificates


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Make credentials that read the files again when they change.

    :raises InputError: a file cannot be read
    """
    watched = files.watched()

    def fetch() -> Any:  # None means unchanged, which the type stubs do not have
        certificates, is_new = watched.get()
        return _configuration(certificates) if is_new else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(watched.get()[0]), fetch, files.client_ca is not None
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.cert)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)
