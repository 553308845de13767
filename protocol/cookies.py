"""Cookies: a listener's proof that whoever asks for a session does get what is sent to its address.

Nothing is kept for who asks. A cookie is computed from the address, the client's token and the time, under a key that
nobody else has; so who returns it can read what goes to that address (the idea is that of SYN cookies, and of RFC 9000,
8.1.2). It is good for one to two slots of 10 s. The same digest gives the token that the session's server will have, so
that an INIT that comes twice means the same session, and the client may send at once.
"""

from __future__ import annotations

import hmac
from random import Random

from .packets import COOKIE_BYTES, INIT_BYTES, NO_COOKIE, VERSION, Init, Retry, pack_retry

#: How long a slot is, in seconds.
SLOT = 10.0
#: A key serves this long, in seconds; the one before it as long as its cookies.
KEY_LIFE = 3600.0
KEY_BITS = 256


class Cookies:
    """The cookies of one listener.

    :param random: where keys come from: `random.SystemRandom`, but for tests.
    """

    __slots__ = ("_changed", "_key", "_older", "_random")

    def __init__(self, now: float, random: Random) -> None:
        self._random = random
        self._key = self._new_key()
        self._older = self._key
        self._changed = now

    def _new_key(self) -> bytes:
        return self._random.getrandbits(KEY_BITS).to_bytes(KEY_BITS // 8, "big")

    def _keys(self, now: float) -> list[bytes]:
        """The keys whose cookies are good now, the newest first."""
        if now - self._changed >= KEY_LIFE:
            self._older, self._key, self._changed = self._key, self._new_key(), now
        # Of the key before, no cookie is good any more when two slots are over.
        return [self._key, self._older] if now - self._changed < 2 * SLOT else [self._key]

    def make(self, address: object, client: int, now: float) -> tuple[bytes, int]:
        """The cookie for a client at *address* (as the socket gives it), and the token that its session would have."""
        return _make(self._keys(now)[0], address, client, int(now // SLOT))

    def check(self, address: object, init: Init, now: float) -> int:
        """The token that the session of *init* has, 0 if its cookie is none of ours, or is too old."""
        if init.cookie == NO_COOKIE:
            return 0
        slot = int(now // SLOT)
        for key in self._keys(now):
            for of in (slot, slot - 1):
                cookie, token = _make(key, address, init.client, of)
                if hmac.compare_digest(cookie, init.cookie):
                    return token
        return 0

    def retry(self, address: object, init: Init, now: float) -> bytes:
        """What is answered to *init*: a RETRY, shorter than what came."""
        cookie, server = self.make(address, init.client, now)
        answer = pack_retry(Retry(VERSION, init.client, server, cookie))
        assert len(answer) < INIT_BYTES
        return answer


def _make(key: bytes, address: object, client: int, slot: int) -> tuple[bytes, int]:
    said = repr((address, client, slot)).encode()
    digest = hmac.new(key, said, "sha256").digest()
    # A token is never 0, which means none.
    return digest[:COOKIE_BYTES], int.from_bytes(digest[COOKIE_BYTES : COOKIE_BYTES + 8], "big") or 1
