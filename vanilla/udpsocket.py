"""A session over UDP that whoever reads and writes without waiting uses as a socket.

What makes a stream of bytes of datagrams, acknowledges, repeats and paces, is a *transport*. It knows neither sockets
nor clocks and is given (`Transport`; the one there is is `vanilla.protocol.transport`). Here it gets a descriptor, a
timer, and a place in the hub's poll.

`UDPSocket` has the methods of a socket, and raises BlockingIOError where a socket would have to wait, as a `TLSSocket`
does; it is a `poll.Layer` likewise. Invariants:

1. While it is in the poll the kernel is asked for datagrams, whatever the handler wants: they acknowledge, and open
   windows. What there is to read stays in the transport.
2. Whatever is done to the transport is followed by `_leave`: what it has to send goes, and the one timer is set for
   when it wants to be called again, or earlier: to set it anew with each datagram would cost more than the datagram.
3. While the handler wants what there is (bytes, room, an end), the descriptor stands in ``poll.again``.
4. Trains that the kernel did not take are kept in ``_stuck``, in their order, and the transport is not asked for more,
   nor is a timer set while it is in the poll, which says when they can go.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Protocol

from .datagram import dropped
from .deadline import Deadline
from .exception import ConnectionLost
from .offload import ANCILLARY_BYTES, OFFLOAD, prepare, segment_of, send_train
from .poll import GONE, IN, OUT, Handler
from .task import monotonic
from .tcp import reason, resolve, url, wait_ready
from .udppath import Path

if TYPE_CHECKING:
    from .core import Hub
    from .outbox import Buffer
    from .timers import Timer

#: Bytes that are read at one wake-up, before other descriptors have their turn; each read counts as so many at least.
BUDGET = 1 << 20
READ_COST = 16 << 10
#: No datagram, or what UDP_GRO joins, is longer.
LONGEST = 65535
#: What a send says when this machine has lost the address that it goes from, or the way there.
ADDRESS_GONE = frozenset([errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN])
#: Seconds in which a client that has another address has to send something from there.
MOVING = 2.0
#: Seconds for which a server may be refused by the kernel before it is believed.
SURE = 0.1
#: And who is far away has so many round trips to answer, at least.
ROUND_TRIPS = 4
#: ms after `close` for what was sent to arrive.
LINGER = 2000


class Transport(Protocol):
    """What `vanilla.protocol.transport.Transport` is to a socket; see there."""

    state: str
    stirred: bool
    error: tuple[int, str] | None
    #: For status.
    counters: Any

    @property
    def loose(self) -> Any: ...
    @property
    def address(self) -> object: ...
    @property
    def datagram(self) -> int: ...
    @property
    def rtt(self) -> float: ...
    @property
    def min_rtt(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def ready(self) -> int: ...
    @property
    def ended(self) -> bool: ...
    @property
    def room(self) -> int: ...
    @property
    def empty(self) -> bool: ...
    def receive(self, data: Any, now: float, address: object = None, segment: int = 0) -> None: ...
    def put(self, buffers: Any) -> int: ...
    def read_into(self, buffers: list[memoryview]) -> int: ...
    def loosen(self) -> Any: ...
    def finish(self) -> None: ...
    def close(self, code: int = ..., text: str = ...) -> None: ...
    def ask(self) -> None: ...
    def datagrams(self, now: float) -> Any: ...
    def next_time(self) -> float | None: ...
    def rests(self, now: float, until: float) -> bool: ...


class UDPSocket:
    """A session with the methods of a non-blocking socket that sessions, links, streams and `Outbox` use.

    :param sock: of datagrams, connected, and made ready by `prepare`; it becomes this object's.
    :param transport: the session.
    :param away: sends a datagram to an address that is not the socket's; None: there is no such.
    """

    __slots__ = (
        "_asked",
        "_away",
        "_busy",
        "_closed",
        "_cuts",
        "_dialling",
        "_fault",
        "_handler",
        "_live",
        "_lost",
        "_onclose",
        "_refusal",
        "_sock",
        "_stuck",
        "_timer",
        "_wanted",
        "hub",
        "onloose",
        "transport",
    )

    def __init__(
        self,
        hub: Hub,
        sock: socket.socket,
        transport: Transport,
        away: Callable[[Any, object], object] | None = None,
        onclose: Callable[[], object] | None = None,
    ) -> None:
        self.hub = hub
        self.transport = transport
        self._sock = sock
        self._away = away
        self._onclose = onclose
        self._cuts = OFFLOAD.sends
        #: Called at the edge when `LooseFrames.news` has something to tell.
        self.onloose: Callable[[], object] | None = None
        self._stuck: deque[Any] = deque()
        self._timer: Timer | None = None
        self._dialling = transport.state == "dialling"
        #: What the kernel has said of the way to the peer.
        self._fault: OSError | None = None
        #: When it has first said that nobody is there, since something came.
        self._refusal: float | None = None
        self._wanted = self._asked = 0
        self._handler: Handler | None = None
        #: Are we being called, so that `_leave` comes?
        self._busy = False
        self._closed = False
        #: Closed, and what was sent is on its way: the poll knows us by ourselves.
        self._live = False
        self._lost = 0
        hub.poll.layers[sock.fileno()] = self
        self._leave()

    def fileno(self) -> int:
        """-1 once closed, though the session may linger."""
        return -1 if self._closed else self._sock.fileno()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    @property
    def dialling(self) -> bool:
        """Has the peer not answered yet?"""
        return self.transport.state == "dialling" and self._fault is None

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel has dropped here for want of room; 0 if it does not say."""
        return self._lost if self._sock is _CLOSED else _dropped(self._sock)

    # -- reading

    def recv(self, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.recvmsg_into([memoryview(data)])[0]])

    def recv_into(self, buffer: memoryview) -> int:
        return self.recvmsg_into([buffer])[0]

    def recvmsg_into(self, buffers: list[memoryview]) -> tuple[int]:
        """Fill *buffers* as far as it goes: how many bytes, 0 at the end, in a tuple.

        :raises BlockingIOError: there is nothing.
        :raises ConnectionResetError: the session has ended otherwise than by the peer's `shutdown`.
        """
        transport = self.transport
        size = transport.read_into(buffers)
        if not self._busy:
            if not size:
                self._receive()
                size = transport.read_into(buffers)
            self._leave()  # also if there was nothing to read: what has come may let something go
        if size:
            return (size,)
        if transport.ended:
            return (0,)
        self._check()
        raise BlockingIOError(errno.EAGAIN, "nothing has come")

    def _check(self) -> None:
        if self._fault is not None:
            raise ConnectionResetError(self._fault.errno, reason(self._fault))
        if self.transport.state == "closed":
            _, text = self.transport.error or (0, "the session has ended")
            raise ConnectionResetError(errno.ECONNRESET, text)

    # -- writing

    def send(self, data: Buffer) -> int:
        return self.sendmsg([data])

    def sendmsg(self, buffers: list[Any]) -> int:
        """Take *buffers* as far as there is room: how many bytes.

        :raises BlockingIOError: there is none.
        :raises ConnectionResetError: the session has ended.
        """
        self._check()
        taken = self.transport.put(buffers)
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "the peer has not acknowledged what was sent")
        if not self._busy:
            self._leave()
        return taken

    def leave(self) -> None:
        """Send what was put beside the stream."""
        if not self._busy and self._sock.fileno() >= 0:
            self._leave()

    # -- datagrams

    def _receive(self) -> None:
        """Give the transport what the kernel has. Single datagrams of one length are put one behind the other, as
        UDP_GRO would have joined them, since the transport reads a train at once.

        It reads until there is no more. That is one read in vain each time; but where many come that are small, each
        would take a turn of the loop for itself otherwise, and what it has answered would come alone, too: 64 calls at
        a time take less than half the time so.

        The time is asked for after a read: one from before it came would make the way shorter than it is.
        """
        transport = self.transport
        view = self.hub.udp.scratch
        at = length = 0
        budget = BUDGET
        while budget > 0:
            try:
                if OFFLOAD.joins:
                    size, ancillary, _, _ = self._sock.recvmsg_into([view[at:]], ANCILLARY_BYTES)
                    segment = segment_of(ancillary) if ancillary else 0
                else:
                    size, segment = self._sock.recv_into(view[at:]), 0
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # an ICMP answer: nobody is there, or there is no way
                self._refused(error, monotonic())
                break
            self._refusal = None
            budget -= max(size, READ_COST)
            if at and (segment or size > length):
                transport.receive(view[:at], monotonic(), None, length)
                transport.receive(view[at : at + size], monotonic(), None, segment)
                at = 0
            elif segment:
                transport.receive(view[:size], monotonic(), None, segment)
            else:
                length = length if at else size
                at += size
                if size < length or at + LONGEST > len(view):
                    transport.receive(view[:at], monotonic(), None, length)
                    at = 0
        else:
            self.hub.poll.again.add(self._sock.fileno())
        if at:
            transport.receive(view[:at], monotonic(), None, length)

    def _refused(self, error: OSError, now: float) -> None:
        """The kernel says that nobody is at the peer's address. Who dials believes it. Later it may be forged: for that
        it takes no more than to guess a port (RFC 5927). And a server hears it also of a client whose address has
        changed. So the peer is asked, and lost if that is refused for a while."""
        if self.transport.state == "dialling":
            self._fault = error
        elif self._refusal is None:
            self._refusal = now
            self.transport.ask()
        elif now - self._refusal > max(SURE if self._away is None else MOVING, ROUND_TRIPS * self.transport.rtt):
            self._fault = error

    def came(self, data: Buffer, address: object) -> None:
        """A datagram of this session has come to another socket, from *address*."""
        self._refusal = None
        before = self.transport.address
        self.transport.receive(data, monotonic(), address)
        if self.transport.address != before:
            try:
                self._sock.connect(self.transport.address)  # type: ignore[arg-type]
            except OSError as error:
                self._fault = error
        self._fire(0)

    def _leave(self) -> None:
        """Send what is to be sent, and set the timer (invariant 2)."""
        now, timer, transport = monotonic(), self._timer, self.transport
        until = 0.0  # nothing is to be done before, but for what the transport has to say
        if (
            timer is not None
            and self._wanted | self._asked == IN
            and self.onloose is None
            and self._fault is None
            and not self._dialling
            and not self._stuck
        ):
            until = timer.due
            if not transport.stirred and transport.rests(now, until):
                return
        if not self._stuck or self._drain(now):
            self._stuck.extend(transport.datagrams(now))
            if self._stuck and not self._drain(now):
                until = 0.0
        if not until or self._fault is not None or not transport.rests(now, until):
            self._mind(now)

    def _drain(self, now: float) -> bool:
        """Send what is stuck: whether it was all sent."""
        stuck = self._stuck
        while stuck:
            try:
                self._send(stuck[0])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:  # the datagrams are lost, which the transport will notice
                if error.errno == errno.ECONNREFUSED:
                    self._refused(error, now)
                elif error.errno in ADDRESS_GONE and self._away is None:
                    self._cuts = OFFLOAD.sends  # it was not the cutting that failed
                    if self._moved():
                        continue
            stuck.popleft()
        return True

    def _moved(self) -> bool:
        """A client's own address is gone: go on from the one that the kernel chooses now. Is there another?

        A socket keeps its address, so this takes a new one, with the old one's descriptor.
        """
        ours = self._sock
        try:
            with socket.socket(ours.family, socket.SOCK_DGRAM) as other:
                other.connect(ours.getpeername())
                if other.getsockname()[0] == ours.getsockname()[0]:
                    return False
                prepare(other)
                self.hub.poll.replace(ours.fileno(), other.fileno(), self._asked)
        except OSError:  # none at all, for now
            return False
        return True

    def _send(self, train: Any) -> None:
        data, segment, address = train
        if address is not None and self._away is not None and address != self.transport.address:
            for at in range(0, len(data), segment):
                self._away(data[at : at + segment], address)
        elif len(data) <= segment:
            self._sock.send(data)
        elif not self._cuts or not send_train(self._sock, data, segment):
            self._cuts = False  # it is not asked again
            self._send_each(memoryview(data), segment, address)

    def _send_each(self, data: memoryview, segment: int, address: object) -> None:
        """Send a train that the kernel does not cut. When it takes no more, the rest is what is stuck."""
        for at in range(0, len(data), segment):
            try:
                self._sock.send(data[at : at + segment])
            except (BlockingIOError, InterruptedError):
                if self._stuck:
                    self._stuck[0] = data[at:], segment, address
                raise

    def _mind(self, now: float) -> None:
        """Set the timer, and ask for what is to come."""
        fd, timer = self._sock.fileno(), self._timer
        polled = fd in self.hub.poll.handlers
        due = None if self._stuck and polled else self.transport.next_time()
        if due is None or self._fault is not None:
            if timer is not None:
                timer.cancel()
                self._timer = None
        elif timer is None or due < timer.due:
            if timer is not None:
                timer.cancel()
            self._timer = self.hub.timers.at(due, self._tick)
        asked = self._kernel()
        if asked != self._asked and polled:
            self._asked = asked
            self.hub.poll.ask_kernel(fd, asked)
        if self._told():
            self.hub.poll.again.add(fd)
        if self.onloose is not None and self.transport.loose.news():
            self.hub.at_edge(self.onloose)

    def _tick(self) -> None:
        """It is time, or was to be: the timer is not put off each time that the transport has more time."""
        self._timer = None
        due = self.transport.next_time()
        if due is not None and due > monotonic():
            self._timer = self.hub.timers.at(due, self._tick)
        else:
            self._fire(0)

    # -- readiness: what a `poll.Layer` does

    def ask(self, events: int) -> int:
        self._wanted = events
        self._asked = self._kernel()
        if self._told():
            self.hub.poll.again.add(self._sock.fileno())
        return self._asked

    def between(self, handler: Handler) -> Handler:
        self._handler = handler
        return self._fire

    def _kernel(self) -> int:
        return IN | OUT if self._stuck else IN

    def _told(self) -> int:
        """What the handler wants and can have."""
        wanted, transport = self._wanted, self.transport
        if self._fault is not None or transport.state == "closed":
            return wanted
        told = 0
        if wanted & IN and (
            transport.ready or transport.ended or (transport.loose is not None and transport.loose.ready)
        ):
            told = IN
        if wanted & OUT and transport.room:
            told |= OUT
        if self._dialling and transport.state != "dialling":
            told |= wanted
        return told

    def _fire(self, events: int) -> None:
        self._busy = True
        try:
            if events & (IN | GONE):
                self._receive()
            told = self._told()
            if self._dialling and self.transport.state != "dialling":
                self._dialling = False
            if told and self._handler is not None:
                self._handler(told)
        finally:
            self._busy = False
            if self._closed:
                self._linger()
            elif self._sock.fileno() >= 0:
                self._leave()

    # -- the end

    def shutdown(self, how: int) -> None:
        """Say that no more will be sent (*how* is SHUT_WR). The other direction goes on."""
        self.transport.finish()
        if not self._busy:
            self._leave()

    def close(self) -> None:
        """Close: what was sent goes on arriving for up to `LINGER` ms. Twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._handler = self.onloose = None
        self._wanted = 0
        poll, fd = self.hub.poll, self._sock.fileno()
        poll.layers.pop(fd, None)
        poll.again.discard(fd)
        if self.hub.forked:
            self._let_go()
            return
        self.transport.finish()
        self._leave()
        if self._over() or self.hub.stopping:
            self._let_go()
            return
        self._live = True
        self._asked = self._kernel()
        poll.register(fd, self._fire, self._asked, background=True)
        self.hub.onstop(self._let_go)
        self.hub.after(LINGER, self._let_go)
        self._linger()

    def _over(self) -> bool:
        return self._fault is not None or self.transport.empty or self.transport.state in ("closed", "lingering")

    def _linger(self) -> None:
        if self._live:
            self._leave()
            if self._over():
                self._let_go()

    def _let_go(self) -> None:
        sock, self._sock = self._sock, _CLOSED
        if sock is _CLOSED:
            return
        self._lost = _dropped(sock)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._live:
            self._live = False
            self.hub.offstop(self._let_go)
            if not self.hub.forked:
                self.hub.poll.unregister(sock.fileno())
        if not self.hub.forked:
            self.transport.close()
            self._stuck.clear()
            self._sock = sock
            try:
                for train in self.transport.datagrams(monotonic()):
                    self._send(train)
            except OSError:
                pass
            self._sock = _CLOSED
        sock.close()
        if self._onclose is not None:
            self._onclose()


class _Closed:
    """In place of a socket that is closed."""

    def fileno(self) -> int:
        return -1


_CLOSED: Any = _Closed()


def _dropped(sock: socket.socket) -> int:
    try:
        return dropped(sock)
    except OSError:  # this kernel does not say
        return 0


def dial(
    hub: Hub, host: str, port: int, timeout: float, make: Callable[[Path], Transport], datagram: int = 0
) -> UDPSocket:
    """Connect to *host* and *port*.

    :param timeout: ms for the look-up and the handshake, -1 for ever.
    :param make: makes the transport of a client.
    :param datagram: the longest one that we send or take, in bytes; 0: as the path has it.
    :raises ConnectionLost: nobody is there, or who is does not speak this.
    :raises Timeout: the time is over.
    """
    deadline = Deadline(timeout)
    name = url(host, port, "udp")
    lost: Exception | None = None
    for family, address in resolve(hub, host, port, timeout, "udp"):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(address)
            made = UDPSocket(hub, sock, make(prepare(sock, datagram)))
        except OSError as error:
            sock.close()
            lost = error
            continue
        try:
            while made.dialling:
                wait_ready(hub, made.fileno(), IN, deadline.left(), f"connect to {name}")
            made._check()
            return made
        except OSError as error:
            made.close()
            lost = error
        except BaseException:
            made.close()
            raise
    raise ConnectionLost(f"{name}: {reason(lost) if lost else 'no address'}") from lost
