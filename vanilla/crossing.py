"""A pipe between threads: `h.thread.pipe`.

Its Recver is a hub's, as every Recver is. Its Sender is anybody's: in a task it waits as a task does, in a thread
without a Hub it blocks the thread. Two halves, because what is cheap for the one is unsafe for the other: `Crossing` is
the state of the Recver and the hub's own, but for what the invariants name; `Entrance` is that of the Sender.

A send leaves its item in ``inbox`` and rings the hub's bell only if somebody waits for it. So a stream of items costs a
wake-up when the receiver has run dry, and else nothing: receiving takes all of ``inbox`` at once, and then goes the
way of any channel.

Invariants (all but 2 and 5 hold whenever nobody is inside of `LOCK`):
1. ``inbox``, ``senders``, ``size``, ``halt``, ``outer`` and ``wanted`` are changed under `LOCK`; everything else, and
   the ends of the hub's tasks in it, by the hub's thread. ``buffer`` only shrinks outside of `LOCK`.
2. ``recvers`` is empty or ``buffer`` is: as in `channel`, who waits first is served first.
3. ``inbox`` and ``buffer`` together hold at most ``size`` items. What waits in ``senders`` is in line behind them.
   (One more is possible if the garbage collector runs somebody's ``__del__`` that sends, in the middle of a send; and
   for the error at the end of a thread.)
4. If ``recvers`` is not empty, then ``wanted`` is set, or the bell has been rung for `arrive`, or the hub's thread is
   about to do one of both.
5. Who was taken out of ``senders`` is told so, once (`settle`), and in its own thread (`deliver`).
6. Once ``halt`` is set ``size`` is -1, nobody is in ``senders``, and nothing more comes into ``inbox``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any, Callable

from .bell import LOCK, Bell
from .channel import Channel
from .core import hub_here
from .exception import Abandoned, Closed, Halt, Timeout
from .message import Pair, Recver, Sender
from .selection import EMPTY, Case
from .timers import INFINITY, seconds

if TYPE_CHECKING:
    from .core import Hub

get_ident = threading.get_ident

#: What a Recver finds in the place of the first sender: no item can be had from it without the lock.
_NO_TASK = type("_NoTask", (), {"selection": True})()


class _Queue(deque[Any]):
    """``Crossing.senders``. A Recver may ask whether it is empty, and then tells its state to `admit`; whoever looks
    for a sender's item finds none, because another thread may take it away in the same moment."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return _NO_TASK

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Crossing(Channel):
    """The state of the Recver.

    :param bell: of the hub that receives.
    :param size: items that it holds.
    """

    __slots__ = ("bell", "inbox", "live", "outer", "size", "wanted")

    def __init__(self, bell: Bell, size: int) -> None:
        super().__init__(bell.hub, -1, "thread pipe")
        self.bell = bell
        self.size = size
        #: Sent, and not moved to ``buffer``.
        self.inbox: deque[Any] = deque()
        self.senders: deque[_Waiting] = _Queue()
        #: Does the next send have to ring?
        self.wanted = False
        #: Do we count in ``poll.live``? While somebody waits: another thread may send.
        self.live = False
        #: What a Sender's `onclose` was given, and the bell of the hub that is to call it, if there was one.
        self.outer: list[tuple[partial[Any], Bell | None]] = []
        bell.crossings.add(self)

    # -- receiving

    def arrive(self) -> None:
        """Move in what was sent, and who waits for room."""
        inbox, buffer, recvers = self.inbox, self.buffer, self.recvers
        while True:
            with LOCK:
                buffer.extend(starmap(inbox.popleft, repeat((), len(inbox))))  # one step, for ctrl-C
                self.wanted = bool(recvers)
            while recvers and buffer:
                self.hand(recvers.popleft(), buffer.popleft())
            if self.senders:
                self.admit()
            if not (recvers and inbox):
                break
        if not recvers:
            self.wanted = False
            self.relax()

    def relax(self) -> None:
        """Somebody may have stopped waiting."""
        if self.live and not self.recvers:
            self.live = False
            self.hub.poll.live -= 1

    def admit(self) -> None:
        """Room may have come up: who waits to send comes in."""
        with LOCK:
            while self.senders and len(self.inbox) + len(self.buffer) < self.size:
                self._pop_sender(None)

    def _pop_sender(self, error: Exception | None) -> None:
        try:
            waiting = self.senders.popleft()
        except IndexError:
            return  # the garbage collector has closed an end just now
        if error is None:
            waiting.enter(self.inbox)
        waiting.settle(error)

    def take_nowait(self) -> Any:
        if not self.buffer:
            halt = self.halt  # before: what was sent before the end is there when the end is
            self.arrive()
            if not self.buffer:
                if halt is not None:
                    raise halt(self._ended("receive"))
                return EMPTY
        item = self.buffer.popleft()
        if self.senders:
            self.admit()
        return item

    def take_many(self, most: int) -> list[Any]:
        if len(self.buffer) < most:
            self.arrive()
        return super().take_many(most)

    def _has_item(self, no_exception: bool) -> bool:
        ended = self.halt is not None  # before, as in `take_nowait`
        if not self.buffer:
            self.arrive()
        return (ended or bool(self.buffer)) and super()._has_item(no_exception)

    def wait_item(self, timeout: float) -> Any:
        item = self._take_or_listen()
        return self.runner.line_up(self.recvers, self, timeout) if item is EMPTY else item

    def watch_recv(self, case: Case) -> None:
        item = self._take_or_listen()
        if item is EMPTY:
            self.recvers.append(case)
        else:
            case.selection.fire(case, item)

    def _take_or_listen(self) -> Any:
        """The next item; or `EMPTY`, and the next send rings."""
        while True:
            item = self.take_nowait()
            if item is not EMPTY:
                return item
            self.runner.me()  # may we wait here at all?
            with LOCK:
                if self.inbox or self.halt is not None:
                    continue
                self.wanted = True
            if not self.live:
                self.live = True
                self.hub.poll.live += 1
            return EMPTY

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """From any thread; see `Channel.close`."""
        with LOCK:
            if self.halt is not None:
                return
            self.halt = halt
            self.size = -1
            while self.senders:
                self._pop_sender(halt(self._ended("send")))
            closers, self.outer = self.outer, []
        for closer, bell in closers:
            if bell is not None:
                bell.ring(closer)
            else:
                self._call(closer)
        if get_ident() == self.hub._thread:
            self._end()
        else:
            self.bell.ring(self._end)

    def _call(self, closer: partial[Any]) -> None:
        try:
            closer()
        except Exception as error:
            self.bell.ring(partial(self.hub.failed, closer.func, error))

    def _end(self) -> None:
        """What only the hub's thread may do about the end."""
        self.bell.crossings.discard(self)
        self.arrive()
        self._fail_all()
        closers, self.closers = self.closers, []
        for f, args in closers:
            self.hub.guard(f, *args)

    def _fail_all(self) -> None:
        assert self.halt is not None
        while self.recvers:
            self.fail(self.recvers.popleft(), self.halt(self._ended("receive")))
        self.relax()

    def _abandon(self) -> None:
        """An end was dropped: in any thread, at any moment, if the garbage collector did it."""
        self.close(Abandoned)
        self.bell.ring(self._end)  # again, for who was about to wait; see `Channel._abandon`

    # -- what a parked task is parked on

    def forget(self, waiter: Any) -> bool:
        try:
            self.recvers.remove(waiter)
        except ValueError:
            return False
        self.relax()
        return True

    def describe(self, waiter: Any) -> str:
        return "recv on a thread pipe"


