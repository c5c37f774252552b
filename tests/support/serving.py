"""A real server process, and what tests need around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import ROOT

PATIENCE_S = 60


class ServerProcess:
    """``edgerank serve`` with some options, on a free port unless they say otherwise."""

    def __init__(self, *options: str | Path, wait: bool = True) -> None:
        command = [sys.executable, "-m", "edgerank", "serve", *map(str, options)]
        if "--listen" not in options:
            command += ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            addresses = self.wait_for("listening")["addresses"]
            self.address, self.http = addresses[0], addresses[-1]
            if wait:
                self.wait_for("serving")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ and self.process.poll() is None:
            self.terminate()  # or what it ran is not told
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def records(self, message: str) -> list[dict]:
        """The log's records with a message."""
        return [r for r in map(json.loads, list(self.lines)) if r["message"] == message]

    def wait_for(self, message: str, count: int = 1) -> dict:
        """Wait until the log has so many records with a message; return the last of them."""
        eventually(
            lambda: len(self.records(message)) >= count or self.process.poll() is not None,
            f"{message!r} in the log",
        )
        assert len(self.records(message)) >= count, self.lines
        return self.records(message)[count - 1]

    def series(self, name: str) -> list[str]:
        """The lines of a metric, one for each set of labels."""
        address = self.wait_for("metrics")["address"]
        with urllib.request.urlopen(f"http://{address}/metrics") as page:
            lines = page.read().decode().splitlines()
        return [line for line in lines if line.split("{")[0].split(" ")[0] == name]

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(float(line.rpartition(" ")[2]) for line in self.series(name))

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives for a test."""

    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("test authority")
        builder = _builder(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    def write(self, path: Path) -> Path:
        """Write the authority's certificate."""
        path.write_bytes(self.cert.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write a certificate for localhost and its key; return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        cert = (
            _builder(_name(name), self.cert.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        paths = directory / f"{name}.crt", directory / f"{name}.key"
        paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
