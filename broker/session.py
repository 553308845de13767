"""A session: one connection to the broker, from accept to close.

It is driven by readiness and has no task of its own, so that an idle connection costs a small object. What it has to
send gathers in ``out`` and leaves at the tick's edge in one vectored write.

A session ends in one of two ways. `drop` closes at once. `fail`, after a protocol error, first tells the peer: it sends
the ERROR, closes its own direction and passes over what still comes, for a second at most, because closing a socket
with unread input would reset the connection and take the ERROR with it.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, Callable

from vanilla.outbox import Outbox
from vanilla.poll import IN, OUT
from vanilla.protocol.connection import Connection, Event
from vanilla.protocol.errors import ProtocolError, Refused
from vanilla.protocol.frames import (
    ADMIN,
    CLOSE,
    ERROR,
    HELLO,
    HELLO_LIMIT,
    OPEN,
    PING,
    PONG,
    STATUS,
    Buffer,
    Keeper,
    pack_control,
)
from vanilla.protocol.urls import check_name
from vanilla.tlssocket import NotTLS, TLSError, TLSSocket
from vanilla.udpsocket import UDPSocket

from .access import check_subject
from .beside import Beside
from .broadcast import Broadcast, Publisher, Subscriber
from .caller import Caller
from .conduit import Conduit, ConduitPuller, ConduitPusher
from .endpoint import Endpoint
from .orders import obey
from .puller import Puller
from .pusher import Pusher
from .server import Server
from .service import Service
from .value import Holder, Value

if TYPE_CHECKING:
    from vanilla.timers import Timer

    from .broker import Broker

log = logging.getLogger("vanilla.broker")

#: STATUS and ADMIN frames of one connection that may wait for their answers.
QUESTIONS = 100
#: Reads of one connection in one tick at most, each of a large frame: consumers' windows have to last for as long.
READS = 4
#: How long a peer that broke the protocol may take to read why, in ms.
LAST_WORDS_MS = 1_000
#: How much of what a peer is called is kept, with each dead letter of its.
WHO_CHARACTERS = 200
#: Refused channels that a peer may leave without its CLOSE: each takes a place in the connection's table.
UNCLOSED = 1_000


class Session:
    """One connection.

    ``out`` holds what is to be sent. ``owed``: a confirm or credit may be added in this tick; to write twice would wake
    the peer twice. ``closing``: only last words are left. ``starved``: consumers that have credit and wait for the
    output to drain, or for settlements. ``crowded``: requesters and streamed replies that wait for the output alone.
    """

    __slots__ = (
        "agent",
        "answering",
        "beside",
        "broker",
        "channels",
        "closing",
        "connection",
        "counted",
        "crowded",
        "dirty",
        "held",
        "identity",
        "interest",
        "origin",
        "out",
        "owed",
        "peer",
        "producer",
        "promised",
        "questions",
        "refused",
        "sock",
        "starved",
        "timer",
        "under_way",
    )

    def __init__(self, broker: Broker, sock: socket.socket | TLSSocket | UDPSocket, peer: str) -> None:
        self.broker = broker
        self.sock = sock
        self.peer = peer
        self.agent = ""
        #: The id of its hello.
        self.producer = b""
        #: Who it is, on evidence that the broker has checked; "" if that is not known. Before the hello it is what
        #: the socket says; from then on `Access.identify` has settled it.
        self.identity = ""
        #: Under which `Door` counts it, if it counts.
        self.origin = ""
        self.connection = Connection("broker", broker.scratch, broker.options.frame_bytes)
        self.channels: dict[int, Pusher | Puller] = {}
        self.out = Outbox()
        #: What is on its way beside the stream, of a client that has said that it may be lost.
        self.beside: Beside | None = None
        #: STATUS and ADMIN frames that wait for their answers.
        self.questions: list[Event] = []
        #: Channels that were refused and that it has not closed: an empty tuple, as nearly always, or a set.
        self.refused: Any = ()
        self.closing = self.dirty = self.answering = self.owed = False
        self.starved: set[Any] = set()
        self.crowded: set[Any] = set()
        #: Bytes of memory that the unsettled deliveries of all its consumers keep.
        self.held = 0
        #: Bytes that servers may still send to its requesters as streamed replies.
        self.promised = 0
        #: Of what `Memory` counts: unsent bytes when it was last told, and a frame under way that no credit covers.
        self.counted = self.under_way = 0
        self.interest = IN
        #: Ends a connection whose hello does not come, or that does not take its last words.
        self.timer: Timer | None = None
        broker.hub.poll.register(sock.fileno(), self.ready, IN)

    def begin(self) -> None:
        """Take the hello, which most often has come by now; if it has not, give it its time."""
        self.ready(IN)
        if self.connection.state == "hello" and self.timer is None and self.sock.fileno() >= 0:
            self.timer = self.broker.hub.after(self.broker.options.hello_ms, self._no_hello)

    @property
    def who(self) -> str:
        """Who this is, for people: its agent, its identity if that is known, its address. What cannot be printed is not
        in it, for it is shown on terminals."""
        text = " ".join(filter(None, (self.agent, self.identity, self.peer)))
        return "".join(char if char.isprintable() else "?" for char in text)[:WHO_CHARACTERS]

    # -- input

    def ready(self, events: int) -> None:
        """The socket is ready. Whatever goes wrong here ends this session: the socket would be ready again at once."""
        try:
            if events & OUT:
                self.out.blocked = False
                self.flush()
            if events & ~OUT and self.sock.fileno() >= 0:
                self._read()
        except Exception:
            log.exception("session %s: internal error", self.peer)
            self.drop("")

    def _read(self) -> None:
        try:
            if self.closing:
                if not self.sock.recv(65536):
                    self.drop("")
                return
            for _ in range(READS):
                for event in self.connection.read(self._receive):
                    _HANDLERS[event.kind](self, event)
                if self.connection.reader.begun or self.under_way:
                    self._look_ahead()
                if not self.connection.reader.filled or self.full:
                    break
        except BlockingIOError:
            pass
        except ProtocolError as error:
            self.fail(error)
        except EOFError:
            self._confirm()  # a peer that has closed its own direction may still read
            self.flush()
            self.drop("closed by the peer")
        except TLSError as error:
            self._give_up_tls(error)
        except OSError as error:
            self.drop(error.strerror or str(error))
        except Exception:
            log.exception("session %s: internal error", self.peer)
            self.fail(ProtocolError("INTERNAL", "the broker failed; its log says how"))

    def _look_ahead(self) -> None:
        """A frame has begun and is not whole, or one that counts may have come to its end."""
        reader = self.connection.reader
        assert isinstance(reader, Keeper)
        size = 0
        if reader.under_way:
            if not reader.begun:
                return  # it is still the same
            if reader.total > HELLO_LIMIT:
                channel = self.channels.get(reader.head[1])
                if not (isinstance(channel, Pusher) and channel.covers(reader.head[0], reader.total)):
                    size = reader.total
        if size or self.under_way:
            self.broker.memory.hold(self, size)

    def _receive(self, buffers: list[memoryview]) -> int:
        try:
            if len(buffers) == 1:
                return self.sock.recv_into(buffers[0])
            return self.sock.recvmsg_into(buffers)[0]
        finally:
            if self.beside is not None:  # before what the stream says of it
                self.beside.take()

    # -- frames of the connection

    def _hello(self, event: Event) -> None:
        self._stop_timer()
        if isinstance(self.sock, TLSSocket):
            self.identity = check_subject(self.sock.identity)
        self.broker.door.greeted(self)
        self.agent = event.payload.get("agent", "")[:100]
        self.identity = self.broker.access.identify(self.identity, event.payload.get("token"))
        self.broker.producers.enter(self, event.payload["id"])
        if event.payload.get("loose") and isinstance(self.sock, UDPSocket):
            self.beside = Beside(self, self.sock)
        self.put(self.broker.hello)
        log.debug("session %s: hello from %r, who is %r", self.peer, self.agent, self.identity or "anonymous")
        if self.broker.draining:
            self.put(self.broker.farewell())

    def _open(self, event: Event) -> None:
        try:
            channel, first = self._opened(event)
        except Refused as error:
            if not self.refused:
                self.refused = set()
            self.refused.add(event.channel)
            self.connection.ending(event.channel)
            self.put(pack_control(ERROR, event.channel, 0, {"code": error.code, "text": error.text}))
            return
        self.channels[event.channel] = channel
        said: dict[str, Any] = {}
        if type(channel) is Puller:
            channel.lend(event.payload.get("lease"))
            if channel.leases is not None:
                said["lease"] = channel.leases.ms
        self.put(pack_control(OPEN, event.channel, first, said))

    def _opened(self, event: Event) -> tuple[Pusher | Puller, int]:
        """The channel, and its first number."""
        known = len(self.connection.channels)
        if len(self.refused) >= UNCLOSED or known > self.broker.options.channels + UNCLOSED:
            raise ProtocolError("TOO_MANY", f"{UNCLOSED} channels were refused, and none of them was closed")
        kind = event.payload["kind"]
        try:
            name = check_name(event.payload["name"])
        except ValueError as error:
            raise Refused("BAD_NAME", str(error)) from None
        if kind not in KINDS:
            raise Refused("BAD_KIND", f"there is no kind {kind[:50]!r} of channel; there are {', '.join(KINDS)}")
        self.broker.access.check(self.identity, OPEN, kind, name)
        if event.payload.get("options"):
            self.broker.access.check(self.identity, OPEN, "options", name)
            if KINDS[kind][1] is not Endpoint:
                raise Refused("BAD_OPTION", f"{KINDS[kind][1].kind} has no options; a work queue has")
        if len(self.channels) >= self.broker.options.channels:
            self.broker.door.refusals.count("channels")
            raise Refused("TOO_MANY", f"a connection has at most {self.broker.options.channels} channels")
        made, of = KINDS[kind]
        if self.broker.draining and issubclass(made, Pusher):
            raise Refused("GOING_AWAY", "the broker is shutting down")
        producers, first, resume = self.broker.producers, event.seq, event.payload.get("resume", False)
        if made is Pusher:
            first = producers.expect(self, name, first, resume)
        channel = made(self, event.channel, of.at(self.broker, name, event.payload), first)
        if made is Pusher:
            producers.opened(self, name)
        if resume:
            channel.resume(event.seq)
        return channel, first

    def _close(self, event: Event) -> None:
        channel = self.channels.pop(event.channel, None)
        if self.refused:
            self.refused.discard(event.channel)
        if channel is not None:
            if CLOSE in channel.frames:
                channel.frames[CLOSE](channel, event)
            if isinstance(channel, Pusher):
                channel.emit()
            channel.detach(event.seq)
        self.put(pack_control(CLOSE, event.channel))

    def expel(self, id: int, code: str, text: str) -> None:
        """End channel *id*, which has nothing unsettled; the connection goes on. What was accepted is confirmed first:
        nothing may follow the ERROR."""
        channel = self.channels.pop(id)
        if isinstance(channel, Pusher):
            channel.emit()
        channel.detach(0)
        self.connection.ending(id)
        self.put(pack_control(ERROR, id, 0, {"code": code, "text": text}))

    def _ask(self, event: Event) -> None:
        if len(self.questions) >= QUESTIONS:
            raise ProtocolError("TOO_MANY", f"more than {QUESTIONS} requests wait for their answers")
        try:
            self.broker.access.check(self.identity, event.kind)
        except Refused as error:
            self._deny(event, error)
            return
        self.questions.append(event)
        if not self.answering:
            self._answer()

    def _deny(self, event: Event, error: Refused) -> None:
        self.put(pack_control(ERROR, 0, 0, {"code": error.code, "text": error.text, "request": event.seq}))

    def _answer(self) -> None:
        """Answer one question, and the next a tick later: an answer is a thousand times as long as its question."""
        self.answering = bool(self.questions) and not self.closing
        if self.answering:
            self.broker.hub.after(1, self._answer)
            if not self.full:
                event = self.questions.pop(0)
                try:
                    self.put(_ANSWERS[event.kind](self, event))
                except Refused as error:
                    self._deny(event, error)

    def _status(self, event: Event) -> bytes:
        return self.broker.status(event.seq, event.payload.get("after", ""))

    def _ping(self, event: Event) -> None:
        self.put(pack_control(PONG, 0, event.seq))

    def _pong(self, event: Event) -> None:
        """Nothing hangs on it: the kernel's keep-alive watches connections."""

    def _channel(self, event: Event) -> None:
        channel: Any = self.channels[event.channel]
        try:
            channel.frames[event.kind](channel, event)
        except Refused as error:
            self.expel(event.channel, error.code, error.text)

    def _no_hello(self) -> None:
        self.fail(ProtocolError("HELLO_TIMEOUT", f"no hello in {self.broker.options.hello_ms} ms"), "hello_ms")

    # -- output

    @property
    def full(self) -> bool:
        """Is as much unsent as may be?"""
        return self.out.unsent >= self.broker.options.output_bytes

    def put(self, *parts: Buffer) -> None:
        """Send *parts* at the tick's edge."""
        self.out.put(*parts)
        if not self.dirty:
            self.dirty = True
            self.broker.writers.append(self)

    def flush(self) -> None:
        """Write what there is, as far as the socket takes it."""
        self.dirty = self.owed = False
        try:
            self.out.write(self.sock)
            if self.beside is not None:
                self.beside.leave()
        except OSError as error:
            self.drop(error.strerror or str(error))
        else:
            busy = self.starved or self.crowded or self.closing or self.counted or self.out.blocked
            if busy or self.interest != IN:
                self._drained()

    def _drained(self) -> None:
        if self.sock.fileno() < 0:
            return
        blocked = self.out.blocked
        if blocked or self.counted:
            self.broker.memory.account(self.out.unsent - self.counted)
            self.counted = self.out.unsent
        if self.starved or self.crowded:
            self.relieve()
        if self.closing and not self.out:
            self._shut()
        interest = IN if not blocked else OUT if self.full else IN | OUT
        if interest != self.interest:
            self.interest = interest
            self.broker.hub.poll.modify(self.sock.fileno(), interest)

    def settled(self) -> None:
        """Something was settled: at the tick's edge see who may stand in line again, once for all that was."""
        if self.starved:
            self.broker.relieved[self] = None

    def relieve(self) -> None:
        """Let the consumers stand in line again that waited for this connection: for its output, or for settlements."""
        options = self.broker.options
        if self.out.unsent * 2 >= options.output_bytes:
            return
        if self.crowded:
            crowded, self.crowded = self.crowded, set()
            for each in crowded:
                each.line_up()
        if self.held < options.unsettled_bytes:
            starved, self.starved = self.starved, set()
            for puller in starved:
                puller.line_up()

    # -- the end

    def fail(self, error: ProtocolError, limit: str = "") -> None:
        """The peer broke the protocol: tell it, then close.

        :param limit: which option's, if it was a limit.
        """
        refusals = self.broker.door.refusals
        limit = limit or _LIMITS.get(error.code, "")
        if limit:
            refusals.count(limit)
        refusals.say(limit or error.code, f"session {self.peer}: closed: {error}", self.broker.now())
        self._confirm()  # what was accepted is confirmed; nothing may follow the ERROR
        self._part(pack_control(ERROR, 0, 0, {"code": error.code, "text": error.text}))

    def _part(self, *words: Buffer) -> None:
        """Send the last *words* and the end of the stream, and pass over what still comes."""
        self._detach()
        self.closing = True
        self.put(*words)
        self._stop_timer()
        self.timer = self.broker.hub.after(LAST_WORDS_MS, lambda: self.drop(""))
        self.flush()

    def _give_up_tls(self, error: TLSError) -> None:
        """No TLS with this peer: the bare socket serves for what is left, and whatever was unsent stays so."""
        assert isinstance(self.sock, TLSSocket)
        self.out.clear()
        self.out.blocked = False
        poll, fd = self.broker.hub.poll, self.sock.fileno()
        poll.unregister(fd)
        self.sock = self.sock.plain()
        self.interest = IN
        poll.register(fd, self.ready, IN)
        if self.closing:
            self.drop("")
        elif isinstance(error, NotTLS):
            self.fail(ProtocolError("BAD_FRAME", "only TLS is spoken at this address: connect to it by tls://"))
        else:
            log.warning("session %s: closed: %s", self.peer, error.strerror)
            self._part()

    def _confirm(self) -> None:
        for channel in self.channels.values():
            if isinstance(channel, Pusher):
                channel.emit()

    def _shut(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def finish(self) -> None:
        """The broker ends: send what there is, then the end of the stream."""
        if not self.closing:
            self._detach()
            self.closing = True
            self.flush()

    def drop(self, why: str) -> None:
        """Close at once. Twice does nothing."""
        if self.sock.fileno() < 0:
            return
        if why:
            log.debug("session %s: %s", self.peer, why)
        self._stop_timer()
        self.broker.hub.poll.unregister(self.sock.fileno())
        self.sock.close()
        self.out.clear()
        self.broker.memory.account(-self.counted)
        self.counted = 0
        if self.under_way:
            self.broker.memory.hold(self, 0)
            assert isinstance(self.connection.reader, Keeper)
            self.connection.reader.skip()  # at once: the session itself may wait for the tick's edge to go
        self.questions.clear()
        self._detach()
        self.broker.gone(self)

    def _stop_timer(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def _detach(self) -> None:
        self.broker.producers.leave(self)
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.detach(None)


#: What may be opened: the channel, and the kind of endpoint.
KINDS: dict[str, tuple[Any, type[Endpoint]]] = {
    "push": (Pusher, Endpoint),
    "pull": (Puller, Endpoint),
    "call": (Caller, Service),
    "serve": (Server, Service),
    "send": (ConduitPusher, Conduit),
    "recv": (ConduitPuller, Conduit),
    "state": (Holder, Value),
    "publish": (Publisher, Broadcast),
    "subscribe": (Subscriber, Broadcast),
}

#: Of which option's limit an error's code speaks.
_LIMITS = {"TOO_BIG": "frame_bytes"}

_ANSWERS: dict[int, Callable[[Session, Event], bytes]] = {STATUS: Session._status, ADMIN: obey}

_HANDLERS = {
    **{kind: Session._channel for made, _ in KINDS.values() for kind in made.frames},
    HELLO: Session._hello,
    OPEN: Session._open,
    CLOSE: Session._close,
    STATUS: Session._ask,
    ADMIN: Session._ask,
    PING: Session._ping,
    PONG: Session._pong,
}


def describe_peer(address: Any) -> str:
    """The peer's address as logs show it."""
    if isinstance(address, tuple):
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return str(address) or "unix"