class Entrance:
    """The state of the Sender."""

    __slots__ = ("__weakref__", "buffer", "cases", "crossing", "hub", "recvers")

    #: So that a Sender's fast path leads to `wait_room`.
    capacity = -1
    kind = "thread pipe"
    one_sender = False
    keeps_cases = False

    def __init__(self, crossing: Crossing) -> None:
        self.crossing = crossing
        #: Whose the Recver is.
        self.hub = crossing.hub
        self.buffer: deque[Any] = deque()
        self.recvers: deque[Any] = deque()
        #: The selects that watch for room.
        self.cases: dict[Case, _Watch] = {}

    @property
    def halt(self) -> type[Halt] | None:
        return self.crossing.halt

    def check(self) -> None:
        """
        :raises Halt: the pipe has ended.
        :raises Forked: it is the parent process's.
        """
        crossing = self.crossing
        if crossing.halt is not None:
            raise crossing.halt(crossing._ended("send"))
        if self.hub.forked:
            raise self.hub._forked()

    def _room(self) -> int:
        """With `LOCK`: how many items would come in at once."""
        crossing = self.crossing
        return 0 if crossing.senders else crossing.size - len(crossing.inbox) - len(crossing.buffer)

    def _ring(self) -> None:
        """With `LOCK`: something is in the inbox."""
        crossing = self.crossing
        if crossing.wanted:
            crossing.bell.ring(crossing.arrive)
            crossing.wanted = False  # behind it: a ctrl-C may come between the two

    def wait_room(self, item: Any, timeout: float) -> None:
        """All of `Sender.send`."""
        crossing = self.crossing
        with LOCK:
            # `_room` and `_ring`, written out
            sent = not crossing.senders and len(crossing.inbox) + len(crossing.buffer) < crossing.size
            if sent:
                crossing.inbox.append(item)
                if crossing.wanted:
                    crossing.bell.ring(crossing.arrive)
                    crossing.wanted = False
        if not sent:
            self._wait(item, timeout)

    def _wait(self, item: Any, timeout: float) -> None:
        self.check()
        if seconds(timeout) == 0:
            raise Timeout("not ready: send to a thread pipe")
        hub = hub_here()
        waiting = _Thread(self.crossing, item) if hub is None else _Task(self.crossing, hub, item)
        self._stand_in_line(waiting)
        waiting.wait(timeout)

    def _stand_in_line(self, waiting: _Waiting) -> None:
        crossing = self.crossing
        with LOCK:
            crossing.senders.append(waiting)
            crossing.admit()  # there may be room by now
            if crossing.inbox:
                self._ring()
            if crossing.halt is not None and _withdraw(crossing, waiting):
                waiting.settle(crossing.halt(crossing._ended("send")))

    def give_many(self, items: Sequence[Any], start: int) -> int:
        """Send as many of *items* from index *start* on as go at once: how many."""
        with LOCK:
            room = self._room()
            run = items[start : start + room] if room > 0 else ()
            if run:
                self.crossing.inbox.extend(run)
                self._ring()
        return len(run)

    def has_room(self) -> bool:
        self.check()
        with LOCK:
            return self._room() > 0

    def watch_send(self, case: Case) -> None:
        """A select waits for room."""
        self.check()
        watch = self.cases[case] = _Watch(self, case)
        self._stand_in_line(watch)

    def forget(self, case: Case) -> bool:
        watch = self.cases.pop(case, None)
        if watch is None:
            return False
        watch.done()
        _withdraw(self.crossing, watch)
        return True

    def describe(self, waiter: Any) -> str:
        return "send to a thread pipe"

    def close(self, halt: type[Halt] = Closed) -> None:
        self.crossing.close(halt)

    def abandon_by_sender(self) -> None:
        self.crossing.abandon_by_sender()

    def fail(self, error: BaseException) -> None:
        """The end, for which the last receiver gets *error*. If it has ended already nobody does."""
        with LOCK:
            if self.crossing.halt is None:
                self.crossing.inbox.append(error)
                self._ring()
        self.close()

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        closer = partial(f, *args)
        hub = hub_here()
        bell = None if hub is None else hub.thread.bell
        with LOCK:
            if self.crossing.halt is None:
                self.crossing.outer.append((closer, bell))
                return
        closer()


