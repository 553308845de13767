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
    transport.close(code, text)                                     # at once: the peer is told, once

* `state` is one of the keys of `MOVES`. From "closed" on, `error` is (code of `packets.CODES`, text), or None if both
  directions had ended. `datagrams` has last words then: ask it once more.
* `ready` bytes can be read now; `ended`: the peer has finished, and all was read. `room` bytes can be put; `unsent`
  ones are put and did not leave yet, `empty`: all that was put is acknowledged.
* `next_time()` is when `datagrams` is to be called again, whatever happens: in the clock of `now`, None for never.
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
4. Every datagram but pure ACKs is in `Recovery`. What is lost there is sent again out of `Backlog`, or, if it was
   a WINDOW, said anew, as it is by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Callable, NamedTuple

from .arrivals import Arrivals
from .backlog import Backlog, Cut
from .congestion import CONTROLLERS
from .packets import (
    BAD_PACKET,
    CLOSE,
    CODES,
    DATA,
    DATAGRAM_BYTES,
    DONE,
    HEAD_BYTES,
    INIT,
    NO_COOKIE,
    OTHER_VERSION,
    OVERHEAD_BYTES,
    PING_ITEM,
    RETRY,
    TIMEOUT,
    UNKNOWN,
    VERSION,
    WINDOW_BYTES,
    Ack,
    BadPacket,
    Buffer,
    Challenge,
    Close,
    Consecutive,
    Init,
    Item,
    Ping,
    Response,
    Stream,
    Window,
    kind_of,
    pack_challenge,
    pack_close,
    pack_data,
    pack_init,
    pack_response,
    pack_stream,
    pack_train,
    pack_window,
    parse_close,
    parse_data,
    parse_init,
    parse_one,
    parse_retry,
    parse_train,
)
from .reassembly import Contradiction, Reassembly
from .recovery import Recovery, Run

DIALLING, OPEN, LINGERING, CLOSED = "dialling", "open", "lingering", "closed"

#: What happens to a session, and the state it has then. What is not here does not happen.
MOVES = {
    DIALLING: {"answered": OPEN, "failed": CLOSED, "closed": CLOSED},
    OPEN: {"done": LINGERING, "failed": CLOSED, "closed": CLOSED},
    LINGERING: {"over": CLOSED, "failed": CLOSED, "closed": CLOSED},
    CLOSED: {},
}

#: What a peer takes before its first WINDOW has come: bytes, and datagrams.
FIRST_WINDOW = 64 << 10
FIRST_DATAGRAMS = 32
#: The most of one train: what kernels take (UDP_MAX_SEGMENTS was 64 for long), and bytes.
TRAIN_DATAGRAMS = 64
TRAIN_BYTES = 64000
#: Datagrams that are acknowledged at once, if the kernel holds enough of them: about two trains.
ACK_EVERY = 64
#: Of pacing, in seconds: a train is what leaves in this time, and so much is made good of what a late timer missed.
QUANTUM = 0.001
SLACK = 0.004
#: Seconds: an INIT is repeated after this, and twice that, up to...
INIT_TIME = 0.25
MOST_INIT_TIME = 2.0
#: So many PTOs in a row, and a client asks whether there is still a session...
ASK_PTOS = 3
#: ...and when both ends of the stream are sent, and the peer's has come, nobody may be there to acknowledge.
LAST_PTOS = 6
LINGER_PTOS = 3
#: An end of waiting that comes so much late, was late because our own process did not run: the peer gets this time.
GRACE = 2.0
#: What may go to an address that has not answered yet, of what came from there.
AMPLIFICATION = 3
CHALLENGE_BYTES = HEAD_BYTES + 9


class Limits(NamedTuple):
    """What one side of a session may use. Times are in seconds."""

    datagram: int = DATAGRAM_BYTES  # the length of a full datagram in bytes, our way
    window: int = 4 << 20  # bytes that come and are not read
    buffer: int = 4 << 20  # bytes that are put and not acknowledged
    datagrams: int = 256  # that our kernel's receive buffer holds
    ping: float = 15.0  # after this much silence the peer is asked
    idle: float = 60.0  # and after this much the session ends
    controller: str = "delivery"  # a key of CONTROLLERS


DEFAULTS = Limits()


class Train(NamedTuple):
    """Datagrams of ``segment`` bytes each, the last one may be shorter, for ``address``."""

    data: bytes
    segment: int
    address: object


