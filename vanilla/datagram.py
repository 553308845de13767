"""What the ends of a socket for datagrams refer to: nothing is kept here, each datagram goes straight to the kernel or
comes straight from there.

An error that belongs to one datagram ends nothing: what came back for one that was sent is raised once at a receiver,
and the socket goes on.

Invariants:
1. Nothing is read unless somebody receives: what comes meanwhile waits in the kernel, which counts what it drops.
2. Whoever stands in ``recvers`` found nothing to be read, and whoever stands in ``senders`` found the kernel's buffer
   full or others before it; those who came first are served first.
3. ``Incoming.late`` is an error that the kernel has told the wrong end, or that was met behind what `wait_many`
   returned. It is there until somebody receives, and nobody waits meanwhile.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from .deadline import Deadline
from .exception import Abandoned, Closed, ConnectionLost, Halt, Timeout
from .line import Half, Line
from .message import Pair, Recver, Sender
from .poll import IN, OUT
from .selection import EMPTY, Case
from .tcp import reason, url

if TYPE_CHECKING:
    from .core import Hub

#: No datagram is longer (IPv4: 65,507, IPv6: 65,527).
LONGEST = 65_535
#: As asm-generic/socket.h has it: Python's socket module does not. It asks for counters, of which ``linux/sock_diag.h``
#: has SK_MEMINFO_DROPS last. The other way, SO_RXQ_OVFL, tells with the next datagram, and has each cost a recvmsg.
SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
#: What the kernel says of a datagram that was sent before (ip(7), icmp(7)).
BOUNCED = frozenset(
    (
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPROTO,
        errno.ETIMEDOUT,
    )
)


Target = Any  # an address as `socket.sendto` takes it; None of a socket that is connected


def dropped(sock: Any) -> int:
    """How many datagrams the kernel has dropped at *sock*, most often because its buffer was full.

    :raises OSError: this kernel does not say.
    """
    count: int = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))[-1]
    return count


class Addresses(Protocol):
    """What addresses of users are to a socket that is not connected."""

    def place(self, address: Any) -> Target:
        """*address* for `socket.sendto`, or None: it is a name that has to be looked up.

        :raises TypeError, ValueError: it is no address, or none for this socket.
        """

    def look_up(self, address: Any, timeout: float) -> Target:
        """`place` of a name. It waits."""

    def show(self, address: Any) -> Any:
        """An address that `socket.recvfrom` gave, as users see it."""


class Incoming(Half):
    """What the Recver of a socket for datagrams refers to."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_dropped",
        "buffer",
        "closers",
        "error",
        "halt",
        "hub",
        "late",
        "line",
        "recvers",
        "senders",
    )

    kind = "socket"

    def __init__(self, line: Line, addresses: Addresses | None) -> None:
        super().__init__(line)
        line.input = self
        self._addresses = addresses
        self._dropped = 0
        self.late: BaseException | None = None

    @property
    def dropped(self) -> int:
        """How many datagrams the kernel has dropped because they were not received in time."""
        if self.halt is None:
            self._dropped = dropped(self.line.transport)
        return self._dropped

    # -- receiving

    def take_nowait(self) -> Any:
        if self.halt is not None:
            raise self.ended("receive")
        return EMPTY if self.recvers else self._read()

    def wait_item(self, timeout: float) -> Any:
        if timeout != 0:
            self.line.breathe()
        item = self.take_nowait()
        if item is not EMPTY:
            return item
        if timeout == 0:
            raise Timeout(f"not ready: {self.describe(None)}")
        self.line.want(IN)
        return self.hub.wait(self.recvers, self, timeout)

    def wait_many(self, most: int, timeout: float) -> list[Any]:
        items = [self.wait_item(timeout)]
        while len(items) < most and not (self.recvers or isinstance(items[0], BaseException)):
            item = self._read()
            if item is EMPTY:
                break
            if isinstance(item, BaseException):
                self.late = item
                break
            items.append(item)
        return items

    def watch_recv(self, case: Case) -> None:
        item = self.take_nowait()
        if item is EMPTY:
            self.line.want(IN)
            self.recvers.append(case)
        else:
            case.selection.fire(case, item)

    def _read(self) -> Any:
        """A datagram and where it came from, an error to be raised, or EMPTY."""
        late, self.late = self.late, None
        while late is None:
            try:
                data, address = self.line.transport.recvfrom(LONGEST)
            except (BlockingIOError, InterruptedError):
                return EMPTY
            except OSError as error:
                if self._addresses is None or error.errno not in BOUNCED:
                    return self.line.lose(error)
            else:
                self.line.streak += 1
                return data, address if self._addresses is None else self._addresses.show(address)
        return late

    def readable(self) -> None:
        """The descriptor may have something."""
        while self.recvers:
            item = self._read()
            if item is EMPTY:
                return
            self._deal(item)

    def bounced(self, error: ConnectionLost) -> None:
        """The kernel has told the sender what became of a datagram before."""
        if self.recvers:
            self._deal(error)
        elif self.halt is None:
            self.late = error

    def _deal(self, item: Any) -> None:
        waiter = self.recvers.popleft()
        if waiter.selection is None:
            waiter.value = item
            self.hub.ready.append(waiter)
        else:
            waiter.selection.fire(waiter, item)

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """Nothing more is read. Twice does nothing."""
        if self.halt is not None:
            return
        if not self.hub.forked:
            self._dropped = self.dropped
        self.halted(None)
        while self.recvers:
            self.fail(self.recvers.popleft(), self.ended("receive"))
        self.line.settle()
        self.line.relax()

    def abandon_by_recver(self) -> None:
        self.close(Abandoned)

    # -- what a parked task is parked on

    def forget(self, waiter: Any) -> bool:
        try:
            self.recvers.remove(waiter)
        except ValueError:
            return False
        self.line.relax()
        return True

    def describe(self, waiter: Any) -> str:
        return f"recv from {self.line.name}"


