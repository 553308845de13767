"""Our broker over TLS, and its clients: with a certificate that is made for a measurement, and has no file.

The broker's process makes it, keeps it in memory that has a path in /proc, and becomes the broker. Its clients find the
authority by that path, which is told behind the address.
"""

from __future__ import annotations

import os
import ssl
import sys
from typing import Any, NoReturn

from .server import HOST, free_port, listening
from .side import installed

SETTINGS = "a certificate of 256 bits (ECDSA, trustme), verified; what the two ends choose by default"


def encrypted_version(ours: str) -> str:
    """That of our package, and of what encrypts.

    :raises LookupError: what makes certificates is not installed; the text says so.
    """
    installed("trustme")
    return f"{ours}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"


def kept(name: str, content: bytes) -> str:
    """*content* in memory, by its path; whatever takes the place of this process keeps it."""
    descriptor = os.memfd_create(name, 0)
    os.write(descriptor, content)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def become_encrypted_broker() -> NoReturn:
    """Say where it is going to listen and how to know it, and go on as our broker."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    cert, key = kept("cert", chain), kept("key", issued.private_key_pem.bytes())
    url = f"tls://{HOST}:{free_port()}"
    print(f"listening on {url} {kept('authority', authority.cert_pem.bytes())}", flush=True)
    os.dup2(2, 1)
    options = ("--listen", url, "--tls-cert", cert, "--tls-key", key)
    os.execv(sys.executable, [sys.executable, "-m", "vanilla.broker", *options])


def connect_encrypted(hub: Any, address: str) -> Any:
    """A connection to that broker, once it listens, which must have the certificate."""
    url, authority = address.split()
    listening(url.partition("//")[2])
    return hub.client.connect(url, ca=authority)
