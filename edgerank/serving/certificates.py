"""The certificates of the server, and of the authority of its clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgerank.serving.watched import WatchedFiles


@dataclass(frozen=True)
class CertificateFiles:
    """The paths of the PEM files."""

    cert: Path
    key: Path
    client_ca: Path | None = None  # clients need a certificate that this authority signed

    def watched(self) -> WatchedFiles[Certificates]:
        """Read the files, and again when they change.

        :raises InputError: a file cannot be read
        """
        paths = [path for path in (self.cert, self.key, self.client_ca) if path is not None]
        return WatchedFiles(paths, self._read)

    def _read(self) -> Certificates:
        client_ca = None if self.client_ca is None else self.client_ca.read_bytes()
        return Certificates(self.cert.read_bytes(), self.key.read_bytes(), client_ca)


@dataclass(frozen=True)
class Certificates:
    """The contents of the PEM files."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