class Outgoing(Half):
    """What the Sender of a socket for datagrams refers to."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_last",
        "buffer",
        "closers",
        "error",
        "full",
        "halt",
        "hub",
        "line",
        "recvers",
        "senders",
    )

    kind = "socket"
    #: As of `output.Output`: nothing is ever half sent.
    pending = ()

    def __init__(self, line: Line, addresses: Addresses | None) -> None:
        super().__init__(line)
        line.output = self
        self._addresses = addresses
        #: The address that was sent to last, and what `Addresses.place` made of it.
        self._last: tuple[Any, Target] = None, None
        #: The kernel's buffer was, when it was last asked.
        self.full = False

    @property
    def done(self) -> bool:
        return self.halt is not None

    # -- sending

    def has_room(self) -> bool:
        if self.halt is not None:
            raise self.ended("send")
        return not self.senders and (not self.full or self._takes_some())

    def _takes_some(self) -> bool:
        """Nobody has waited since it was full."""
        poll = select.poll()
        poll.register(self.line.fd, select.POLLOUT)
        self.full = not poll.poll(0)
        return not self.full

    def wait_room(self, item: Any, timeout: float) -> None:
        """Give *item* to the kernel; wait while its buffer is full."""
        if timeout != 0:
            self.line.breathe()
        if self.halt is not None:
            raise self.ended("send")
        if self._addresses is None:
            data, target = _data_of(item), None
        else:
            data, address = _parts_of(item)
            last, target = self._last
            if last is None or last != address:
                target, timeout = self._place(self._addresses, address, timeout)
        if not self.senders and self._post(data, target):
            return
        if timeout == 0:
            raise Timeout(f"not ready: {self.describe(None)}")
        self.line.want(OUT)
        self.hub.wait(self.senders, self, timeout, (data, target))

    def _place(self, addresses: Addresses, address: Any, timeout: float) -> tuple[Target, float]:
        """Where to send what is for *address*, and how much is left of *timeout*."""
        target = addresses.place(address)
        if target is None:
            deadline = Deadline(timeout)
            target = addresses.look_up(address, timeout)
            timeout = deadline.left()
            if self.halt is not None:
                raise self.ended("send")
        self._last = tuple(address), target  # a list may be changed
        return target, timeout

    def _post(self, data: bytes, target: Target) -> bool:
        """Give a datagram to the kernel. False: its buffer is full.

        :raises ValueError: it is too large.
        :raises ConnectionLost: it cannot be sent there.
        """
        try:
            self.full = not self._give(data, target)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise ValueError(f"a datagram of {len(data)} bytes is too large for {self._name(target)}") from None
            raise ConnectionLost(f"{self._name(target)}: {reason(error)}") from None
        return not self.full

    def _give(self, data: bytes, target: Target) -> bool:
        sock = self.line.transport
        for bounced in None, True:
            try:
                if target is None:
                    sock.send(data)
                else:
                    sock.sendto(data, target)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if bounced or target is not None or error.errno not in BOUNCED:
                    raise
                self._bounce(error)  # it is about one of those before; now it is told, and this one may go
            else:
                self.line.streak += 1
                return True
        raise AssertionError

    def _bounce(self, error: OSError) -> None:
        incoming = self.line.input
        if incoming is not None:
            incoming.bounced(self.line.lose(error))

    def _name(self, target: Target) -> str:
        if self._addresses is None:
            return self.line.name
        host, port = self._addresses.show(target)[:2]
        return url(host, port, "udp")

    def watch_send(self, case: Case) -> None:
        if self.halt is None:
            self.line.want(OUT)
            self.senders.append(case)
        else:
            self.fail(case, self.ended("send"))

    def writable(self) -> None:
        """The descriptor may take something."""
        while self.senders:
            sender = self.senders.popleft()
            if sender.selection is not None:
                self.full = False
                sender.selection.fire(sender, None)
                continue
            try:
                if not self._post(*sender.value):
                    self.senders.appendleft(sender)
                    return
            except (ValueError, ConnectionLost) as error:
                sender.error = error
            sender.value = None
            self.hub.ready.append(sender)

    # -- the end

    def close(self, halt: type[Halt] = Closed) -> None:
        """Take nothing more. Twice does nothing."""
        if self.halt is not None:
            return
        self.halted(None)
        while self.senders:
            self.fail(self.senders.popleft(), self.ended("send"))
        self.line.settle()
        self.line.relax()

    def abandon_by_sender(self) -> None:
        self.close(Abandoned)

    # -- what a parked task is parked on

    def forget(self, waiter: Any) -> bool:
        try:
            self.senders.remove(waiter)
        except ValueError:
            return False
        self.line.relax()
        return True

    def describe(self, waiter: Any) -> str:
        return f"send to {self.line.name}"


def _parts_of(item: Any) -> tuple[bytes, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"this Sender takes (data, address), not {type(item).__name__}")
    return _data_of(item[0]), item[1]


def _data_of(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        return item.encode() if isinstance(item, str) else bytes(memoryview(item))
    except TypeError:
        raise TypeError(f"a datagram is bytes or str, not {type(item).__name__}") from None


class DatagramRecver(Recver):
    """The Recver of a socket for datagrams, of which any number of tasks may receive.

    It gives ``(data, address)``. Nothing is read before somebody receives.
    """

    __slots__ = ()

    @property
    def dropped(self) -> int:
        """How many datagrams the kernel has dropped, most often because its buffer was full of those not received."""
        dropped: int = self._state.dropped
        return dropped


class Datagrams(Pair):
    """Both ends of a socket for datagrams.

    :ivar host: what it is bound to, and *port*; None if the system chooses at the first send.
    """

    __slots__ = ("host", "port")

    recver: DatagramRecver

    def __init__(self, sender: Sender, recver: DatagramRecver) -> None:
        super().__init__(sender, recver)
        self.host: str | None = None
        self.port: int | None = None


def open_datagrams(hub: Hub, sock: socket.socket, name: str, addresses: Addresses | None = None) -> Datagrams:
    """The two ends of a non-blocking socket, which is closed when both are.

    :param name: for people.
    :param addresses: None if it is connected.
    """
    line = Line(hub, sock, name)
    return Datagrams(Sender(Outgoing(line, addresses)), DatagramRecver(Incoming(line, addresses)))
