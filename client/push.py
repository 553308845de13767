"""The pushing end: a Sender whose items go to a named endpoint of a broker.

All Senders of one connection on one endpoint share one `PushState`: one channel, its numbers, its credit. An item goes

    send -> pending (exact bytes, packed together later) -> batch (packed) -> one frame -> the link's output

and nothing else is on its way. The fast path of `PushSender.send` handles exact bytes while ``slack`` lasts: a
countdown in which each item costs its length and `WEIGHT`. It runs out where something has to be looked at: credit, a
full run or batch, or the clock, which is so read every 64th small item. Other small items are packed at once, for they
may change or be nothing that can be packed, and then go the same way while ``room`` lasts, the same countdown, but each
looks at the clock (`PushState.push`). Everything else makes a message, and decides anew what may go on.

Invariants:
1. What ``send`` has taken is in ``pending``, ``batch`` or the link's output, in this order from new to old, and its
   number is its place.
2. ``slack`` and ``room`` never allow more than credit and the batch limit do, and are positive only while the state is
   in the link's ``dirty``, so that what is taken so leaves at the tick's edge. All that is in ``pending`` is packed
   already, or nothing of it is: one of the two is not above 0, and each that is makes ``pending`` its own.
3. While messages of the batch have options (``shared``), its size has what these take, and both are 0.
4. Who waits in ``senders`` has its packed item in its slot. It is taken there by whoever brings credit, in order; a
   Timeout before that means that it was not sent.
5. While the link is down, and until all that was taken before is sent again, ``replay`` is there, and every frame goes
   through it. ``quota.n`` counts those frames already, and ``quota.b`` their bytes.
6. ``sent`` and then ``replay`` have the frames of all numbers from ``_confirmed`` on, if ``keeps``, and not ``loose``.
7. If ``loose``, frames leave beside the stream and may be lost (`beside`); all else is as it is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from vanilla.channel import Channel
from vanilla.exception import Closed, ConnectionLost, Halt, Rejected, Timeout
from vanilla.protocol.connection import Event
from vanilla.protocol.credit import Quota
from vanilla.protocol.errors import REJECTIONS, ProtocolError
from vanilla.protocol.frames import (
    ACK,
    COUNTED_BYTES,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    NACK,
    SENT,
    WANT,
    Buffer,
    pack_control,
    pack_head,
)

from . import beside
from .batch import BATCH_BYTES, RUN_BYTES, SMALL_BYTES, Batch, Message, make_message, pack_item, packed_message
from .lists import MEDIUM_ITEMS, ListPacker, medium
from .packing import LARGE_BYTES, MEDIUM_BYTES, MEDIUM_HEAD_BYTES, medium_parts, pack_run
from .rejected import TooBig, refusal
from .replay import Frame, Replay
from .said import OPTIONS, PLAIN, Shared, Termed, make_terms

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .link import Link

log = logging.getLogger("vanilla.client")

#: A batch leaves when it is so old, in seconds, if it is not full before.
BATCH_AGE = 0.001
#: What an item costs of ``slack`` beside its length.
WEIGHT = RUN_BYTES // 64
#: What msgpack puts before a bytes item, at most.
BIN_HEAD_BYTES = 5
#: Where a queue refuses what it has no room for, messages that are sent again ask anew after so many ms.
FULL_MS = 100
#: Frames that are confirmed stay up to so many bytes, for the sake of their memory: more than is on its way mostly.
SPENT_BYTES = 2 << 20
#: The code of a NACK that says what is lost.
LOST = "LOST"
#: After so many ms without a send credit goes back.
IDLE_MS = 1_000

monotonic = time.monotonic


class PushState(Channel):
    """What the Senders of one endpoint share.

    ``senders`` holds who waits for credit or output, ``syncs`` who waits for confirms: (number, task) in order of
    number.
    """

    __slots__ = (
        "_confirmed",
        "_counted",
        "_counted_b",
        "_epoch",
        "_given",
        "_idle",
        "_lists",
        "_mark",
        "_most_b",
        "_most_n",
        "_owed",
        "_packed",
        "_refusal",
        "_rest",
        "_since",
        "_spent",
        "_spent_b",
        "_want",
        "batch",
        "id",
        "link",
        "loose",
        "lost",
        "name",
        "options",
        "pending",
        "quota",
        "replay",
        "room",
        "sent",
        "shared",
        "slack",
        "syncs",
        "users",
    )

    #: What it opens.
    role = "push"
    #: Is the other end to be closed with it?
    final = False
    #: Does it keep what is not confirmed, to send it again on the next connection?
    keeps = True
    #: Does it take items while the link is down?
    stocks = True

    def __init__(self, link: Link, name: str, options: dict[str, Any] | None = None) -> None:
        super().__init__(link.hub, -1, f"{self.role} to {name!r}")
        #: What was asked of the endpoint.
        self.options = options or {}
        self.link = link
        self.name = name
        #: What it sends may be lost, and how many messages were.
        self.loose = link.loose and self.role in ("push", "publish")
        self.lost = 0
        #: Handles that are open.
        self.users = 0
        self.slack = self.room = 0
        self.pending: list[bytes] = []
        #: Is what is in there packed?
        self._packed = False
        self.batch = Batch()
        self.shared: Shared | None = None
        self.quota = Quota(0)
        self.syncs: deque[Any] = deque()
        self._confirmed = 0
        self._rest = 0
        self._epoch = 0
        self._want = False
        #: When the batch was begun, or a bit before that.
        self._since = 0.0
        #: What ``slack`` or ``room`` was when it was last worked out, how much is in ``pending`` since before that, and
        #: its bytes at most.
        self._given = self._counted = self._counted_b = 0
        #: What ``pending`` may hold, when ``slack`` was last worked out anew.
        self._most_n = self._most_b = 0
        #: The next number when it was last looked whether anything is sent.
        self._mark = -1
        self._lists = ListPacker()
        self._idle: Timer | None = None
        #: Why this end has ended; or a `Rejected` that is to be raised once.
        self._refusal: tuple[str, str] | Rejected | None = None
        #: Frames that are not confirmed, as tuples of what `Frame` has.
        self.sent: deque[Any] = deque()
        #: The last that were confirmed, and their bytes. They are of no use; but were the memory of many frames free at
        #: once, glibc would give it back, and fault it in again for the next ones. So one goes when one comes.
        self._spent: deque[Any] = deque()
        self._spent_b = 0
        self.replay: Replay | None = None
        #: What is to be told to who syncs next.
        self._owed: Exception | None = None
        self.id = self._open()
        if link.down:
            self.suspend()

    def _open(self) -> int:
        """Ask for the channel: its number, or 0 to do so later."""
        return self.link.open(self.role, self.name, self, fields={"options": self.options} if self.options else None)

    # -- sending

    def push(self, item: Any, timeout: float) -> None:
        """All of `send` that is not its fast path."""
        packed = item.__class__ is not bytes
        if packed:
            item = pack_item(item, self.link)
        if self._takes(len(item), packed):
            self.pending.append(item)
            return
        self.seal()
        self._put(packed_message(item, self.link) if packed else make_message(item, self.link), timeout)

    def push_with(self, item: Any, timeout: float, options: dict[str, Any]) -> None:
        """`push`, of a message that has options.

        :param options: what `make_terms` takes.
        """
        if self.role != "push":
            raise TypeError(f"only a work queue's messages have options, this is a {self.kind}: {', '.join(options)}")
        self.seal()
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"send() has no option {name!r}; there are {', '.join(OPTIONS)}")
        terms = make_terms(self.link.depth, **options)
        self._put(make_message(item, self.link) if terms == PLAIN else Termed(item, terms, self.link), timeout)

    def _put(self, message: Message | Termed, timeout: float) -> None:
        """Take *message* when there is room for it."""
        if self.loose and message.size > beside.MESSAGE_LIMIT:
            raise TooBig(
                f"a message of {message.size} bytes is too big to be lost: the limit is {beside.MESSAGE_LIMIT}"
            )
        self.check()
        if self.senders or not self._fits_now(message.size):
            self._wait(message, timeout)
            return
        self._add(message)
        self._decide()

    def take_run(self, items: Sequence[Any], start: int) -> int:
        """Take as many of *items* from index *start* on as fit now and make a run: how many; 0 if one alone may.

        One that cannot be sent is left to `push`, which says so.
        """
        self.seal()
        self.check()
        if self.senders or self.replay is not None or self._full:
            return 0
        if self.shared is not None:
            self._frame()
        end = min(start + self.quota.left_n - self.batch.count, len(items))
        most_b = min(self.quota.left_b - self.batch.size, self._frame_limit - COUNTED_BYTES)
        chosen = medium(items, start, end, most_b)
        if chosen:
            self._add_medium(chosen)
            self._decide()
            return len(chosen)
        packed, count = self._lists.pack(items, start, end, most_b, self.link.depth)
        if packed:
            run = b"".join(packed)
            if self.batch.size + len(run) + COUNTED_BYTES > self._frame_limit:
                self._frame()
            self.batch.add_run(run, count)
            self._decide()
        return count

    def _add_medium(self, items: Sequence[bytes]) -> None:
        size = sum(map(len, items)) + len(items) * MEDIUM_HEAD_BYTES
        if self.batch.size + size + COUNTED_BYTES > self._frame_limit:
            self._frame()
        self.batch.add_parts(medium_parts(items), size, len(items))

    @property
    def _frame_limit(self) -> int:
        """The longest frame of several messages."""
        limit = self.link.frame_limit
        return min(limit, beside.FRAME_LIMIT) if self.loose else limit

    @property
    def _full(self) -> bool:
        """Does so much wait to leave that no more is to be taken?"""
        link = self.link
        return link.full or (self.loose and link.beside is not None and link.beside.full)

    def _fits(self, size: int) -> bool:
        quota, batch, link = self.quota, self.batch, self.link
        if link.full or (self.loose and self._full):
            link.crowded = True
            return False
        if batch.count < quota.limit_n - quota.n and batch.size + size <= quota.limit_b - quota.b:
            return True
        return link.down and self.stocks

    def _fits_now(self, size: int) -> bool:
        """`_fits`, once the socket was looked at: a busy sender reads no credit before it needs it."""
        if self._fits(size):
            return True
        self._frame()
        self.link.poll()
        self.check()
        return not self.senders and self._fits(size)

    def _add(self, message: Message | Termed) -> None:
        if self.shared is not None or isinstance(message, Termed):
            self._add_with(message)
            return
        limit = self._frame_limit if self.loose else self.link.frame_limit
        if self.batch.size + message.size + COUNTED_BYTES > limit:
            self._frame()
        self.batch.add(message)

    def _add_with(self, message: Message | Termed) -> None:
        """`_add`, where messages have options. Those that share the same go into one frame."""
        terms, body = (message.terms, message.body) if isinstance(message, Termed) else (PLAIN, message.size)
        batch, shared = self.batch, self.shared
        more = terms.own if shared else terms.size + PLAIN.own * batch.count
        most = self._frame_limit - COUNTED_BYTES
        if not self.link.down:  # then there is no credit, and what there will be cuts the frame
            most = min(most, self.quota.left_b)
        if terms.shared != (shared.pairs if shared else PLAIN.shared) or batch.size + body + more > most:
            self._frame()
            shared = None
        if terms is not PLAIN or shared:
            before = shared.cost if shared else 0
            if shared is None:
                shared = self.shared = Shared(terms, batch.count)
            shared.add(terms)
            batch.size += shared.cost - before
        batch.add(Message(message.parts, body))

    def _decide(self, alone: bool = True) -> None:
        """Shall the batch leave now? If not, how far may the fast path go?

        :param alone: nothing is known to follow.
        """
        now = monotonic()
        if (alone and self.link.fresh) or self.batch.size >= BATCH_BYTES or now - self._since > BATCH_AGE:
            self._flush()
            self._since = now
            if self.halt is not None:  # to write has found the broker gone: nothing more is taken
                return
        self.link.dirty[self] = None
        self._packed, self.room = False, 0
        self.slack = self._given = self._slack()

    def _slack(self) -> int:
        """What credit, the run, the batch and the output allow beyond what was taken; 64 small items at a time."""
        if self.replay is not None or self._full or self.shared is not None:
            self._most_n = self._most_b = 0
            return 0
        quota, batch = self.quota, self.batch
        self._most_n = most_n = quota.limit_n - quota.n - batch.count
        most_b = min(BATCH_BYTES, self._frame_limit - COUNTED_BYTES, quota.limit_b - quota.b) - batch.size
        self._most_b = most_b = min(most_b, RUN_BYTES)
        return min(most_b - self._counted_b, (most_n - self._counted) * WEIGHT)

    def _takes(self, size: int, packed: bool) -> bool:
        """May an item of *size* bytes, *packed* or not, go into ``pending``?"""
        if size >= (SMALL_BYTES if packed else LARGE_BYTES):
            return False
        room = self.room - size - WEIGHT
        if packed and room > 0 and monotonic() - self._since < BATCH_AGE:  # to pack it has taken longer than a look
            self.room = room
            return True
        return self._given > 0 and self._goes_on(size, packed)

    def _goes_on(self, size: int, packed: bool) -> bool:
        """The countdown has run out, or is that of the other kind: may an item of *size* bytes, *packed* or not, go
        into ``pending`` and others follow, or is there something to do?"""
        if monotonic() - self._since > BATCH_AGE:
            return False
        given = 0
        if packed is self._packed:
            count, used = len(self.pending), self._given - self.slack - self.room
            size_b = self._counted_b + used - (count - self._counted) * (WEIGHT - BIN_HEAD_BYTES)
            self._counted, self._counted_b = count, size_b
            given = min(self._most_b - size_b, (self._most_n - count) * WEIGHT)
        if given < size + BIN_HEAD_BYTES:
            self._close_run()
            given = self._slack()
            if given < size + BIN_HEAD_BYTES:
                return False
        self._given, self._packed = given, packed
        # It may be below 0 now: then the next one comes here, too. Frames that may be lost have room for little more.
        left = given - size - WEIGHT
        self.slack, self.room = (0, left) if packed else (left, 0)
        return True

    def _close_run(self) -> None:
        self._counted = self._counted_b = 0
        pending = self.pending
        if not pending:
            return
        count = len(pending)
        if self._packed:
            self.batch.add_run(b"".join(pending), count)
        elif count <= MEDIUM_ITEMS and sum(map(len, pending)) >= count * MEDIUM_BYTES:
            self._add_medium(pending)
        else:
            self.batch.add_run(pack_run(pending), count)
        pending.clear()

    def seal(self) -> None:
        """Pack what the fast path has taken."""
        self.slack = self.room = self._given = 0
        self._close_run()

    def _frame(self) -> None:
        """Move the batch into the link's output, as one frame."""
        count, size = self.batch.count, self.batch.size
        if count:
            self._put_frame(count, size, self.batch.take())

    def _put_frame(self, count: int, size: int, parts: Sequence[Buffer]) -> None:
        """Send *count* messages as one frame."""
        if self.shared is None:
            head = self._head(count, size)
        else:
            head, size = self._head_with(self.shared, count, size - self.shared.cost)
            self.shared = None
        frame = (b"".join((head, *parts)),) if size < SMALL_BYTES else (head, *parts)
        quota, link = self.quota, self.link
        quota.n += count
        quota.b += size
        if self.replay is not None:
            self._stock(count, size, frame)
            return
        self._write(frame, quota.b - size, count)
        if self.keeps and not self.loose:
            self.sent.append((quota.n, count, size, frame, link.broker))
        self._want = False  # what waits is asked for anew, behind these
        self._mark = -1
        if self._idle is None:
            self._idle = self.hub.after(IDLE_MS, self._look_idle)

    def _write(self, frame: Sequence[Buffer], position: int, count: int) -> None:
        """*frame* leaves: *count* messages, behind *position* bytes of others."""
        link = self.link
        if self.loose:
            assert link.beside is not None
            link.beside.put(self, frame, position, count)
        else:
            link.put(*frame)

    def _head(self, count: int, size: int) -> bytes:
        """What stands before *count* messages of *size* bytes."""
        return pack_head(DATA, self.id, self.quota.n, count, size)

    def _head_with(self, shared: Shared, count: int, size: int) -> tuple[bytes, int]:
        """`_head` with options, and what the frame takes of the credit: they count."""
        options = shared.pack()
        size += len(options)
        return pack_head(DATA_OPTIONS, self.id, self.quota.n, count + 1, size) + options, size

    def _flush(self) -> None:
        self._frame()
        self.link.flush()

    def flush(self) -> None:
        """Send what was taken, now."""
        self.seal()
        self._flush()

    def emit(self) -> bool:
        self.seal()
        self._frame()
        return False

    # -- waiting

    def _wait(self, message: Message | Termed, timeout: float) -> None:
        if timeout == 0:
            self._poll(message)
            return
        me = self.hub.me()
        me.value = message
        self.senders.append(me)
        if len(self.senders) == 1:
            self._ask(message.size)
        self.hub.park(me, self, timeout)

    def _poll(self, message: Message | Termed) -> None:
        """Ask, and look at the socket, without a turn of the loop: whoever polls may never give it one."""
        self._frame()
        self._ask(message.size)
        if not self.senders and not self._fits(message.size):
            self.link.poll_now()
            self.check()
        if self.senders or not self._fits(message.size):
            raise Timeout(f"there is no room: send on a {self.kind}")
        self._add(message)
        self._decide()

    def _ask(self, size: int) -> None:
        """Tell the broker what waits for credit, unless it has been told."""
        quota = self.quota
        if self.link.down or self._want or (quota.left_n > 0 and size <= quota.left_b):
            return
        self._want = True
        waiting = [waiter.value for waiter in self.senders if waiter.selection is None]
        fields = {"n": max(len(waiting), 1), "b": max(size, min(sum(message.size for message in waiting), BATCH_BYTES))}
        self.link.put(pack_control(WANT, self.id, 0, fields))
        self.link.flush()

    def _serve(self) -> None:
        """Take the items of those who wait, in order, as far as credit and output go."""
        if self.replay is not None and not self._resend():
            return
        while self.senders:
            waiter = self.senders[0]
            size = waiter.value.size if waiter.selection is None else 1
            if not self._fits(size):
                self._frame()  # the question is about what waits behind these
                self._ask(size)
                break
            self.senders.popleft()
            if waiter.selection is None:
                self._add(waiter.value)
                waiter.value = None
                self.hub.ready.append(waiter)
            else:
                waiter.selection.fire(waiter, None)
        if self.batch.count:
            self.link.dirty[self] = None
            self.hub.at_edge(self.link.edge)

    def has_room(self) -> bool:
        self.check()
        self.seal()
        return not self.senders and self._fits(1)

    def watch_send(self, case: Any) -> None:
        if self.has_room():  # credit has come since it was tried
            case.selection.fire(case, None)
            return
        self.senders.append(case)
        self._ask(1)

    def room_by_poll(self) -> bool:
        """`has_room`, once the broker was asked and the socket was looked at."""
        if self.has_room():
            return True
        self._frame()
        self._ask(1)
        return not self.senders and self._fits_now(1)

    def drained(self) -> None:
        self._serve()

    # -- frames

    def _credit(self, event: Event) -> None:
        fields = event.payload
        if fields.get("epoch", 0) < self._epoch:
            return  # from before something was given back
        asked, self._want = self._want, False
        self.quota.raise_to(fields["n"], fields["b"])
        self._serve()
        if asked and self._idle is None and self.halt is None:  # who has asked for it may have given up
            self._idle = self.hub.after(IDLE_MS, self._look_idle)

    def _ack(self, event: Event) -> None:
        ranges = event.payload["r"]
        self._known(ranges[-2] + ranges[-1])

    def _known(self, confirmed: int) -> None:
        """The broker has said of all numbers below *confirmed* what it has."""
        if confirmed > self.quota.n:
            raise ProtocolError("BAD_SEQUENCE", f"message {confirmed - 1} is confirmed and was never sent")
        self._confirm(confirmed)

    def _confirm(self, confirmed: int) -> None:
        """The broker has all numbers below *confirmed*."""
        sent = self.sent
        spent = self._spent
        while sent and sent[0][0] <= confirmed:
            spent.append(sent.popleft())
            self._spent_b += spent[-1][2]
        while self._spent_b > SPENT_BYTES:
            self._spent_b -= spent.popleft()[2]
        self._confirmed = max(self._confirmed, confirmed)
        while self.syncs and self.syncs[0].value <= self._confirmed:
            self.hub.ready.append(self.syncs.popleft())
        if not self.users:
            self.leave()

    def _nack(self, event: Event) -> None:
        """What waits gets no credit, and is not to wait for any; but what was taken already has to."""
        if event.payload.get("code") == LOST:
            self._miss(event.payload["r"])
            return
        if self.replay is not None:
            self.hub.after(FULL_MS, self._ask_later)
            return
        if event.payload["r"][0] != self.quota.n and not self.loose:
            return  # it is about what has left since; for what waits now there is a question of its own
        self._want = False
        code = event.payload.get("code", "FULL")
        waiting = list(self.senders)
        self.senders.clear()
        for waiter in waiting:
            if waiter.selection is None:
                waiter.value = None
                self.fail(waiter, Rejected(code, f"{self.name!r}: {REJECTIONS.get(code, 'it takes no more')}"))
            else:
                waiter.selection.fire(waiter, None)  # to send would not wait: it would fail

    # -- what may be lost

    def _miss(self, flat: list[int]) -> None:
        """Messages are lost, which counts as an answer, too."""
        self.lost += sum(flat[1::2])
        self._known(flat[-2] + flat[-1])

    def account(self) -> None:
        """Nothing is on its way any more, and some of what was is lost: what the broker does not have by now it is not
        to wait for."""
        replay = self.replay
        n, b = (self.quota.n, self.quota.b) if replay is None else (replay.n, replay.b)
        if self.halt is None and n > self._confirmed:
            self.link.put(pack_control(SENT, self.id, n, {"b": b}))

    frames: dict[int, Callable[[PushState, Event], None]] = {CREDIT: _credit, ACK: _ack, NACK: _nack}

    # -- credit that is not used

    def _look_idle(self) -> None:
        """Nothing sent for a while: others may need the room that is promised here, so all of it goes back.

        What the broker gives again unasked, as to a new producer, is kept: the next send is then without a wait.
        """
        self._idle = None
        if self.halt is not None:
            return
        quota = self.quota
        if self._mark != quota.n or self.senders or self.pending or self.batch.count or self.replay is not None:
            self._mark = quota.n
            self._idle = self.hub.after(IDLE_MS, self._look_idle)
            return
        self.seal()
        self._forget_spent()
        self._epoch += 1
        self.link.put(pack_control(WANT, self.id, 0, {"limit": [quota.n, quota.b], "epoch": self._epoch}))
        quota.lower_to(quota.n, quota.b)

    def _forget_spent(self) -> None:
        self._spent.clear()
        self._spent_b = 0

    # -- confirms

    @property
    def unconfirmed(self) -> int:
        """Taken, and not known to have reached the broker."""
        if self.halt is not None:
            return self._rest
        return self.quota.n + self.batch.count + len(self.pending) - self._confirmed

    def sync(self, timeout: float) -> None:
        """Wait until all that was sent so far is confirmed."""
        self.flush()
        if timeout == 0:
            self.link.poll_now()
        self.check()
        self._tell_owed()
        target = self.quota.n
        if target <= self._confirmed:
            return
        me = self.hub.me()
        me.value = target
        self.syncs.append(me)
        self.hub.park(me, self, timeout)

    # -- a lost connection, and the next

    def suspend(self) -> None:
        self.seal()
        quota, replay = self.quota, self.replay
        left = list(replay.frames) if replay is not None else []
        n = replay.n if replay is not None else quota.n
        if self.keeps and not self.loose:
            left[:0] = map(Frame._make, self.sent)
            # Of the first a part may be confirmed: it comes whole, and the broker passes over what it has.
            n = left[0].end - left[0].count if left else self._confirmed
        self.sent.clear()
        self.link.out.unsent += sum(frame.size for frame in left if frame.broker is None)
        self.replay = Replay(left, n)
        quota.limit_n, quota.limit_b, quota.b = n, 0, self.replay.size
        self._want = False
        self._epoch = 0
        self._frame()
        if n > self._confirmed:
            self._lose_sent(n)

    def _lose_sent(self, n: int) -> None:
        """What has left, of numbers below *n*, and is not confirmed, is not sent again: it may have arrived."""
        count, self._confirmed = n - self._confirmed, n
        if self.loose:
            self.lost += count
            while self.syncs and self.syncs[0].value <= n:
                self.hub.ready.append(self.syncs.popleft())
            return
        text = f"the connection was lost; of what was sent last on this {self.kind}, {count} may not have arrived"
        if not self._warn(ConnectionLost, text):
            self._owed = ConnectionLost(text)

    def _warn(self, kind: Callable[..., Exception], *what: str) -> bool:
        """Tell who waits for confirms: did anybody?"""
        text = str(kind(*what))
        log.warning("%s: %s", self.link.url, text)
        self.link.notify("error", text)
        told = bool(self.syncs)
        while self.syncs:
            self.fail(self.syncs.popleft(), kind(*what))
        return told

    def _tell_owed(self) -> None:
        error, self._owed = self._owed, None
        if error is not None:
            raise error

    def _stock(self, count: int, size: int, frame: tuple[Buffer, ...]) -> None:
        """A frame that has to wait its turn."""
        assert self.replay is not None
        self.replay.add(Frame(self.quota.n, count, size, frame, None))
        if self.link.down:
            self.link.out.unsent += size

    def reopen(self) -> None:
        replay = self.replay
        assert replay is not None
        replay.begin()
        self.seal()
        self._frame()
        self.link.reopen(self, replay.n, self.keeps and not self.loose and replay.was_sent_to(self.link.broker))
        for waiter in [waiter for waiter in self.senders if waiter.selection is None]:
            if self._is_too_big(waiter.value.size):
                self.senders.remove(waiter)
                self.fail(waiter, self._too_big(waiter.value.size))
        self._serve()

    def _is_too_big(self, size: int) -> bool:
        """Was it packed for another broker, which took more than this one?"""
        return size > self.link.frame_limit - COUNTED_BYTES

    def _too_big(self, size: int) -> TooBig:
        return TooBig(f"{size} bytes, which another broker would have taken, are too big for this one: {self.kind}")

    def opened(self, first: int) -> None:
        if self.replay is not None and first > self.replay.n:
            self.quota.b -= self.replay.skip(first, self.id)
            self._confirm(first)

    def _resend(self) -> bool:
        """Send again what may be lost, and then what was taken since, as far as credit and output go: was that all?"""
        replay, link = self.replay, self.link
        assert replay is not None
        if link.down:
            return self.stocks
        quota = self.quota
        while replay.frames:
            if self._full:
                link.crowded = True
                return False
            frame = replay.take(quota.limit_n, quota.limit_b, link.frame_limit, self.id, link.broker)
            if frame is None:
                self._ask_again(replay)
                return False
            self._write(frame.parts, replay.b - frame.size, frame.count)
            self._want = False
            if self.keeps and not self.loose:
                self.sent.append(frame)
        self.replay = None
        quota.b = replay.b  # marks and cuts have made the options longer
        return True

    def _ask_again(self, replay: Replay) -> None:
        """Ask for the credit that is missing."""
        size = replay.first_size(self.id)
        if replay.never_fits(self.link.frame_limit, self.id):
            self.refused("TOO_BIG", f"a message of {size} bytes, which another broker took, is too big for this one")
        elif not self._want:
            self._want = True
            count = replay.frames[-1].end - replay.n
            self.link.put(pack_control(WANT, self.id, 0, {"n": count, "b": max(size, min(replay.size, BATCH_BYTES))}))
            self.hub.at_edge(self.link.edge)

    def _ask_later(self) -> None:
        if self.replay is not None and not self.link.down:
            self._want = False
            self._serve()

    def _forgotten(self, text: str) -> None:
        """The broker cannot say what it has. What is new goes on, on another channel."""
        replay = self.replay
        assert replay is not None
        count = replay.drop_sent()
        quota = self.quota
        quota.limit_n, quota.limit_b, quota.b = replay.n, 0, replay.size
        self._confirmed = replay.n
        self._want = False
        self.id = self.link.exchange(self, replay.n)
        replay.readdress(self.id)
        what = "UNKNOWN_PRODUCER", f"{text}: {count} messages may have arrived or not"
        if not self._warn(Rejected, *what):
            self._refusal = Rejected(*what)
        self._serve()
        if not self.users:
            self.leave()

    # -- the end

    def check(self) -> None:
        self.link.check()
        if self._refusal is not None:
            raise self._why_refused()
        if self.halt is not None:
            raise self.halt(f"this {self.kind} was closed")

    def _why_refused(self) -> Exception:
        why = self._refusal
        if isinstance(why, Rejected):
            self._refusal = None
            return why
        assert why is not None
        return refusal(*why)

    def refused(self, code: str, text: str) -> None:
        if code == "UNKNOWN_PRODUCER" and self.replay is not None:
            self._forgotten(text)
            return
        self._refusal = code, text
        self._end(lambda: refusal(code, text))
        self.link.close_channel(self)

    def lose(self) -> None:
        self._end(self.link.error)

    def _end(self, error: Callable[[], Exception]) -> None:
        """Nothing goes out any more: wake everybody."""
        self._rest = self.unconfirmed
        self.halt = Closed
        if self.link.beside is not None:
            self.link.beside.forget(self)
        self.slack = self.room = self._given = self._counted = self._counted_b = 0
        self.pending.clear()
        self.batch.clear()
        self.sent.clear()
        self._forget_spent()
        self.replay = None
        self.shared = None
        if self._idle is not None:
            self._idle.cancel()
        for queue in self.senders, self.syncs:
            while queue:
                self.fail(queue.popleft(), error())
        self.link.call_closers(self)

    def leave(self) -> None:
        """The last handle was dropped: close as soon as all is confirmed."""
        if self.halt is None:
            self.flush()
            if not self.unconfirmed:
                self.close()

    def close(self, halt: type[Halt] = Closed) -> None:
        """The last handle is closed: what was sent is on its way."""
        if self.halt is None:
            self.flush()
            if self.loose and not self.link.down:
                self.account()  # what is still on its way would be nobody's
            self.link.close_channel(self, end=self.final)
            self._end(lambda: halt(f"this {self.kind} was closed"))

    def forget(self, waiter: Any) -> bool:
        for queue in self.senders, self.syncs:
            try:
                queue.remove(waiter)
            except ValueError:
                continue
            self._serve()  # the next in line may need less
            return True
        return False

    def describe(self, waiter: Any) -> str:
        return f"{'sync' if waiter in self.syncs else 'send'} on a {self.kind}"