def _withdraw(crossing: Crossing, waiting: _Waiting) -> bool:
    """Take *waiting* out of the line. Was it still in there?"""
    with LOCK:
        try:
            crossing.senders.remove(waiting)
        except ValueError:
            return False
        return True


class _Waiting:
    """Somebody in ``Crossing.senders``."""

    __slots__ = ("crossing", "error", "item")

    def __init__(self, crossing: Crossing, item: Any) -> None:
        self.crossing = crossing
        self.item = item
        #: Why it was not sent.
        self.error: Exception | None = None

    def enter(self, inbox: deque[Any]) -> None:
        """Its turn has come."""
        inbox.append(self.item)

    def settle(self, error: Exception | None) -> None:
        """It was taken out of the line. Called in any thread."""
        raise NotImplementedError

    def wait(self, timeout: float) -> None:
        """Until it is settled; *timeout* in ms.

        :raises Timeout: it is no longer in the line.
        """
        raise NotImplementedError


class _Thread(_Waiting):
    """A thread without a Hub: it blocks."""

    __slots__ = ("lock",)

    def __init__(self, crossing: Crossing, item: Any) -> None:
        super().__init__(crossing, item)
        self.lock = threading.Lock()
        self.lock.acquire()

    def settle(self, error: Exception | None) -> None:
        self.error = error
        self.lock.release()

    def wait(self, timeout: float) -> None:
        length = seconds(timeout)
        try:
            settled = self.lock.acquire(
                timeout=-1 if length < 0 or length == INFINITY else min(length, threading.TIMEOUT_MAX)
            )
        except BaseException:  # ctrl-C
            _withdraw(self.crossing, self)
            raise
        if not settled and _withdraw(self.crossing, self):
            raise Timeout(f"{timeout:g} ms are over: send to a thread pipe")
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle


