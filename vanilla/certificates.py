"""TLS contexts made from PEM files, with errors that name the file; and whom a certificate names."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, NoReturn

from .tcp import reason

#: The parts of a certificate that may name its holder, in the order in which they are looked for.
NAMES = ("DNS", "URI", "email")


def client_context(ca: str = "", cert: str = "", key: str = "", verify: bool = True) -> ssl.SSLContext:
    """What a client uses: TLS 1.2 at least, and the server's certificate and host name are verified.

    :param ca: a PEM file of the authorities that are trusted; "" is those of the system.
    :param cert: a PEM file with our certificate, if the server wants one, and those between it and its authority.
    :param key: a PEM file with its key; "" if that stands in *cert*.
    :param verify: False takes any certificate of anybody, and so protects against nobody but a mere listener.
    :raises ValueError: a file is missing or is not right; the text names it.
    """
    if key and not cert:
        raise ValueError(f"the key in {key} is of no use without its certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        if ca:
            raise ValueError(f"with verify=False the authorities in {ca} would be asked nothing")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        _trust(context, ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if cert:
        _identify(context, cert, key)
    return context


def server_context(cert: str, key: str = "", client_ca: str = "", required: bool = True) -> ssl.SSLContext:
    """What a server uses: TLS 1.2 at least.

    :param cert: a PEM file with its certificate, and those between it and its authority.
    :param key: a PEM file with its key; "" if that stands in *cert*.
    :param client_ca: a PEM file of authorities. A client's certificate then has to be of one of them...
    :param required: ...and each client needs one. If not, those that have none are let in anonymously.
    :raises ValueError: a file is missing or is not right; the text names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if hasattr(context, "num_tickets"):  # PyPy 3.9 has none
        context.num_tickets = 0  # nobody resumes sessions here: two writes less, and a peer that only writes gets none
    _identify(context, cert, key)
    if client_ca:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


class ServerFiles:
    """The files of a server, and the ``context`` made of them, with which new connections are served.

    :raises ValueError: as `server_context`.
    """

    def __init__(self, cert: str, key: str = "", client_ca: str = "", required: bool = True) -> None:
        self._files = cert, key, client_ca, required
        self.context = server_context(*self._files)

    def reload(self) -> str:
        """Read the files anew. Connections that are there go on as they are.

        :return: what was read.
        :raises ValueError: as `server_context`; the context stays as it was.
        """
        self.context = server_context(*self._files)
        return f"read from {self._files[0]}"


def _identify(context: ssl.SSLContext, cert: str, key: str) -> None:
    _look(cert, b"BEGIN CERTIFICATE", "certificate")
    key_text = _look(key or cert, b"PRIVATE KEY-----", "private key")
    if b"ENCRYPTED" in key_text:  # OpenSSL would ask for it on the terminal
        _refuse_passphrase(key or cert)
    try:
        context.load_cert_chain(cert, key or None, lambda: _refuse_passphrase(key or cert))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key in {key or cert} does not belong to the certificate in {cert}") from None
        raise ValueError(f"{cert}{f' and {key}' if key else ''}: {spell(error)}") from None


def check_authorities(ca: str) -> None:
    """Is *ca* a PEM file of certificates?

    :raises ValueError: no; the text names it.
    """
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ca)


def _trust(context: ssl.SSLContext, ca: str) -> None:
    _look(ca, b"BEGIN CERTIFICATE", "certificate")
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"{ca}: {spell(error)}") from None


def _look(path: str, mark: bytes, what: str) -> bytes:
    """OpenSSL's own errors do not say which file it was."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    if mark not in text:
        raise ValueError(f"{path}: there is no {what} in it (PEM)")
    return text


def _refuse_passphrase(path: str) -> NoReturn:
    raise ValueError(
        f"{path}: the key has a passphrase, and nobody is there to type it: keep it without one, mode 0600"
    )


def spell(error: ssl.SSLError) -> str:
    """OpenSSL's reason, as part of a sentence."""
    return (error.reason or str(error)).replace("_", " ").lower()


def subject(fields: dict[str, Any], der: bytes) -> str:
    """Whom a verified certificate names: its first DNS name, else URI, else e-mail address, else its common name.

    One without any of these, or with one that cannot be printed, is named by its fingerprint, ``sha256:...``.

    :param fields: as `ssl.SSLObject.getpeercert` gives them.
    :param der: the certificate.

    >>> subject({"subjectAltName": (("email", "a@x.org"), ("DNS", "w1.x.org"))}, b"")
    'w1.x.org'
    >>> subject({"subject": ((("countryName", "IS"),), (("commonName", "worker 1"),))}, b"")
    'worker 1'
    """
    found = dict(reversed(fields.get("subjectAltName", ())))  # reversed: of two the first stays
    common = [value for part in fields.get("subject", ()) for kind, value in part if kind == "commonName"]
    for name in (*map(found.get, NAMES), *common[:1]):
        if name and name.isprintable():
            return str(name)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
