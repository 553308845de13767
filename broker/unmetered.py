"""A producer that needs no credit: what it sends is passed on or kept as one value, and never stands in line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vanilla.protocol.frames import MAX_SEQ

from .endpoint import Endpoint
from .pusher import Pusher

if TYPE_CHECKING:
    from .session import Session


class Unmetered(Pusher):
    """The broker's side of a channel on which a client sends, and is confirmed, without credit."""

    __slots__ = ()

    def __init__(self, session: Session, id: int, endpoint: Endpoint, first: int) -> None:
        super().__init__(session, id, endpoint, first)
        self.quota.raise_to(MAX_SEQ + 1, MAX_SEQ)

    def covers(self, kind: int, size: int) -> bool:
        return False  # what is under way counts for itself

    def ask(self) -> None:
        self.session.owed = True  # a confirm

    def _recount(self) -> None:
        """Nothing is promised."""
