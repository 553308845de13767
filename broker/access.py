"""Who may do what at a broker: its tokens and permissions together, and how to read both anew.

A connection's identity is settled once, at its hello, by the first of these that there is:

1. the token of its hello, if the broker has a token file; a wrong one ends the connection, whatever else it could show;
2. the name in its TLS certificate, if that was verified;
3. ``uid:NNN``, the user at the other end of its Unix socket;
4. nothing: it is anonymous, the empty text. Where there is a token file, that ends the connection.

What an identity may do is asked at each OPEN, STATUS and ADMIN, and at each change of a state, so new permissions hold
for what comes after them; channels that are open stay.
"""

from __future__ import annotations

from typing import Callable

from vanilla.protocol.errors import ProtocolError, Refused
from vanilla.protocol.frames import ADMIN, DATA, OPEN, STATUS

from .permissions import Permissions, read_permissions
from .tokens import UID, Tokens, read_tokens

#: Which permission a frame needs: its type, and the kind of endpoint that it is about.
NEEDS = {
    (OPEN, "push"): "push",
    (OPEN, "pull"): "pull",
    (OPEN, "call"): "call",
    (OPEN, "serve"): "serve",
    (OPEN, "send"): "push",
    (OPEN, "recv"): "pull",
    (OPEN, "state"): "subscribe",
    (DATA, "state"): "push",  # or to clear it
    (OPEN, "publish"): "push",
    (OPEN, "subscribe"): "subscribe",
    (OPEN, "options"): "admin",  # beside what the channel needs
    (STATUS, ""): "admin",
    (ADMIN, ""): "admin",
}


class Access:
    """What one broker knows of who may do what.

    :param token_file: a path; without one, nobody has to say who they are.
    :param permissions: a path; without one, everybody may do everything.
    :raises OSError: a file cannot be read.
    :raises ValueError: a file is wrong.
    """

    def __init__(self, token_file: str, permissions: str) -> None:
        self._token_file = token_file
        self._permissions_file = permissions
        self.tokens: Tokens | None = None
        self.permissions: Permissions | None = None
        for _, reload in self.reloads():
            reload()

    def reloads(self) -> list[tuple[str, Callable[[], str]]]:
        """For `Broker.reloads`: what there is to read anew. Each returns what it has found; one that raises has
        changed nothing."""
        found: list[tuple[str, Callable[[], str]]] = []
        if self._token_file:
            found.append(("tokens", self._read_tokens))
        if self._permissions_file:
            found.append(("permissions", self._read_permissions))
        return found

    def _read_tokens(self) -> str:
        self.tokens = read_tokens(self._token_file)
        return f"{len(self.tokens)} in {self._token_file}"

    def _read_permissions(self) -> str:
        self.permissions = read_permissions(self._permissions_file)
        return f"{len(self.permissions)} rules in {self._permissions_file}"

    @property
    def authenticated(self) -> bool:
        """Does everybody have to say who they are?"""
        return self.tokens is not None

    def identify(self, known: str, token: str | bytes | None) -> str:
        """The identity of a connection.

        :param known: what its certificate or socket says, or the empty text.
        :param token: of its hello.
        :raises ProtocolError: DENIED.
        """
        if self.tokens is None:
            return known
        if token is None:
            if not known:
                raise ProtocolError("DENIED", "this broker wants a token, and the hello has none")
            return known
        identity = self.tokens.identify(token)
        if identity is None:
            raise ProtocolError("DENIED", "this broker does not know the token of the hello")
        return identity

    def check(self, identity: str, frame: int, kind: str = "", name: str = "") -> None:
        """May *identity* send this?

        :param frame: its type, with *kind* a key of `NEEDS`.
        :param name: the endpoint's; empty if it is about the whole broker.
        :raises Refused: DENIED.
        """
        if self.permissions is None:
            return
        verb = NEEDS[frame, kind]
        if not self.permissions.allow(identity, verb, name):
            about = f"endpoint {name!r}" if name else "this broker"
            raise Refused("DENIED", f"{identity or 'anonymous'} has no permission {verb!r} for {about}")


def identity_of_user(uid: int) -> str:
    """The identity of who connects by a Unix socket without a token."""
    return f"{UID}{uid}"


def check_subject(subject: str) -> str:
    """The identity that a certificate gives.

    :raises ProtocolError: DENIED: it could be taken for a Unix socket's user.
    """
    if subject.startswith(UID):
        raise ProtocolError("DENIED", f"a certificate cannot name {subject[:100]!r}: that is a Unix socket's user")
    return subject
