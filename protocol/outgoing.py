"""The outgoing direction of a session: what leaves when, what became of it, and what leaves again.

Here `Backlog` (which bytes), `Recovery` (which packets), a congestion controller and the pace (how many, when) meet,
and `Notices`, which goes along where there is room.
"""

from __future__ import annotations

from typing import NamedTuple

from .backlog import Backlog, Cut
from .congestion import CONTROLLERS, Controller
from .counters import Counters
from .limits import Limits
from .loose import LooseFrames
from .nearby import Nearby
from .notices import FIRST_DATAGRAMS, FIRST_WINDOW, Note, Notices
from .packets import (
    DATAGRAM_BYTES,
    HEAD_BYTES,
    OVERHEAD_BYTES,
    PING_ITEM,
    Ack,
    Buffer,
    Window,
    pack_challenge,
    pack_data,
    pack_response,
    pack_stream,
)
from .recovery import Recovery, Run
from .trains import pack_train
from .whereabouts import Whereabouts

#: The most of one train: what kernels take (UDP_MAX_SEGMENTS was 64 for long), and bytes.
TRAIN_DATAGRAMS = 64
TRAIN_BYTES = 64000
#: Bytes that are kept for any peer, however small its window.
LEAST_BUFFER = 256 << 10
#: Of pacing, in seconds: a train is what leaves in this time, and so much is made good of what a late timer missed.
QUANTUM = 0.001
SLACK = 0.004
#: What is in flight, in datagrams, from which on the peer, which acknowledges little, gets no new WINDOW, and no answer
#: of its own to an INIT.
MOST_FLYING = 4096


class Train(NamedTuple):
    """Datagrams of ``segment`` bytes each, the last one may be shorter, for ``address``."""

    data: Buffer
    segment: int
    address: object


