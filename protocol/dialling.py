"""A client's INITs: until it is answered, and when it fears that its session is lost."""

from __future__ import annotations

from .packets import NO_COOKIE, VERSION, Init, pack_init

#: Seconds: an INIT is repeated after this, and twice that, up to...
INIT_TIME = 0.25
MOST_INIT_TIME = 2.0
#: Seconds: who has accepted a RETRY passes others over for so long, or twice as long as that took.
RETRY_REST = 1.0


class Dialling:
    """When a client asks for its session, and with what.

    :ivar at: when the next INIT leaves; None: none does.
    :ivar asked: the session was there, and an INIT asks whether it still is.
    :ivar round_trip: how long the first RETRY took, in seconds; 0 if it may answer more than one INIT.
    """

    __slots__ = ("_answered", "_cookie", "_made", "_sent", "_until", "_wait", "asked", "at", "round_trip")

    def __init__(self, now: float) -> None:
        self._cookie = NO_COOKIE
        self._wait = INIT_TIME
        self._made = self._until = now
        self._answered = False
        self.at: float | None = now
        self.asked = False
        self.round_trip = 0.0
        #: When the last INIT left, if none had left before it with this cookie; else None.
        self._sent: float | None = None

    def retry(self, cookie: bytes, now: float) -> bool:
        """A RETRY has come: whether its *cookie* is another than the one that we have. Then it leaves at once."""
        if cookie == self._cookie or (self._cookie != NO_COOKIE and now < self._until):
            return False
        if self._cookie == NO_COOKIE and self._sent is not None:
            self.round_trip = now - self._sent
        self._cookie = cookie
        # The next one may answer an INIT of before, and be of another session: two would be made.
        self._until = now + max(RETRY_REST, 2 * (now - self._made))
        self.at, self._wait = now, INIT_TIME
        return True

    def answered(self) -> None:
        """Something of the session has come: it is there."""
        self._answered = True
        self.asked = False
        self.at = None
        self._cookie = NO_COOKIE

    def ask(self, now: float) -> None:
        """Is the session still there? A RETRY would be a no; anything of the session is a yes."""
        self.asked = True
        self.at = now

    def init(self, peer: int, token: int, now: float) -> bytes:
        """The INIT that is due: of the client that has *token*, to the session *peer*, 0 if none is known."""
        if self._answered:
            self.at = None
        else:
            self._sent = now if self._wait == INIT_TIME else None
            self.at = now + self._wait
            self._wait = min(2 * self._wait, MOST_INIT_TIME)
        return pack_init(Init(VERSION, peer, token, self._cookie))
