"""Where the peer of a session is, and where it may have gone: what is validated before datagrams go there.

An address from which the peer seems to have come is sent a CHALLENGE, and is the peer's once a RESPONSE comes from
there (RFC 9000, 8.2 and 9).
"""

from __future__ import annotations

from random import Random

from .packets import HEAD_BYTES

#: What may go to an address that has not answered yet, of what came from there.
AMPLIFICATION = 3
CHALLENGE_BYTES = HEAD_BYTES + 9
#: Challenges of the peer that are answered at once.
MOST_RESPONSES = 4


class Elsewhere:
    """An address from which the peer may have come to speak."""

    __slots__ = ("address", "at", "came", "sent", "value")

    def __init__(self, address: object, value: int) -> None:
        self.address = address
        self.value = value
        self.came = self.sent = 0
        self.at = 0.0  # when the next CHALLENGE may go there

    @property
    def allowed(self) -> bool:
        """A CHALLENGE, or a RESPONSE, is no more than what may go there."""
        return self.sent + CHALLENGE_BYTES <= AMPLIFICATION * self.came


class Whereabouts:
    """The addresses of a peer.

    :param address: as the owner of the session writes it; None: the owner knows.
    :ivar there: where the peer may be as well.
    :ivar responses: (value, address) of the CHALLENGEs that are to be answered; None: to the peer.
    """

    __slots__ = ("_random", "address", "responses", "there")

    def __init__(self, address: object, random: Random) -> None:
        self._random = random
        self.address = address
        self.there: Elsewhere | None = None
        self.responses: list[tuple[int, object]] = []

    def came(self, address: object, newer: bool, size: int) -> None:
        """A packet of *size* bytes that is new has come from *address*; *newer*: than all others."""
        there = self.there
        if address is None or address == self.address:
            if newer:
                self.there = None  # the peer is where it was
            return
        if there is None or there.address != address:
            if not newer:
                return  # it was on its way before the peer came to where it is
            there = self.there = Elsewhere(address, self._random.getrandbits(64))
        there.came += size

    def challenged(self, value: int, address: object) -> None:
        """The peer wants to know from *address* whether we are where it sends to."""
        if len(self.responses) < MOST_RESPONSES:
            self.responses.append((value, address))

    def answers(self) -> list[tuple[int, object]]:
        """(value, address) of each RESPONSE that goes now, and counts as sent. To where the peer may be goes no more
        than may, to nowhere else anything."""
        responses, self.responses = self.responses, []
        there = self.there
        found: list[tuple[int, object]] = []
        for value, address in responses:
            if address is None or address == self.address:
                found.append((value, self.address))
            elif there is not None and there.address == address and there.allowed:
                there.sent += CHALLENGE_BYTES
                found.append((value, address))
        return found

    def answered(self, value: int, address: object) -> bool:
        """A RESPONSE has come from *address*: whether the peer is there now."""
        there = self.there
        if there is None or there.address != address or there.value != value:
            return False
        self.address = address
        self.there = None
        return True

    def challenge(self, now: float, wait: float) -> Elsewhere | None:
        """Where a CHALLENGE is to go now, if anywhere; it counts as sent, and the next one goes in *wait* seconds."""
        there = self.there
        if there is None or now < there.at or not there.allowed:
            return None
        there.at = now + wait
        there.sent += CHALLENGE_BYTES
        return there

    def next_time(self) -> float | None:
        """When `challenge` has something to say."""
        return self.there.at if self.there is not None and self.there.allowed else None
