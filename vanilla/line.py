"""A descriptor of a hub, and what its two directions share.

A connection is two channels, one for each direction. Each has only its local end; the state of that end is an
`input.Input` or an `output.Output` (of datagrams, see `datagram`), which speak the protocol that `message.Recver` and
`message.Sender` expect of a channel's state, with the fast paths of the ends kept off (``buffer`` and the other side's
queue are always empty, ``capacity`` is -1). What the two share is the `Line`: the descriptor and the interest in it.

Invariants:
1. Nothing is read unless somebody receives, and then a bounded piece at a time. Nothing is read after the end.
2. The descriptor is closed once, when both directions are done: an input by its end or by being closed, an output by
   being closed and flushed, either by the loss of the connection. So a Recver that has come to its end holds no
   descriptor.
3. The line counts in ``poll.live`` while anybody waits or something is pending, and `Poll` knows of it at least then.
   Interest in reading that nobody has any more is withdrawn only when it fires: who receives again and again costs no
   system call.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from .exception import Closed, ConnectionLost, Forked, Halt, Stop
from .poll import GONE, IN, OUT, Unpolled

if TYPE_CHECKING:
    from .core import Hub
    from .timers import Timer

log = logging.getLogger("vanilla")

#: Bytes read at once at most, unless so many have just come at once (`input.MOST`).
CHUNK = 65536
#: Reads and writes, of up to `CHUNK` bytes, that go through at once before everyone else has a turn: the peer may be
#: faster than we are.
STREAK = 16
#: ms for the last item to make progress after both ends are gone.
LINGER = 30_000

Transport = Any  # a socket.socket, a stream.Descriptor, or what else has its methods


class Line:
    """A descriptor, what its two directions want of it, and its end."""

    __slots__ = (
        "events",
        "fd",
        "hub",
        "input",
        "live",
        "name",
        "output",
        "poll",
        "streak",
        "timer",
        "transport",
        "whole",
    )

    def __init__(self, hub: Hub, transport: Transport, name: str) -> None:
        self.hub = hub
        #: Who tells when the descriptor is ready.
        self.poll: Any = hub.poll
        self.transport = transport
        #: For people.
        self.name = name
        #: -1 once closed.
        self.fd: int = transport.fileno()
        #: The two directions, as far as there are: an Input and an Output, or what has their methods.
        self.input: Any = None
        self.output: Any = None
        #: What `Poll` waits for; 0: it does not know of us.
        self.events = 0
        #: Do we count in ``poll.live``?
        self.live = False
        #: Reads and writes since somebody else had a turn.
        self.streak = 0
        #: Does a read give all that is there, if that is less than was asked for? Of TLS it is a record.
        self.whole = type(transport) is socket.socket
        #: Runs after both ends are gone while something is pending.
        self.timer: Timer | None = None

    def breathe(self) -> None:
        """Called by tasks before they read or write: from time to time it lets everyone else run first."""
        if self.streak >= STREAK:
            self.streak = 0
            self.hub.sleep(0)

    def want(self, events: int) -> None:
        """Somebody is about to wait for *events*."""
        if self.hub.stopping:
            raise Stop("the hub was stopped")
        if self.hub.forked:
            raise Forked(f"{self.name} belongs to the process that this one was forked from")
        self.streak = 0
        if events & ~self.events:
            self._poll(self.events | events)
        if not self.live:
            self.live = True
            self.hub.poll.live += 1

    def relax(self) -> None:
        """Somebody may have stopped waiting."""
        if self.live and not self._wanted():
            self.live = False
            self.hub.poll.live -= 1

    def _wanted(self) -> int:
        events = IN if self.input is not None and self.input.recvers else 0
        output = self.output
        if output is not None and (output.pending or output.senders or (output.halt is not None and not output.done)):
            events |= OUT
        return events

    def _poll(self, events: int) -> None:
        before = self.events
        if self.hub.forked or events == before:
            pass  # a forked child shares the parent's epoll, and must not touch it
        elif not before:
            self._register(events)
        elif not events:
            self.poll.unregister(self.fd)
        else:
            self.poll.modify(self.fd, events)
        self.events = events  # if the kernel has not refused, for want of memory

    def _register(self, events: int) -> None:
        try:
            self.poll.register(self.fd, self._ready, events, background=True)
        except PermissionError:  # epoll_ctl(2): what never has to wait, such as a regular file, cannot be waited for
            self.poll = Unpolled(self.hub)
            self.poll.register(self.fd, self._ready, events, background=True)

    def _ready(self, events: int) -> None:
        self.streak = 0
        if events == IN and self.input is not None and self.input.recvers:  # as nearly always
            self.input.readable()
            self.relax()
            return
        unwanted = events & ~self._wanted()
        if self.input is not None and events & (IN | GONE):
            self.input.readable()
        if self.output is not None and events & (OUT | GONE):
            self.output.writable()
        if self.fd < 0:
            return
        keep = self._wanted()
        if not unwanted:
            keep |= self.events & IN  # invariant 3
        self._poll(keep)
        self.relax()

    def lose(self, error: OSError) -> ConnectionLost:
        """The descriptor failed: what to raise for it."""
        return ConnectionLost(f"{self.name}: {(error.strerror or str(error)).lower()}")

    def settle(self) -> None:
        """A direction may be done: close the descriptor if both are (invariant 2)."""
        if self.fd < 0 or (self.input is not None and self.input.halt is None):
            return
        if self.output is None or self.output.done:
            self.close()
        elif self.output.halt is not None and self.timer is None:
            self._linger(self.output)

    def _linger(self, output: Any) -> None:
        """Nobody is left to see to it that the last item leaves."""
        hub = self.hub
        if hub.stopping or hub.forked:
            self.close()
            return
        hub.onstop(self.close)
        self.timer = hub.after(LINGER, partial(self._give_up, output, output.left()))

    def _give_up(self, output: Any, before: int) -> None:
        left = output.left()
        if left < before:
            self.timer = self.hub.after(LINGER, partial(self._give_up, output, left))
        else:
            self.close()

    def close(self) -> None:
        """Close the descriptor. Twice does nothing."""
        if self.fd < 0:
            return
        if self.timer is not None:
            self.timer.cancel()
            self.hub.offstop(self.close)
        if self.output is not None and self.output.pending:
            log.warning("%s: closed; bytes not sent: %d", self.name, self.output.left())
        self._poll(0)
        if self.live:
            self.live = False
            self.hub.poll.live -= 1
        self.fd = -1
        self.transport.close()
        self.input = self.output = None  # so that no cycle is left for the garbage collector


class Half:
    """What the state of either end has: the parts of a channel's state that do not depend on the direction.

    Its slots are those of who inherits, which may inherit others besides.
    """

    if not TYPE_CHECKING:  # mypy would take these for all that there are
        __slots__ = ()

    capacity = -1
    kind = "stream"
    keeps_cases = False

    buffer: deque[Any]
    #: What to call when it ends.
    closers: list[tuple[Callable[..., object], tuple[Any, ...]]]
    #: The failure that set ``halt``, if it was one.
    error: str | None
    halt: type[Halt] | None
    hub: Hub
    line: Line
    recvers: Any
    senders: Any

    def __init__(self, line: Line) -> None:
        self.hub = line.hub
        self.buffer = deque()
        self.recvers = deque()
        self.senders = deque()
        self.bind(line)

    def bind(self, line: Line) -> None:
        """The other half of the constructor."""
        self.line = line
        self.halt = None
        self.error = None
        self.closers = []

    def ended(self, verb: str) -> Exception:
        """What to raise at who comes, or waits, after the end."""
        if self.error is not None:
            return ConnectionLost(self.error)
        return Closed(f"cannot {verb}: the {self.kind} {self.line.name} was closed")

    def onclose(self, f: Callable[..., object], *args: Any) -> None:
        """Call ``f(*args)`` when this direction ends; at once if it has. The end of an input is known once it is
        received."""
        if self.halt is None:
            self.closers.append((f, args))
        else:
            f(*args)

    def halted(self, error: ConnectionLost | None) -> None:
        self.halt = Closed
        self.error = None if error is None else str(error)
        closers, self.closers = self.closers, []
        for f, args in closers:
            self.hub.guard(f, *args)

    def fail(self, waiter: Any, error: Exception) -> None:
        if waiter.selection is None:
            waiter.error = error
            waiter.value = None
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fail(waiter, error)
