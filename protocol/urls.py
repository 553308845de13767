"""Addresses as URLs: ``tcp://HOST:PORT``, ``tls://HOST:PORT``, ``udp://HOST:PORT``, ``unix:///PATH``; and of who dials
``udp://HOST:PORT?reliable=0&datagram=BYTES``."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from .packets import DATAGRAM_BYTES, MAX_DATAGRAM_BYTES

#: Ends the URL of a session on which what is pushed and published may be lost.
UNRELIABLE = "?reliable=0"
_EXAMPLES = {"tcp": "127.0.0.1:8264", "tls": "broker.example.org:8265", "udp": "127.0.0.1:8264"}


class Address(NamedTuple):
    """Where to listen or dial. ``host`` and ``port``, for unix ``path``. Not ``reliable``, of udp: what is pushed and
    published is sent once, and may be lost. ``datagram``, of udp: bytes of the longest one; 0: as the path has it."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    reliable: bool = True
    datagram: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        said = [] if self.reliable else [UNRELIABLE[1:]]
        if self.datagram:
            said.append(f"datagram={self.datagram}")
        return f"{self.scheme}://{host}:{self.port}{'?' * bool(said)}{'&'.join(said)}"

    @property
    def encrypted(self) -> bool:
        """Can nobody on the way read or change what passes?"""
        return self.scheme not in ("tcp", "udp")

    @property
    def is_local(self) -> bool:
        """Can only this machine reach it? A name counts as local only if it is ``localhost``."""
        if self.scheme == "unix":
            return True
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse(url: str) -> Address:
    """Read a URL.

    >>> parse("tcp://127.0.0.1:8264")
    Address(scheme='tcp', host='127.0.0.1', port=8264, path='', reliable=True, datagram=0)
    >>> parse("udp://127.0.0.1:8264?datagram=8000").datagram
    8000
    >>> str(parse("unix:///run/vanilla.sock"))
    'unix:///run/vanilla.sock'

    :raises ValueError: it says what is wrong with it.
    """
    if has_controls(url) or url != url.strip():  # urlsplit would take some of them out
        raise ValueError(f"{url!r}: an address has no control characters, and no blanks around it")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{url!r}: {error}") from None
    if "#" in url or "@" in parts.netloc:
        raise ValueError(f"{url!r}: an address has no user and no fragment")
    reliable, datagram = _said(url, parts.query) if parts.scheme == "udp" and "?" in url else (True, 0)
    if "?" in url and parts.scheme != "udp":
        raise ValueError(f"{url!r}: an address has no query, but for udp://HOST:PORT{UNRELIABLE}")
    if parts.scheme == "unix":
        path = parts.netloc + parts.path
        if not path:
            raise ValueError(f"{url!r}: unix:// needs a path, as in unix:///run/vanilla.sock")
        return Address("unix", path=path)
    scheme = parts.scheme
    if scheme not in _EXAMPLES:
        raise ValueError(f"{url!r}: an address starts with tcp://, tls://, udp:// or unix://")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        many = ": an IPv6 address stands in brackets, as in [::1]" if parts.netloc.count(":") > 1 else ""
        raise ValueError(f"{url!r}: {error}{many}") from None
    if not host or port is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r}: {scheme}:// needs a host and a port, as in {scheme}://{_EXAMPLES[scheme]}")
    return Address(scheme, host, port, "", reliable, datagram)


def _said(url: str, query: str) -> tuple[bool, int]:
    """What *url* says of a session: is it reliable, and how long may its datagrams be?"""
    reliable, datagram, names = True, 0, []
    for name, _, value in (item.partition("=") for item in query.split("&")):
        names.append(name)
        if name == "reliable" and value in ("0", "1"):
            reliable = value == "1"
        elif name == "datagram" and value.isdecimal() and value.isascii() and len(value) < 6:
            datagram = int(value)
            if not DATAGRAM_BYTES <= datagram <= MAX_DATAGRAM_BYTES:
                raise ValueError(f"{url!r}: a datagram has {DATAGRAM_BYTES} to {MAX_DATAGRAM_BYTES} bytes at most")
        else:
            raise ValueError(f"{url!r}: an address has no query, but of udp:// reliable=0 (or 1) and datagram=BYTES")
    if len(set(names)) < len(names):
        raise ValueError(f"{url!r}: it says {max(names, key=names.count)} twice")
    return reliable, datagram


def check_name(name: object) -> str:
    """An endpoint's name.

    :raises ValueError: it is not UTF-8 text of 1 to 255 bytes without control characters (C0, DEL, C1).
    """
    if not isinstance(name, str):
        raise ValueError(f"an endpoint's name is text, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("an endpoint's name is valid UTF-8: no lone surrogates") from None
    if not 1 <= size <= 255:
        raise ValueError(f"an endpoint's name is 1 to 255 bytes of UTF-8, this one is {size}")
    if has_controls(name):
        raise ValueError("an endpoint's name has no control characters")
    return name


def has_controls(text: str) -> bool:
    """Are there control characters in it (C0, DEL, C1)?"""
    return any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