class Outgoing:
    """What one session sends, once it is there.

    :param peer: the peer's token; 0 if it is not known yet.
    :ivar peer_datagrams: how many the peer's kernel holds.
    :ivar datagram: bytes of a full datagram, either way.
    :ivar leave: when the next train may leave.
    :ivar paced: there is something to send then.
    :ivar loose: frames beside the stream; None: there are none, and none are taken.
    :ivar probes: datagrams to send because nothing was acknowledged.
    """

    __slots__ = (
        "_each",
        "_limits",
        "_most",
        "_was_loose",
        "backlog",
        "controller",
        "counters",
        "datagram",
        "leave",
        "loose",
        "notices",
        "paced",
        "peer",
        "peer_datagrams",
        "probes",
        "recovery",
        "whereabouts",
    )

    def __init__(
        self, limits: Limits, now: float, peer: int, counters: Counters, notices: Notices, whereabouts: Whereabouts
    ) -> None:
        self._limits = limits
        self.peer_datagrams = FIRST_DATAGRAMS
        self.peer = peer
        self.counters = counters
        self.notices = notices
        self.whereabouts = whereabouts
        self.backlog = Backlog(limits.buffer, FIRST_WINDOW)
        self.recovery = Recovery(now)
        self.controller: Controller = CONTROLLERS[limits.controller](DATAGRAM_BYTES, now)
        self.loose: LooseFrames | None = None
        self._size(DATAGRAM_BYTES)
        self.leave = now
        self.paced = False
        self.probes = 0
        self._was_loose = False

    def _size(self, datagram: int) -> None:
        """*datagram* bytes are the longest datagram from now on."""
        self.datagram = datagram
        self._each = datagram - OVERHEAD_BYTES
        self._most = min(TRAIN_DATAGRAMS, TRAIN_BYTES // datagram) or 1
        self.controller.resize(datagram)
        self._size_buffer()
        if self.loose is not None:
            self.loose.resize(datagram - HEAD_BYTES)

    def _size_buffer(self) -> None:
        """Keep two windows of what is put and not acknowledged, as TCP's send buffers do: not the most there may be for
        a peer that acknowledges little or nothing."""
        self.backlog.most = min(self._limits.buffer, max(LEAST_BUFFER, 2 * self.controller.window))

    # -- what leaves

    def add(self, trains: list[Train], data: Buffer, address: object, segment: int = 0) -> None:
        """*data*, one datagram or several of *segment* bytes (0: full ones), leaves for *address*."""
        segment = segment or self.datagram
        self.counters.sent += -(-len(data) // segment)
        self.counters.sent_bytes += len(data)
        trains.append(Train(data, segment, address))

    def send(self, trains: list[Train], now: float) -> None:
        """All that may leave now (invariant 2 of `transport`), but for a CLOSE and an INIT."""
        whereabouts = self.whereabouts
        if whereabouts.there is not None or whereabouts.responses:
            self._elsewhere(trains, now)
        if self.probes:
            self._probe(trains, now)
        if self.recovery.flying < MOST_FLYING:
            self.notices.renew()
        self._stream(trains, now)
        if self.notices.due(now):
            self.add(trains, self._control(now), whereabouts.address)

    def _stream(self, trains: list[Train], now: float) -> None:
        """Send of the stream, and of what is beside it, what may leave. While both have something, they take turns.

        What is beside it gets half of the peer's buffer: who is late to read has datagrams there that count as lost,
        and so as gone, and what then finds no room is lost for good.
        """
        backlog, recovery = self.backlog, self.recovery
        datagram = self.datagram
        self.paced = False
        while backlog.wants or self._loose_waits:
            held = -(-self.peer_datagrams // 2) if self._loose_waits else self.peer_datagrams
            room = min(-(-(self.controller.window - recovery.in_flight) // datagram), held - recovery.flying)
            if room <= 0:
                return
            rate = self.controller.pacing_rate
            most = self._most
            if rate:
                # No longer than a train takes now: it may have been booked when the rate was a fraction of this one.
                self.leave = min(self.leave, now + max(QUANTUM, 2 * datagram / rate))
                if now < self.leave:
                    self.paced = True
                    return
                most = min(most, max(int(rate * QUANTUM) // datagram, 2))
            before = recovery.in_flight
            loose = self._loose_waits and not (backlog.wants and self._was_loose)
            self._was_loose = loose
            fill = self._fill_loose if loose else self._fill
            parts = fill(min(room, most), now)
            if not parts:
                if self._loose_waits:
                    continue
                break
            if rate:
                self.leave = max(self.leave, now - SLACK) + (recovery.in_flight - before) / rate
            self.controller.on_sent(now, recovery.in_flight)
            for train in _alike(parts) if loose else [parts]:
                data = train[0] if len(train) == 1 else b"".join(train)
                self.add(trains, data, self.whereabouts.address, len(train[0]) if loose else 0)
        if recovery.in_flight < self.controller.window:
            recovery.limit()

    def _fill(self, count: int, now: float) -> list[Buffer]:
        """A train of at most *count* datagrams of the stream."""
        parts: list[Buffer] = []
        each, recovery, backlog = self._each, self.recovery, self.backlog
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

    @property
    def _loose_waits(self) -> bool:
        return self.loose is not None and self.loose.waits

    def _fill_loose(self, count: int, now: float) -> list[Buffer]:
        """At most *count* datagrams of frames beside the stream."""
        assert self.loose is not None
        parts: list[Buffer] = []
        at = self.backlog.acked
        while self.loose.waits and len(parts) < count:
            items, frames = self.loose.datagram()
            size = sum(map(len, items)) + HEAD_BYTES - OVERHEAD_BYTES
            number = self.recovery.sent(now, 1, at, 0, at, frames, size)
            parts.append(pack_data(number, self.peer, items))
        return parts

    def _short(self, cut: Cut, now: float) -> bytes:
        """A datagram that is not full, or is the last: with whatever the session has to say, if it fits."""
        items: list[bytes] = []
        note: Note | None = None
        if self.notices.fit(self._each - cut.size, now):
            items, note = self.notices.items(now)
        stop = cut.offset + cut.size + cut.end
        number = self.recovery.sent(now, 1, cut.offset, cut.size, stop, note)
        items.append(pack_stream(cut.offset, cut.block[cut.at : cut.at + cut.size], cut.end))
        return pack_data(number, self.peer, items)

    def _control(self, now: float) -> bytes:
        """A datagram of its own for what the session has to say."""
        notices, recovery = self.notices, self.recovery
        items, note = notices.items(now)
        if notices.ping or (notices.arrivals.crowded and not recovery.flying):
            notices.ping = False
            items.append(PING_ITEM)
        elif note is not None and not note.window:
            return pack_data(recovery.number(), self.peer, items)
        sent = self.backlog.acked
        return pack_data(recovery.sent(now, 1, sent, 0, sent, note), self.peer, items)

    def _probe(self, trains: list[Train], now: float) -> None:
        """Nothing was acknowledged for too long: send something that must be (RFC 9002, 6.2.4): what the peer misses
        first, for it may have no room for what comes behind."""
        at = self.backlog.acked
        sent = False
        while self.probes:
            self.probes -= 1
            self.counters.probes += 1
            cut = self.backlog.again(at, self._each)
            if cut is None:
                if not sent:
                    self.notices.ping = True
                break
            at += cut.size + cut.end
            self.counters.retransmitted += 1
            self.counters.retransmitted_bytes += cut.size
            self.add(trains, self._short(cut, now), self.whereabouts.address)
            sent = True
        self.probes = 0

    def _elsewhere(self, trains: list[Train], now: float) -> None:
        """What is said of addresses, to where it belongs."""
        whereabouts, recovery = self.whereabouts, self.recovery
        for value, address in whereabouts.answers():  # who asks and hears nothing asks again
            data = pack_data(recovery.number(), self.peer, [pack_response(value)])
            self.add(trains, data, address)
        there = whereabouts.challenge(now, recovery.pto)
        if there is not None:
            data = pack_data(recovery.number(), self.peer, [pack_challenge(there.value)])
            self.add(trains, data, there.address)

    # -- what became of it

    def allow(self, window: Window) -> None:
        """The peer takes so much."""
        if window.limit >= self.backlog.limit:
            self.backlog.limit = window.limit
            self.peer_datagrams = min(window.datagrams, MOST_FLYING)  # each is kept in mind until it is acknowledged
            size = min(window.size, self.notices.size)
            if size != self.datagram:
                if size > self._limits.elsewhere:  # both take so much since both are on loopback
                    self.controller = Nearby(size)
                self._size(size)

    def acknowledged(self, ack: Ack, now: float) -> bool:
        """The peer has got packets; False: one of them was never sent."""
        if ack.ranges[-1][1] >= self.recovery.next:
            return False
        acked, lost, spurious, sample = self.recovery.acknowledged(ack.ranges, ack.delay, now)
        backlog = self.backlog
        self.landed(acked)
        for run in spurious:
            self.counters.spurious += run.end - run.first
            if run.stop > run.offset:
                backlog.acknowledge(run.offset, run.stop)
            if run.beside and self.loose is not None:
                self.loose.regain(run.note)
        if lost:
            self._lose(lost, now)
        if sample is not None:
            self.controller.on_ack(sample)
            self._size_buffer()
        return True

    def landed(self, runs: list[Run]) -> None:
        """The peer has what *runs* carried."""
        for run in runs:
            if run.stop > run.offset:
                self.backlog.acknowledge(run.offset, run.stop)
            if run.beside and self.loose is not None:
                self.loose.acknowledge(run.note)
            else:
                self.notices.heard(run.note)

    def _lose(self, lost: list[Run], now: float) -> None:
        wire = sum(run.wire for run in lost)
        self.counters.lost += sum(run.end - run.first for run in lost)
        self.counters.lost_bytes += wire
        self._give_up(lost)
        self.controller.on_loss(now, wire, lost[-1].time, self.recovery.persistent(lost))

    def _give_up(self, runs: list[Run]) -> None:
        """What *runs* carried is to be sent again, but for what may be lost."""
        for run in runs:
            if run.stop > run.offset:
                self.backlog.lose(run.offset, run.stop)
            if run.beside and self.loose is not None:
                self.loose.lose(run.note)
            else:
                self.notices.lost(run.note)

    def due(self, now: float) -> bool:
        """Declare lost what is by now: whether nothing was acknowledged for so long that the peer is to be probed."""
        lost, probe = self.recovery.due(now)
        if lost:
            self._lose(lost, now)
        if probe:
            self.probes = 2
        return probe

    def move(self, now: float) -> None:
        """The peer is at another address: all that was known of the path to it is forgotten (RFC 9000, 9.4)."""
        self.counters.moves += 1
        self._give_up(self.recovery.give_up_all())
        size = min(self.datagram, self._limits.elsewhere)
        self.controller = CONTROLLERS[self._limits.controller](size, now)
        self._size(size)
        self.leave = now
        self.notices.size = self._limits.elsewhere
        self.notices.window = True


def _alike(datagrams: list[Buffer]) -> list[list[Buffer]]:
    """*datagrams* in trains: of one length each, but for a shorter one at the end."""
    trains: list[list[Buffer]] = []
    for datagram in datagrams:
        if trains and len(trains[-1][-1]) == len(trains[-1][0]) >= len(datagram):
            trains[-1].append(datagram)
        else:
            trains.append([datagram])
    return trains