class Counters:
    """What has happened on a session."""

    __slots__ = (
        "bad",
        "duplicates",
        "lost",
        "lost_bytes",
        "moves",
        "probes",
        "received",
        "received_bytes",
        "retransmitted",
        "retransmitted_bytes",
        "sent",
        "sent_bytes",
        "spurious",
        "strangers",
    )

    def __init__(self) -> None:
        #: Datagrams, and their bytes.
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0
        self.lost = self.lost_bytes = self.retransmitted = self.retransmitted_bytes = 0
        #: Packets that came after they had been declared lost; that came twice; that were asked for.
        self.spurious = self.duplicates = self.probes = 0
        #: Datagrams that were malformed; that had a wrong token. Changes of address.
        self.bad = self.strangers = self.moves = 0


class _Note(NamedTuple):
    """What else a packet carried: an ACK up to ``acked`` (-1: none), a WINDOW."""

    acked: int
    window: bool


class _Elsewhere:
    """An address from which the peer may have come to speak."""

    __slots__ = ("address", "at", "came", "sent", "value")

    def __init__(self, address: object, value: int) -> None:
        self.address = address
        self.value = value
        self.came = self.sent = 0
        self.at = 0.0  # when the next CHALLENGE may go there


class Transport:
    """One session, seen from one of its ends. See the module for how it is used.

    :param client: we dial.
    :param now: the time, in seconds; of a monotonic clock, as everywhere.
    :param token: ours: 64 bits that nobody can guess, not 0.
    :param random: for challenges: `random.SystemRandom`, but for tests.
    :param peer: the peer's token; 0 if it is not known, of a client.
    :param address: the peer's, or None: see above.
    """

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
        self.peer = peer
        self.address = address
        self.limits = limits
        self.state = DIALLING if client else OPEN
        self.error: tuple[int, str] | None = None
        self.counters = Counters()
        self._random = random
        self._each = limits.datagram - OVERHEAD_BYTES
        self._most = min(TRAIN_DATAGRAMS, TRAIN_BYTES // limits.datagram) or 1
        self._backlog = Backlog(limits.buffer, FIRST_WINDOW)
        self._incoming = Reassembly()
        self._arrivals = Arrivals(max(2, min(ACK_EVERY, limits.datagrams // 4)))
        self._recovery = Recovery(now)
        self._controller = CONTROLLERS[limits.controller](limits.datagram, now)
        self._granted = FIRST_WINDOW
        self._window_due = True
        self._ping_due = False
        self._peer_datagrams = FIRST_DATAGRAMS
        self._heard = self._called = now
        self._leave = now  # when the next train may leave
        self._paced = False
        self._linger = 0.0
        self._probes = 0
        self._elsewhere: _Elsewhere | None = None
        self._responses: list[tuple[int, object]] = []
        self._words: bytes | None = None
        # Dialling.
        self._cookie = NO_COOKIE
        self._init_at: float | None = now if client else None
        self._init_wait = INIT_TIME
        self._asked = False

    # -- the stream

    def put(self, buffers: Iterable[Buffer]) -> int:
        """Take bytes for the peer, of *buffers* one after the other, as many as there is room for: how many.

        They are copied, but for `bytes`. After `finish`, or when the session has ended, none are taken.
        """
        if self._backlog.ended or self.state == CLOSED:
            return 0
        return self._backlog.put(buffers)

    def finish(self) -> None:
        """No more bytes come from us; what was put goes out. Twice does nothing."""
        self._backlog.finish()

    def read_into(self, buffers: list[memoryview]) -> int:
        """Fill *buffers*, one after the other, with what came in order: how many bytes."""
        size = self._incoming.read_into(buffers)
        self._renew()
        return size

    def read(self, most: int = 65536) -> Buffer:
        """Up to *most* bytes of what came in order; none if there are none."""
        data = self._incoming.take(most)
        self._renew()
        return data

    def _renew(self) -> None:
        incoming = self._incoming
        if self._granted - incoming.read < self.limits.window // 2 and incoming.final is None:
            self._window_due = True

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
        return 0 if self._backlog.ended or self.state == CLOSED else self._backlog.room

    @property
    def unsent(self) -> int:
        """Bytes that were put and did not leave yet."""
        return self._backlog.unsent

    @property
    def empty(self) -> bool:
        """All that was put is acknowledged, and the end, if there is one."""
        return self._backlog.empty

    # -- status

    @property
    def rtt(self) -> float:
        """The smoothed round-trip time in seconds; 0 before the first."""
        return self._recovery.smoothed if self._recovery.sampled else 0.0

    @property
    def min_rtt(self) -> float:
        return self._recovery.min_rtt

    @property
    def rate(self) -> float:
        """What the congestion controller sends at, in bytes a second; 0: any."""
        return self._controller.pacing_rate

    @property
    def window(self) -> int:
        """Bytes that the congestion controller lets be in flight."""
        return self._controller.window

    @property
    def in_flight(self) -> int:
        return self._recovery.in_flight

    # -- ends

    def close(self, code: int = DONE, text: str = "") -> None:
        """End the session at once; the next `datagrams` tell the peer. Twice does nothing.

        :param code: a key of `packets.CODES`.
        :param text: for a person to read; of it 200 bytes are sent.
        """
        if self.state != CLOSED:
            if self.peer:
                self._words = pack_close(Close(code, self.peer, text))
            self._end("closed", code, text)

    def _end(self, what: str, code: int, text: str = "") -> None:
        self.state = MOVES[self.state][what]
        self.error = (code, text or CODES[code][1])

    def _broken(self, text: str) -> None:
        """The peer's transport does what it must not."""
        self.close(BAD_PACKET, text)

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
            self._first(parse_one(data), data, now, address)
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
            self._first(parse_one(one := data[at : at + segment]), one, now, address)
            at += segment

    def _first(self, plain: Consecutive | None, data: Buffer, now: float, address: object) -> None:
        """Packets that carry consecutive bytes of the stream and nothing else; or what is not so plain."""
        if plain is None:
            self._one(data, now, address)
        elif plain.token != self.token:
            self.counters.strangers += plain.packets
        elif self.state != CLOSED and self._accepts(plain.offset + len(plain.body)):
            if not self._arrived(plain.number, plain.packets, len(data), now, address):
                self.counters.duplicates += plain.packets
            elif self._take(plain.offset, plain.body, False):
                self._arrivals.expect(plain.packets, now)
                if self._incoming.ended:
                    self._check_done(now)

    def _one(self, data: Buffer, now: float, address: object) -> None:
        if self.state == CLOSED:
            return
        try:
            self._HANDLERS[kind_of(data)](self, data, now, address)
        except BadPacket:
            self.counters.bad += 1

    def _on_init(self, data: Buffer, now: float, address: object) -> None:
        """To a server: the answer to the first one was lost, or the client wonders whether we are there."""
        init = parse_init(data)
        if self.client or init.client != self.peer:
            self.counters.strangers += 1
            return
        self._window_due = True

    def _on_retry(self, data: Buffer, now: float, address: object) -> None:
        retry = parse_retry(data)
        if not self.client or retry.client != self.token:
            self.counters.strangers += 1
        elif retry.version != VERSION:
            self._end("failed", OTHER_VERSION, f"the peer speaks version {retry.version} of the transport")
        elif self.state == DIALLING:
            if retry.cookie != self._cookie:
                self._cookie, self.peer = retry.cookie, retry.server
                self._init_at, self._init_wait = now, INIT_TIME
        elif self._asked:
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
            if type(item) is Stream and not self._accepts(item.offset + len(item.body)):
                return
        if not self._arrived(number, 1, len(data), now, address):
            self.counters.duplicates += 1
            return
        eliciting = at_once = False
        for item in items:
            if type(item) is not Ack:
                eliciting = True
                at_once = at_once or (type(item) is Stream and item.end) or type(item) is Ping
            self._ITEMS[type(item)](self, item, now, address)
            if self.state == CLOSED:
                return
        if eliciting:
            self._arrivals.expect(1, now, at_once)
        self._check_done(now)

    _HANDLERS: dict[int, Callable[[Transport, Buffer, float, object], None]] = {
        INIT: _on_init,
        RETRY: _on_retry,
        DATA: _on_data,
        CLOSE: _on_close,
    }

    def _accepts(self, stop: int) -> bool:
        """Whether bytes up to *stop* can be taken. If not, the datagram counts as lost, or the peer is in the wrong."""
        if stop > self._granted:
            self._broken("more was sent than the window allows")
            return False
        return not self._incoming.full or stop <= self._incoming.next

    def _arrived(self, first: int, count: int, size: int, now: float, address: object) -> bool:
        """Packets have come: whether one of them is new (invariant 1)."""
        largest = self._arrivals.largest
        if not self._arrivals.add(first, count, now):
            return False
        self._heard = now
        if self.state == DIALLING:
            self.state = MOVES[self.state]["answered"]
            self._init_at = None
        if address is not None and address != self.address:
            self._from_elsewhere(first + count - 1 > largest, size, now, address)
        elif self._elsewhere is not None and first + count - 1 > largest:
            self._elsewhere = None  # the peer is where it was
        self._asked = False
        return True

    def _take(self, offset: int, body: bytes, end: bool) -> bool:
        try:
            self._incoming.add(offset, body, end)
        except Contradiction as error:
            self._broken(str(error))
            return False
        return True

    def _on_stream(self, item: Stream, now: float, address: object) -> None:
        self._take(item.offset, item.body, item.end)

    def _on_window(self, item: Window, now: float, address: object) -> None:
        if item.limit >= self._backlog.limit:
            self._backlog.limit = item.limit
            self._peer_datagrams = item.datagrams

    def _on_ping(self, item: Ping, now: float, address: object) -> None:
        pass  # it is acknowledged

    def _on_challenge(self, item: Challenge, now: float, address: object) -> None:
        if len(self._responses) < 4:
            self._responses.append((item.value, address))

    def _on_response(self, item: Response, now: float, address: object) -> None:
        there = self._elsewhere
        if there is not None and there.address == address and there.value == item.value:
            self._move(there.address, now)

    def _on_ack(self, item: Ack, now: float, address: object) -> None:
        recovery = self._recovery
        if item.ranges[-1][1] >= recovery.next:
            self._broken("a packet was acknowledged that was never sent")
            return
        acked, lost, spurious, sample = recovery.acknowledged(item.ranges, item.delay, now)
        backlog = self._backlog
        for run in acked:
            if run.stop > run.offset:
                backlog.acknowledge(run.offset, run.stop)
            if run.note is not None:
                assert isinstance(run.note, _Note)
                self._arrivals.forget(run.note.acked)
        for run in spurious:
            self.counters.spurious += run.end - run.first
            if run.stop > run.offset:
                backlog.acknowledge(run.offset, run.stop)
        if lost:
            self._lose(lost, now)
        if sample is not None:
            self._controller.on_ack(sample)

    _ITEMS: dict[type, Callable[[Transport, Item, float, object], None]] = {
        Stream: _on_stream,  # type: ignore[dict-item]
        Ack: _on_ack,  # type: ignore[dict-item]
        Window: _on_window,  # type: ignore[dict-item]
        Ping: _on_ping,  # type: ignore[dict-item]
        Challenge: _on_challenge,  # type: ignore[dict-item]
        Response: _on_response,  # type: ignore[dict-item]
    }

    def _lose(self, lost: list[Run], now: float) -> None:
        for run in lost:
            self.counters.lost += run.end - run.first
            self.counters.lost_bytes += run.wire
            if run.stop > run.offset:
                self._backlog.lose(run.offset, run.stop)
            if run.note is not None:
                assert isinstance(run.note, _Note)
                self._window_due = self._window_due or run.note.window
        persistent = self._recovery.persistent(lost)
        self._controller.on_loss(now, sum(run.wire for run in lost), lost[-1].time, persistent)

    def _check_done(self, now: float) -> None:
        if self.state == OPEN and self._backlog.done and self._incoming.ended:
            self.state = MOVES[self.state]["done"]
            self._linger = now + LINGER_PTOS * self._recovery.pto

    # -- another address

    def _from_elsewhere(self, newer: bool, size: int, now: float, address: object) -> None:
        there = self._elsewhere
        if there is None or there.address != address:
            if not newer:
                return  # it was on its way before the peer came to where it is
            there = self._elsewhere = _Elsewhere(address, self._random.getrandbits(64))
        there.came += size

    def _move(self, address: object, now: float) -> None:
        """The peer is at *address* now: all that was known of the path to it is forgotten (RFC 9000, 9.4)."""
        self.address = address
        self._elsewhere = None
        self.counters.moves += 1
        lost = self._recovery.give_up_all()
        self._controller = CONTROLLERS[self.limits.controller](self.limits.datagram, now)
        self._leave = now
        for run in lost:
            if run.stop > run.offset:
                self._backlog.lose(run.offset, run.stop)
        self._window_due = True

    # -- what leaves

    def datagrams(self, now: float) -> list[Train]:
        """What is to be sent now, in this order."""
        trains: list[Train] = []
        self._fire(now)
        if self.state == CLOSED:
            if self._words is not None:
                self._add(trains, [self._words], self.limits.datagram, self.address)
                self._words = None
            return trains
        if self._init_at is not None and now >= self._init_at:
            self._dial(trains, now)
        if not self.peer:
            return trains
        if self._elsewhere is not None or self._responses:
            self._send_elsewhere(trains, now)
        if self._probes:
            self._probe(trains, now)
        self._stream(trains, now)
        if self._window_due or self._ping_due or (self._arrivals.at is not None and now >= self._arrivals.at):
            self._add(trains, [self._control(now)], self.limits.datagram, self.address)
        return trains

    def _add(self, trains: list[Train], parts: list[bytes], segment: int, address: object) -> None:
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        count = -(-len(data) // segment)
        self.counters.sent += count
        self.counters.sent_bytes += len(data)
        trains.append(Train(data, segment, address))

    def _dial(self, trains: list[Train], now: float) -> None:
        if self.state != DIALLING:
            self._init_at = None
        else:
            self._init_at = now + self._init_wait
            self._init_wait = min(2 * self._init_wait, MOST_INIT_TIME)
        init = Init(VERSION, self.peer, self.token, self._cookie if self.state == DIALLING else NO_COOKIE)
        self._add(trains, [pack_init(init)], self.limits.datagram, self.address)

    def _items(self, now: float) -> tuple[list[bytes], _Note | None]:
        """What the session has to say of itself; all of it counts as said."""
        items: list[bytes] = []
        acked = -1
        if (ack := self._arrivals.item(now)) is not None:
            items.append(ack)
            acked = self._arrivals.largest
        if not self._window_due:
            return items, _Note(acked, False) if items else None
        self._window_due = False
        self._granted = max(self._granted, self._incoming.read + self.limits.window)
        items.append(pack_window(self._granted, self.limits.datagrams))
        return items, _Note(acked, True)

    def _control(self, now: float) -> bytes:
        """A datagram of its own for what the session has to say."""
        items, note = self._items(now)
        if self._ping_due or (self._arrivals.crowded and not self._recovery.flying):
            self._ping_due = False
            items.append(PING_ITEM)
        elif note is not None and not note.window:
            return pack_data(self._recovery.number(), self.peer, items)
        sent = self._backlog.acked
        return pack_data(self._recovery.sent(now, 1, sent, 0, sent, note), self.peer, items)

    def _short(self, cut: Cut, now: float) -> bytes:
        """A datagram that is not full, or is the last: with whatever the session has to say, if it fits."""
        items: list[bytes] = []
        note: _Note | None = None
        said = self._window_due or self._arrivals.at is not None
        if said and self._each - cut.size >= self._arrivals.size + WINDOW_BYTES:
            items, note = self._items(now)
        stop = cut.offset + cut.size + cut.end
        number = self._recovery.sent(now, 1, cut.offset, cut.size, stop, note)
        items.append(pack_stream(cut.offset, cut.block[cut.at : cut.at + cut.size], cut.end))
        return pack_data(number, self.peer, items)

    def _stream(self, trains: list[Train], now: float) -> None:
        """Send of the stream what may leave (invariant 2)."""
        backlog, recovery = self._backlog, self._recovery
        datagram = self.limits.datagram
        self._paced = False
        while backlog.wants:
            room = min(
                -(-(self._controller.window - recovery.in_flight) // datagram), self._peer_datagrams - recovery.flying
            )
            if room <= 0:
                return
            rate = self._controller.pacing_rate
            most = self._most
            if rate:
                if now < self._leave:
                    self._paced = True
                    return
                most = min(most, max(int(rate * QUANTUM) // datagram, 2))
            before = recovery.in_flight
            parts = self._fill(min(room, most), now)
            if not parts:
                break
            if rate:
                self._leave = max(self._leave, now - SLACK) + (recovery.in_flight - before) / rate
            self._controller.on_sent(now, recovery.in_flight)
            self._add(trains, parts, datagram, self.address)
        if recovery.in_flight < self._controller.window:
            recovery.limit()

    def _fill(self, count: int, now: float) -> list[bytes]:
        """A train of at most *count* datagrams of the stream."""
        parts: list[bytes] = []
        each, recovery, backlog = self._each, self._recovery, self._backlog
        while count > 0:
            old = backlog.sent
            cut = backlog.cut(each, count)
            if cut is None:
                break
            if cut.offset < old:
                self.counters.retransmitted += max(-(-cut.size // each), 1)
                self.counters.retransmitted_bytes += cut.size
            full = cut.size // each
            if cut.end and full * each == cut.size and full:
                full -= 1  # the last one says that it is
            size = full * each
            if full:
                number = recovery.sent(now, full, cut.offset, each, cut.offset + size)
                parts.append(pack_train(number, self.peer, cut.offset, cut.block, cut.at, full, each))
                count -= full
            if size < cut.size or cut.end:
                rest = Cut(cut.offset + size, cut.block, cut.at + size, cut.size - size, cut.end)
                parts.append(self._short(rest, now))
                break
        return parts

    def _probe(self, trains: list[Train], now: float) -> None:
        """Nothing was acknowledged for too long: send something that must be (RFC 9002, 6.2.4)."""
        parts: list[bytes] = []
        first = self._recovery.first()
        at = first.offset if first is not None and first.stop > first.offset else self._backlog.acked
        while self._probes:
            self._probes -= 1
            self.counters.probes += 1
            cut = self._backlog.again(at, self._each)
            if cut is None:
                if not parts:
                    self._ping_due = True
                break
            at += cut.size + cut.end
            self.counters.retransmitted += 1
            self.counters.retransmitted_bytes += cut.size
            self._add(trains, [self._short(cut, now)], self.limits.datagram, self.address)
            parts = [b""]
        self._probes = 0

    def _send_elsewhere(self, trains: list[Train], now: float) -> None:
        for value, address in self._responses:
            at = self._backlog.acked
            number = self._recovery.sent(now, 1, at, 0, at)
            data = pack_data(number, self.peer, [pack_response(value)])
            self._add(trains, [data], self.limits.datagram, self.address if address is None else address)
        self._responses.clear()
        there = self._elsewhere
        if there is None or now < there.at or there.sent + CHALLENGE_BYTES > AMPLIFICATION * there.came:
            return
        there.at = now + self._recovery.pto
        there.sent += CHALLENGE_BYTES
        data = pack_data(self._recovery.number(), self.peer, [pack_challenge(there.value)])
        self._add(trains, [data], self.limits.datagram, there.address)

    # -- time

    def next_time(self) -> float | None:
        """When `datagrams` is to be called again, if nothing else happens before; None: never."""
        if self.state == CLOSED:
            return self._called if self._words is not None else None
        times = [self._heard + self.limits.idle]
        if self.state == LINGERING:
            times.append(self._linger)
        if self._init_at is not None:
            times.append(self._init_at)
        if not self.peer:
            return min(times)
        if self._window_due or self._ping_due or self._probes:
            return self._called
        if (at := self._recovery.next_time()) is not None:
            times.append(at)
        else:
            times.append(self._ping_time())
        if self._arrivals.at is not None:
            times.append(self._arrivals.at)
        if self._paced:
            times.append(self._leave)
        if (
            self._elsewhere is not None
            and self._elsewhere.sent + CHALLENGE_BYTES <= AMPLIFICATION * self._elsewhere.came
        ):
            times.append(self._elsewhere.at)
        return min(times)

    def _ping_time(self) -> float:
        return self._heard + self.limits.ping

    def _fire(self, now: float) -> None:
        """Do what is due."""
        late = now - self._called > GRACE
        self._called = now
        if self.state == CLOSED:
            return
        if now >= self._heard + self.limits.idle:
            if not late:
                text = f"nothing was heard of the peer for {self.limits.idle:g} s"
                self.close(TIMEOUT, text)
                return
            self._heard = now + GRACE - self.limits.idle
        if self.state == LINGERING and now >= self._linger:
            self.state = MOVES[self.state]["over"]
            return
        lost, probe = self._recovery.due(now)
        if lost:
            self._lose(lost, now)
        if probe:
            self._probes = 2
            self._back_off(now)
        elif self.peer and not self._recovery.flying and now >= self._ping_time():
            self._ping_due = True

    def _back_off(self, now: float) -> None:
        backoff = self._recovery.backoff
        if self.client and self.state == OPEN and backoff >= ASK_PTOS:
            self._asked = True
            self._init_at = now
        if backoff >= LAST_PTOS and self._incoming.ended and self._backlog.ended:
            self.close(DONE)
            self.error = None