class _OfHub(_Waiting):
    """Somebody who waits in a hub, which is to be told in its own thread."""

    __slots__ = ("bell", "live")

    def __init__(self, crossing: Crossing, hub: Hub, item: Any) -> None:
        super().__init__(crossing, item)
        self.bell = hub.thread.bell
        #: Does it count in ``poll.live`` of its hub? Not if that is the receiver's, for then no other thread can help.
        self.live = hub is not crossing.hub
        if self.live:
            hub.poll.live += 1

    def settle(self, error: Exception | None) -> None:
        self.error = error
        if get_ident() == self.bell.hub._thread:
            self.deliver()
        else:
            self.bell.ring(self.deliver)

    def deliver(self) -> None:
        """It is settled; called in its own thread, once or more."""
        raise NotImplementedError

    def done(self) -> None:
        """It waits no longer."""
        if self.live:
            self.live = False
            self.bell.hub.poll.live -= 1


class _Task(_OfHub):
    """A task, parked on this."""

    __slots__ = ("me",)

    def __init__(self, crossing: Crossing, hub: Hub, item: Any) -> None:
        #: None once it was woken, or has gone.
        self.me: Any = hub.me()
        self.me.value = None
        super().__init__(crossing, hub, item)

    def wait(self, timeout: float) -> None:
        self.bell.hub.park(self.me or self.bell.hub.me(), self, timeout)

    def deliver(self) -> None:
        me, self.me = self.me, None
        if me is not None:
            self.done()
            me.error, self.error = self.error, None
            self.bell.hub.ready.append(me)

    def forget(self, waiter: Any) -> bool:
        if not _withdraw(self.crossing, self):
            self.deliver()  # the bell has been rung for it, and is not needed any more: a hand-over is not lost
            return False
        self.me = None
        self.done()
        return True

    def describe(self, waiter: Any) -> str:
        return "send to a thread pipe"


class _Watch(_OfHub):
    """A select on the Sender: there is room, or the end."""

    __slots__ = ("case", "entrance")

    def __init__(self, entrance: Entrance, case: Case) -> None:
        self.entrance = entrance
        self.case = case
        super().__init__(entrance.crossing, case.selection.task.hub, None)

    def enter(self, inbox: deque[Any]) -> None:
        """It takes no room."""

    def deliver(self) -> None:
        if self.entrance.cases.pop(self.case, None) is None:
            return
        self.done()
        error, self.error = self.error, None
        if error is None:
            self.case.selection.fire(self.case, None)
        else:
            self.case.selection.fail(self.case, error)


class CrossingSender(Sender):
    """The Sender of a thread pipe, for every thread."""

    __slots__ = ()

    _state: Entrance

    def close(self) -> None:
        """End the pipe, from any thread. The Recver can still receive what was sent. Twice does nothing."""
        self._state.close()

    def _send_run(self, items: Sequence[Any], start: int) -> int:
        return self._state.give_many(items, start)


def pipe(bell: Bell, size: int) -> Pair:
    """`thread.Service.pipe`, received in the hub of *bell*."""
    if size < 1:
        raise ValueError("a thread pipe holds at least 1 item")
    crossing = Crossing(bell, size)
    return Pair(CrossingSender(Entrance(crossing)), Recver(crossing))
