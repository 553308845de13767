"""Certificates for tests, made by an authority that lives as long as the session."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

YESTERDAY = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)


class Certs:
    """Paths of PEM files. ``server`` and ``client`` hold certificate and key, ``cert`` and ``key`` one each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = self._write("ca", self.authority.cert_pem.bytes())
        self.server = self.issue("server", "127.0.0.1", "::1", "localhost")
        self.elsewhere = self.issue("elsewhere", "elsewhere.test")
        self.expired = self.issue("expired", "127.0.0.1", not_after=YESTERDAY)
        self.client = self.issue("client", "worker@example.test", "worker.example.test")
        pair = self.authority.issue_cert("127.0.0.1", "localhost")
        self.cert = self._write("cert", pair.cert_chain_pems[0].bytes())
        self.key = self._write("key", pair.private_key_pem.bytes())
        key = load_pem_private_key(pair.private_key_pem.bytes(), None)
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        self.locked_key = self._write("locked_key", locked)
        # What is not to be trusted.
        stranger = trustme.CA()
        self.stranger_ca = self._write("stranger_ca", stranger.cert_pem.bytes())
        self.stranger = self._write("stranger", _both(stranger.issue_cert("127.0.0.1")))

    def issue(self, name: str, *identities: str, **how: Any) -> str:
        """A certificate for *identities*, with its key, in a file."""
        return self._write(name, _both(self.authority.issue_cert(*identities, **how)))

    def _write(self, name: str, pem: bytes) -> str:
        path = self.folder / f"{name}.pem"
        path.write_bytes(pem)
        return str(path)


def _both(cert: trustme.LeafCert) -> bytes:
    return cert.private_key_and_cert_chain_pem.bytes()
