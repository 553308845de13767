"""A UDP session: a reliable, ordered stream of bytes in each direction, over datagrams. No clock, no socket.

It is QUIC's single stream (RFC 9000), without its crypto, and its recovery (RFC 9002). Who owns a `Transport` does
three things with it: gives it what has come (`receive`), gives it bytes for the peer and takes those of the peer
(`put`, `read_into`), and after any of these, and when `next_time` says so, sends what `datagrams` returns::

    transport = Transport(client=True, now=monotonic(), token=random.getrandbits(64) or 1, random=SystemRandom())
    for data, segment, address in transport.datagrams(now): ...     # -> UDP_SEGMENT of `segment` bytes each
    transport.receive(data, now, address, segment)                  # one datagram, or what UDP_GRO has joined
    taken = transport.put([head, body])                             # bytes taken; 0: try again after a `receive`
    size = transport.read_into([buffer])                            # bytes read; 0: none, or `ended`
    transport.finish()                                              # no more bytes from us
    transport.loosen().put([frame], position, messages)             # sent once, beside the stream: see `loose`
    transport.close(code, text)                                     # at once: the peer is told, once

* `state` is one of the keys of `MOVES`. From "closed" on, `error` is (code of `packets.CODES`, text), or None if both
  directions had ended. `datagrams` has last words then: ask it once more.
* `ready` bytes can be read now; `ended`: the peer has finished, and all was read. `room` bytes can be put; `unsent`
  ones are put and did not leave yet, `empty`: all that was put is acknowledged.
* `next_time()` is when `datagrams` is to be called again, whatever happens: in the clock of `now`, None for never.
* `rests(now, until)` says at a glance that neither is to be asked: an owner who has a timer that is set for `until` has
  nothing to do then, and nothing to read. `stirred`: it is sure to say no.
* `address` is the peer's, as the owner writes it; a datagram's is compared with it. The owner of a connected socket
  leaves it None, and that of a server's session sends each of `datagrams` to its address if it is not None.
* `counters` and `rtt`, `min_rtt`, `rate`, `window` are for status.

A listener makes a server's Transport out of an INIT whose cookie is good (`cookies.Cookies.check`)::

    token = cookies.check(address, init, now)       # 0: answer cookies.retry(address, init, now), nothing else
    Transport(client=False, now=now, token=token, random=random, peer=init.client, address=address)

An INIT that comes again has the same token: it is given to the session's `receive`, as is every datagram whose
`packets.token_of` is this token. So is an INIT without a cookie that names a token: a client asks so whether its
session is still there, and takes a RETRY for a no.

Invariants:
1. No packet number is used twice. A datagram whose number has come is dropped before anything of it counts.
2. Except for probes and what a session says of itself (ACK, WINDOW and the like), nothing leaves that the congestion
   window, the pace, the peer's window, or the number of datagrams that its kernel holds does not allow.
3. What came from elsewhere than the peer's address changes nothing of where datagrams go, before a RESPONSE from there
   has named the value that was sent there; until then, no more than three times what came goes there.
4. Every datagram but pure ACKs and what is said of addresses is in `Recovery`. What is lost there is sent again out
   of `Backlog`, or, if it was a WINDOW, said anew, as it is by then.
5. What is kept is bounded, whatever the peer says or does not say: by the windows, by what `Recovery`, `Arrivals` and
   `Reassembly` keep at most, and by `DEAF_PTOS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Callable

from .counters import Counters
from .dialling import Dialling
from .limits import DEFAULTS, Limits
from .lone import Lone
from .loose import LooseFrames
from .notices import Notices
from .outgoing import MOST_FLYING, Outgoing, Train
from .packets import (
    BAD_PACKET,
    CLOSE,
    CODES,
    DATA,
    DONE,
    HEAD_BYTES,
    INIT,
    OTHER_VERSION,
    RETRY,
    TIMEOUT,
    UNKNOWN,
    VERSION,
    Ack,
    BadPacket,
    Buffer,
    Challenge,
    Close,
    Item,
    Loose,
    LoosePart,
    Ping,
    Response,
    Stream,
    Window,
    kind_of,
    pack_close,
    parse_close,
    parse_data,
    parse_init,
    parse_retry,
)
from .reassembly import Contradiction, Piece, Reassembly
from .trains import Consecutive, parse_one, parse_train
from .whereabouts import Whereabouts

DIALLING, OPEN, LINGERING, CLOSED = "dialling", "open", "lingering", "closed"

#: What happens to a session, and the state it has then. What is not here does not happen.
MOVES = {
    DIALLING: {"answered": OPEN, "failed": CLOSED, "closed": CLOSED},
    OPEN: {"done": LINGERING, "failed": CLOSED, "closed": CLOSED},
    LINGERING: {"over": CLOSED, "failed": CLOSED, "closed": CLOSED},
    CLOSED: {},
}

#: So many PTOs in a row, and a client asks whether there is still a session...
ASK_PTOS = 3
#: ...and when both ends of the stream are sent, and the peer's has come, nobody may be there to acknowledge.
LAST_PTOS = 6
LINGER_PTOS = 3
#: PTOs in a row before each of which the peer has spoken, and never acknowledged: it will not, and what is kept for it
#: becomes more with each probe.
DEAF_PTOS = 32
#: An end of waiting that comes so much late, was late because our own process did not run: the peer gets this time.
GRACE = 2.0


class Transport:
    """One session, seen from one of its ends. See the module for how it is used.

    :param client: we dial.
    :param now: the time, in seconds; of a monotonic clock, as everywhere.
    :param token: ours: 64 bits that nobody can guess, not 0.
    :param random: for challenges: `random.SystemRandom`, but for tests.
    :param peer: the peer's token; 0 if it is not known, of a client.
    :param address: the peer's, or None: see above.
    """

    __slots__ = (
        "_called",
        "_deaf",
        "_dialling",
        "_graced",
        "_heard",
        "_incoming",
        "_linger",
        "_lone",
        "_notices",
        "_outgoing",
        "_probed",
        "_whereabouts",
        "_words",
        "client",
        "counters",
        "error",
        "limits",
        "state",
        "stirred",
        "token",
    )

    def __init__(
        self,
        client: bool,
        now: float,
        token: int,
        random: Random,
        peer: int = 0,
        address: object = None,
        limits: Limits = DEFAULTS,
    ) -> None:
        self.client = client
        self.token = token
        self.limits = limits
        self.state = DIALLING if client else OPEN
        self.error: tuple[int, str] | None = None
        self.counters = Counters()
        self._dialling = Dialling(now) if client else None
        self._incoming = Reassembly()
        self._notices = Notices(limits, self._incoming)
        self._whereabouts = Whereabouts(address, random)
        self._outgoing = Outgoing(limits, now, peer, self.counters, self._notices, self._whereabouts)
        self._lone = Lone(token, self._incoming, self._notices, self._outgoing, self._dialling)
        self._heard = self._called = now
        self._graced = -1.0
        self._linger = 0.0
        self._deaf = 0  # see DEAF_PTOS
        self._probed = now
        self._words: bytes | None = None
        #: Since `datagrams` was called last, something was put, or has come that is more than bytes of the stream.
        self.stirred = True

    # -- the stream

    def put(self, buffers: Iterable[Buffer]) -> int:
        """Take bytes for the peer, of *buffers* one after the other, as many as there is room for: how many.

        They are copied, but for `bytes`. After `finish`, or when the session has ended, none are taken.
        """
        if self._outgoing.backlog.ended or self.state == CLOSED:
            return 0
        self.stirred = True
        return self._outgoing.backlog.put(buffers)

    def finish(self) -> None:
        """No more bytes come from us; what was put goes out. Twice does nothing."""
        self.stirred = True
        self._outgoing.backlog.finish()

    def loosen(self) -> LooseFrames:
        """From now on frames may be sent, and are taken, that are not in the stream."""
        if self._outgoing.loose is None:
            self._outgoing.loose = LooseFrames(self._outgoing.datagram - HEAD_BYTES)
        return self._outgoing.loose

    @property
    def loose(self) -> LooseFrames | None:
        """Frames beside the stream, if there may be any."""
        return self._outgoing.loose

    def read_into(self, buffers: list[memoryview]) -> int:
        """Fill *buffers*, one after the other, with what came in order: how many bytes."""
        return self._incoming.read_into(buffers)

    def read(self, most: int = 65536) -> Buffer:
        """Up to *most* bytes of what came in order; none if there are none."""
        return self._incoming.take(most)

    @property
    def ready(self) -> int:
        """Bytes that can be read."""
        return self._incoming.ready

    @property
    def ended(self) -> bool:
        """The peer has finished, and all of it was read."""
        return self._incoming.read == self._incoming.final

    @property
    def room(self) -> int:
        """Bytes that `put` takes."""
        return 0 if self._outgoing.backlog.ended or self.state == CLOSED else self._outgoing.backlog.room

    @property
    def unsent(self) -> int:
        """Bytes that were put and did not leave yet."""
        return self._outgoing.backlog.unsent

    @property
    def empty(self) -> bool:
        """All that was put is acknowledged, and the end, if there is one; and of what is loose is known what it met."""
        return self._outgoing.backlog.empty and (self.loose is None or not self.loose.pending)

    # -- status

    @property
    def datagram(self) -> int:
        """Bytes of a full datagram, either way, as it is now."""
        return self._outgoing.datagram

    @property
    def rtt(self) -> float:
        """The smoothed round-trip time in seconds; 0 before the first."""
        return self._outgoing.recovery.smoothed if self._outgoing.recovery.sampled else 0.0

    @property
    def min_rtt(self) -> float:
        return self._outgoing.recovery.min_rtt

    @property
    def rate(self) -> float:
        """What the congestion controller sends at, in bytes a second; 0: any."""
        return self._outgoing.controller.pacing_rate

    @property
    def window(self) -> int:
        """Bytes that the congestion controller lets be in flight."""
        return self._outgoing.controller.window

    @property
    def in_flight(self) -> int:
        return self._outgoing.recovery.in_flight

    @property
    def address(self) -> object:
        """The peer's."""
        return self._whereabouts.address

    # -- ends

    def close(self, code: int = DONE, text: str = "") -> None:
        """End the session at once; the next `datagrams` tell the peer. Twice does nothing.

        :param code: a key of `packets.CODES`.
        :param text: for a person to read; of it 200 bytes are sent.
        """
        if self.state != CLOSED:
            self.stirred = True
            if self._outgoing.peer:
                self._words = pack_close(Close(code, self._outgoing.peer, text))
            self._end("closed", code, text)

    def _end(self, what: str, code: int, text: str = "") -> None:
        self.state = MOVES[self.state][what]
        self.error = (code, text or CODES[code][1])

    def _broken(self, text: str) -> None:
        """The peer's transport does what it must not."""
        self.close(BAD_PACKET, text)

    def ask(self) -> None:
        """Have the peer say that it is there: the next `datagrams` has a PING."""
        self.stirred = self._notices.ping = True

    # -- what comes

    def receive(self, data: Buffer, now: float, address: object = None, segment: int = 0) -> None:
        """Take what came: one datagram, or several of *segment* bytes, the last of which may be shorter. It is copied.

        Nothing is raised, whatever it is.

        :param address: where it came from; None: from the peer.
        :param segment: 0: *data* is one datagram.
        """
        size = len(data)
        self.counters.received_bytes += size
        if not 0 < segment < size:
            self.counters.received += 1
            self._single(data, now, address)
            return
        data = memoryview(data)
        self.counters.received += -(-size // segment)
        whole = size - size % segment
        train = parse_train(data[:whole], segment)
        at = 0
        if train is not None:
            self._first(train, data[:whole], now, address)
            at = whole
        while at < size:
            self._single(data[at : at + segment], now, address)
            at += segment

    def _single(self, data: Buffer, now: float, address: object) -> None:
        """One datagram, by the short way if it can go there."""
        if self.state == OPEN and self._lone.came(data, len(data), now, address):
            self._heard = now
        else:
            self._first(parse_one(data), data, now, address)

    def _first(self, plain: Consecutive | None, data: Buffer, now: float, address: object) -> None:
        """Packets that carry consecutive bytes of the stream and nothing else, or what is not so plain. Of the former
        `rests` sees by itself what there is to say."""
        if plain is None:
            self._one(data, now, address)
        elif plain.token != self.token:
            self.counters.strangers += plain.packets
        elif self.state != CLOSED and self._accepts(plain.offset, plain.body):
            if not self._arrived(plain.number, plain.packets, len(data), now, address):
                self.counters.duplicates += plain.packets
            elif self._take(plain.offset, plain.body, False):
                self._notices.arrivals.expect(plain.packets, now, lone=len(data) < self._outgoing.datagram)
                if self._incoming.ended:
                    self._check_done(now)

    def _one(self, data: Buffer, now: float, address: object) -> None:
        if self.state == CLOSED:
            return
        self.stirred = True
        try:
            self._HANDLERS[kind_of(data)](self, data, now, address)
        except BadPacket:
            self.counters.bad += 1

    def _on_init(self, data: Buffer, now: float, address: object) -> None:
        """To a server: the answer to the first one was lost, or the client wonders whether we are there."""
        init = parse_init(data)
        if self.client or init.client != self._outgoing.peer:
            self.counters.strangers += 1
        elif self._outgoing.recovery.flying < MOST_FLYING:
            self._notices.window = True

    def _on_retry(self, data: Buffer, now: float, address: object) -> None:
        retry, dialling = parse_retry(data), self._dialling
        if dialling is None or retry.client != self.token:
            self.counters.strangers += 1
        elif retry.version != VERSION:
            self._end("failed", OTHER_VERSION, f"the peer speaks version {retry.version} of the transport")
        elif self.state == DIALLING:
            if dialling.retry(retry.cookie, now):
                self._outgoing.peer = retry.server
                if dialling.round_trip:
                    self._outgoing.recovery.guess(dialling.round_trip)
        elif dialling.asked:
            self._end("failed", UNKNOWN)

    def _on_close(self, data: Buffer, now: float, address: object) -> None:
        close = parse_close(data)
        if close.token != self.token:
            self.counters.strangers += 1
        elif self.state == LINGERING:
            self.state = MOVES[self.state]["over"]
        else:
            self._end("closed", close.code, close.text)

    def _on_data(self, data: Buffer, now: float, address: object) -> None:
        number, token, items = parse_data(data)
        if token != self.token:
            self.counters.strangers += 1
            return
        for item in items:
            if type(item) is Stream and not self._accepts(item.offset, item.body):
                return
            if isinstance(item, (Loose, LoosePart)) and (self.loose is None or not self.loose.accepts(item)):
                return
        if not self._arrived(number, 1, len(data), now, address):
            self.counters.duplicates += 1
            return
        eliciting = at_once = False
        lone = len(data) < self._outgoing.datagram
        for item in items:
            if type(item) is not Ack:
                eliciting = True
                lone = lone and type(item) is Stream
                at_once = at_once or (type(item) is Stream and item.end) or type(item) is Ping
            self._ITEMS[type(item)](self, item, now, address)
            if self.state == CLOSED:
                return
        if eliciting:
            self._notices.arrivals.expect(1, now, at_once, lone)
        self._check_done(now)

    _HANDLERS: dict[int, Callable[[Transport, Buffer, float, object], None]] = {
        INIT: _on_init,
        RETRY: _on_retry,
        DATA: _on_data,
        CLOSE: _on_close,
    }

    def _accepts(self, offset: int, body: Piece) -> bool:
        """Whether *body* can be taken. If not, the datagram counts as lost, or the peer is in the wrong."""
        if offset + len(body) > self._notices.granted:
            self._broken("more was sent than the window allows")
            return False
        return not self._incoming.full or offset <= self._incoming.next

    def _arrived(self, first: int, count: int, size: int, now: float, address: object) -> bool:
        """Packets have come: whether one of them is new (invariant 1)."""
        largest = self._notices.arrivals.largest
        if not self._notices.arrivals.add(first, count, now):
            return False
        self._heard = now
        if self.state == DIALLING:
            self.state = MOVES[self.state]["answered"]
        if self._dialling is not None:
            self._dialling.answered()
        if address is not None or self._whereabouts.there is not None:
            self._whereabouts.came(address, first + count - 1 > largest, size)
        return True

    def _take(self, offset: int, body: Piece, end: bool) -> bool:
        try:
            self._incoming.add(offset, body, end)
        except Contradiction as error:
            self._broken(str(error))
            return False
        return True

    def _on_stream(self, item: Stream, now: float, address: object) -> None:
        self._take(item.offset, item.body, item.end)

    def _on_window(self, item: Window, now: float, address: object) -> None:
        self._outgoing.allow(item)

    def _on_ping(self, item: Ping, now: float, address: object) -> None:
        pass  # it is acknowledged

    def _on_challenge(self, item: Challenge, now: float, address: object) -> None:
        self._whereabouts.challenged(item.value, address)

    def _on_response(self, item: Response, now: float, address: object) -> None:
        if self._whereabouts.answered(item.value, address):
            self._outgoing.move(now)

    def _on_ack(self, item: Ack, now: float, address: object) -> None:
        if not self._outgoing.acknowledged(item, now):
            self._broken("a packet was acknowledged that was never sent")

    def _on_loose(self, item: Loose | LoosePart, now: float, address: object) -> None:
        assert self.loose is not None
        try:
            self.loose.came(item)
        except Contradiction as error:
            self._broken(str(error))

    _ITEMS: dict[type, Callable[[Transport, Item, float, object], None]] = {
        Stream: _on_stream,  # type: ignore[dict-item]
        Ack: _on_ack,  # type: ignore[dict-item]
        Window: _on_window,  # type: ignore[dict-item]
        Ping: _on_ping,  # type: ignore[dict-item]
        Challenge: _on_challenge,  # type: ignore[dict-item]
        Response: _on_response,  # type: ignore[dict-item]
        Loose: _on_loose,  # type: ignore[dict-item]
        LoosePart: _on_loose,  # type: ignore[dict-item]
    }

    def _check_done(self, now: float) -> None:
        if self.state == OPEN and self._outgoing.backlog.done and self._incoming.ended:
            self.state = MOVES[self.state]["done"]
            self._linger = now + LINGER_PTOS * self._outgoing.recovery.pto

    # -- what leaves

    def datagrams(self, now: float) -> list[Train]:
        """What is to be sent now, in this order."""
        if (
            self.stirred
            and self.state == OPEN
            and now < self._heard + self.limits.ping
            and now < self._heard + self.limits.idle
            and (lone := self._lone.leaves(now)) is not None
        ):
            self._called = now
            self.stirred = False
            return [lone]
        trains: list[Train] = []
        self._fire(now)
        self.stirred = False
        outgoing, address = self._outgoing, self._whereabouts.address
        if self.state == CLOSED:
            if self._words is not None:
                outgoing.add(trains, self._words, address, len(self._words))
                self._words = None
            return trains
        dialling = self._dialling
        if dialling is not None and dialling.at is not None and now >= dialling.at:
            init = dialling.init(outgoing.peer, self.token, now)
            outgoing.add(trains, init, address, len(init))
        if outgoing.peer:
            outgoing.send(trains, now)
        return trains

    # -- time

    def next_time(self) -> float | None:
        """When `datagrams` is to be called again, if nothing else happens before; None: never."""
        if self.state == CLOSED:
            return self._called if self._words is not None else None
        outgoing, notices = self._outgoing, self._notices
        if outgoing.peer and (notices.window or notices.ping or outgoing.probes):
            return self._called
        first = self._heard + self.limits.idle
        if self.state == LINGERING:
            first = min(first, self._linger)
        if self._dialling is not None and self._dialling.at is not None:
            first = min(first, self._dialling.at)
        if not outgoing.peer:
            return first
        at = outgoing.recovery.next_time()
        if at is None:
            at = self._ping_time()
        if at < first:
            first = at
        if (at := notices.arrivals.at) is not None and at < first:
            first = at
        if outgoing.paced and outgoing.leave < first:
            first = outgoing.leave
        if self._whereabouts.there is not None and (at := self._whereabouts.next_time()) is not None:
            first = min(first, at)
        return first

    def rests(self, now: float, until: float) -> bool:
        """Whether `datagrams` has nothing to do now, nor `next_time` to say what is sooner than *until*, and there is
        nothing to read: at a glance, so False may as well mean that it takes more to know.

        :param until: not later than what `next_time` has said before.
        """
        outgoing, incoming, notices = self._outgoing, self._incoming, self._notices
        acknowledge = notices.arrivals.at
        if (
            self.stirred
            or self.state != OPEN
            or now >= until
            or (acknowledge is not None and acknowledge < until)
            or incoming.read != incoming.next
            or incoming.final is not None
            or notices.window
            or notices.ping
            or notices.granted - incoming.read < notices.least
            or outgoing.paced
            or outgoing.loose is not None
            or self._whereabouts.there is not None
            or (self._dialling is not None and self._dialling.at is not None)
            or not outgoing.recovery.rests(until)
            or (not outgoing.recovery.flying and self._heard + self.limits.ping < until)
        ):
            return False
        self._called = now
        return True

    def _ping_time(self) -> float:
        return self._heard + self.limits.ping

    def _fire(self, now: float) -> None:
        """Do what is due."""
        late = now - self._called > GRACE
        self._called = now
        if self.state == CLOSED:
            return
        if now >= self._heard + self.limits.idle:
            if not late or self._heard == self._graced:
                text = f"nothing was heard of the peer for {self.limits.idle:g} s"
                self.close(TIMEOUT, text)
                return
            self._heard = self._graced = now + GRACE - self.limits.idle  # once, unless something is heard
        if self.state == LINGERING and now >= self._linger:
            self.state = MOVES[self.state]["over"]
            return
        if self._outgoing.due(now):
            self._back_off(now)
            self._probed = now
        elif self._outgoing.peer and not self._outgoing.recovery.flying and now >= self._ping_time():
            self._notices.ping = True

    def _back_off(self, now: float) -> None:
        backoff = self._outgoing.recovery.backoff
        self._deaf = (backoff > 1) * self._deaf + (self._heard > self._probed)
        if self._deaf >= DEAF_PTOS:
            self._broken("nothing was acknowledged for too long")
            return
        if self._dialling is not None and self.state == OPEN and backoff >= ASK_PTOS:
            self._dialling.ask(now)
        if backoff >= LAST_PTOS and self._incoming.ended and self._outgoing.backlog.unsent < 0:
            self.close(DONE)
            self.error = None
