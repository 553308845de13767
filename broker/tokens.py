"""Tokens: secrets that say who connects, and the file in which a broker keeps their hashes.

A line of the file is ``IDENTITY: sha256:HEX``, HEX being the SHA-256 of the token in 64 hexadecimal digits; blank lines
and those that start with ``#`` are passed over. An identity may have several lines, so that a token can be replaced
while the old one still holds. `main` makes a token and its line.

Why one SHA-256, without salt and without a slow hash: these are for passwords, of which people choose from few. A token
is 256 random bits. Whoever has the file, or connects as often as the network allows, would have to try them all; so
neither salt, nor delay, nor a limit on failed attempts would make it any harder. That holds only for tokens which are
made at random, so make them with this.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import secrets
import sys
from typing import NoReturn

from vanilla.protocol.urls import has_controls

from .files import read

#: What identities of Unix sockets begin with; no token may claim one.
UID = "uid:"
_LINE = re.compile(r"(\S+):\s+sha256:([0-9a-f]{64})")


class Tokens:
    """The tokens of a broker, by their hashes.

    :param entries: pairs of a SHA-256 and the identity of who knows its token.
    """

    def __init__(self, entries: list[tuple[bytes, str]]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def identify(self, token: str | bytes) -> str | None:
        """Whose token it is; None: nobody's.

        All entries are compared, each in constant time, so that how long it takes says nothing about them. That
        is some 0.05 us an entry.
        """
        digest = digest_of(token)
        found = None
        for known, identity in self._entries:
            if hmac.compare_digest(known, digest):
                found = identity
        return found


def read_tokens(path: str) -> Tokens:
    """The tokens in a file. It has to be private, see `files.read`.

    :raises OSError: it cannot be read.
    :raises ValueError: it is not private, or a line is wrong. No text quotes a line: it may hold a token by mistake.
    """
    entries: dict[bytes, tuple[str, int]] = {}
    for number, line in enumerate(read(path, private=True).split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        matched = _LINE.fullmatch(line.rstrip())
        if matched is None:
            raise ValueError(f"{path}:{number}: a line is IDENTITY: sha256:HEX, as `vanilla-broker token` makes it")
        identity, digest = matched[1], bytes.fromhex(matched[2])
        try:
            check_identity(identity)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if digest in entries:
            raise ValueError(f"{path}:{number}: the same token is in line {entries[digest][1]}")
        entries[digest] = identity, number
    if not entries:
        raise ValueError(f"{path}: there is no token in it; `vanilla-broker token IDENTITY` makes one")
    return Tokens([(digest, identity) for digest, (identity, _) in entries.items()])


def digest_of(token: str | bytes) -> bytes:
    """What the file keeps of a token; text counts as its UTF-8."""
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()


def line_of(identity: str, token: str | bytes) -> str:
    """The line of a token in the file."""
    return f"{identity}: sha256:{digest_of(token).hex()}"


def check_identity(identity: str) -> str:
    """The name of somebody who has a token. The texts do not quote it.

    :raises ValueError: it is not 1 to 255 bytes of UTF-8 without blanks and control characters, or could be mistaken.
    """
    try:
        size = len(identity.encode())
    except UnicodeEncodeError:
        raise ValueError("an identity is valid UTF-8: no lone surrogates") from None
    if not 1 <= size <= 255:
        raise ValueError(f"an identity is 1 to 255 bytes of UTF-8, this one is {size}")
    if has_controls(identity) or identity.split() != [identity]:
        raise ValueError("an identity has no blanks and no control characters")
    if identity.startswith(("#", UID)):
        raise ValueError(f"an identity does not start with '#' or {UID!r}: that is a comment, or a Unix socket's user")
    return identity


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as a comment: stderr may be the broker's file."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"# {self.prog}: {message}\n")


def main(argv: list[str]) -> None:
    """``vanilla-broker token IDENTITY``: a new token on stdout, for the client; its line on stderr, for the broker."""
    parser = _Parser(
        prog="vanilla-broker token",
        description="Make a token. The secret goes to stdout, once; its line for the broker's --token-file to stderr.",
        epilog="For example: umask 077; vanilla-broker token web >web.token 2>>broker.tokens",
    )
    parser.add_argument("identity", metavar="IDENTITY", help="who will use it, as permissions and logs call them")
    identity = parser.parse_args(argv).identity
    try:
        check_identity(identity)
    except ValueError as error:
        parser.error(str(error))
    token = secrets.token_urlsafe(32)
    try:
        print(token, flush=True)
    except OSError as error:  # then nobody has it, and the broker need not know it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
        parser.exit(1, f"# {parser.prog}: cannot write the token: {error.strerror}\n")
    print(line_of(identity, token), file=sys.stderr)
