"""Addresses as URLs: ``tcp://HOST:PORT``, ``tls://HOST:PORT``, ``udp://HOST:PORT``, ``unix:///PATH``; and of who dials
``udp://HOST:PORT?reliable=0``."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

#: Ends the URL of a session on which what is pushed and published may be lost...
UNRELIABLE = "?reliable=0"
#: ...and what may be said of it: reliable or not.
_QUERIES = {"": True, "reliable=1": True, "reliable=0": False}
_EXAMPLES = {"tcp": "127.0.0.1:8264", "tls": "broker.example.org:8265", "udp": "127.0.0.1:8264"}


class Address(NamedTuple):
    """Where to listen or dial. ``host`` and ``port``, for unix ``path``. Not ``reliable``, of udp: what is pushed and
    published is sent once, and may be lost."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    reliable: bool = True

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{'' if self.reliable else UNRELIABLE}"

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
    Address(scheme='tcp', host='127.0.0.1', port=8264, path='', reliable=True)
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
        raise ValueError(f"{url!r}: an address has no user, query or fragment")
    if "?" in url and (parts.scheme != "udp" or parts.query not in _QUERIES or not parts.query):
        raise ValueError(f"{url!r}: an address has no query, but for udp://HOST:PORT{UNRELIABLE} (or 1)")
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
        raise ValueError(f"{url!r}: {error}") from None
    if not host or port is None or parts.path not in ("", "/"):
        raise ValueError(f"{url!r}: {scheme}:// needs a host and a port, as in {scheme}://{_EXAMPLES[scheme]}")
    return Address(scheme, host, port, reliable=_QUERIES[parts.query])


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
