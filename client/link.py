"""A link: the connection to a broker, its output, its loss, and its end.

It has no task while it is up: the socket's readiness drives it in the hub's loop, and at each tick's edge it gathers
what its channels have to say (data, acknowledgements, credit) and writes it with one call.

When a batch leaves: at once if nothing was sent since the last poll, else at the tick's edge, or when it is large or
old enough (`push.PushState`). ``fresh`` is that "nothing was sent". Of calls there is a bit more to it (`dealer`).

When the connection is lost, each channel's state is told to `suspend`: it forgets what was the connection's alone, and
keeps what it stands for. A task then connects again (`redial` says when), and each state is told to `reopen` its
channel, under the same number; waiting tasks just go on waiting. While the link is ``down`` what is said by `put` is
dropped, for `reopen` says all that is to be said.

A link that has ended stays ended: ``error()`` says why, and everybody who waits on any of its channels is told at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from vanilla import __version__, tcp, tls, unix
from vanilla.deadline import Deadline
from vanilla.exception import Closed, ConnectionLost, Forked, Refused, Timeout
from vanilla.outbox import Outbox
from vanilla.poll import IN, OUT
from vanilla.protocol.connection import VERSION, Connection, Event
from vanilla.protocol.errors import ProtocolError
from vanilla.protocol.frames import (
    ACK,
    ADMIN,
    CANCEL,
    CLEAR,
    CLOSE,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    END,
    ERROR,
    FAIL,
    GO_AWAY,
    HELLO,
    HELLO_LIMIT,
    MORE,
    NACK,
    OPEN,
    PART,
    PING,
    PONG,
    REPLY,
    SCRATCH_BYTES,
    SENT,
    STATUS,
    Buffer,
    pack_control,
)
from vanilla.protocol.scan import DEPTH
from vanilla.protocol.urls import parse
from vanilla.udpsocket import UDPSocket

from . import udp
from .beside import Beside
from .questions import GREETING, Questions
from .redial import ATTEMPT_MS, FINAL, Backoff, Stock, is_final

if TYPE_CHECKING:
    from ssl import SSLContext

    from vanilla.core import Hub, Task
    from vanilla.tlssocket import TLSSocket

    from .arrival import Arrival
    from .state import ChannelState, Speaker

log = logging.getLogger("vanilla.client")

#: Senders wait while more than this is unsent.
OUTPUT_BYTES = 1 << 20


class Link:
    """One connection at a time.

    :param hub: whose loop drives it.
    :param urls: where the broker listens, or the brokers of which one will do; they are tried in turn.
    :param notify: called with (kind, text) of what happens, for `Remote.events`.
    :param context: for tls://.
    :param token: says who we are, to a broker that asks.
    :param backoff: when to connect again; None: never.
    """

    def __init__(
        self,
        hub: Hub,
        urls: Sequence[str],
        notify: Callable[[str, str], object],
        context: SSLContext | None = None,
        token: bytes | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.hub = hub
        self._urls = urls
        #: The one that was connected to last.
        self.url = urls[0]
        self.notify = notify
        #: What is pushed and published may be lost. (All URLs say the same of it.)
        self.loose = not parse(urls[0]).reliable
        #: What is on its way beside the stream, of a connection where it may.
        self.beside: Beside | None = None
        self._context = context
        self._token = token
        self.backoff = backoff
        self.id = os.urandom(16)
        #: The id of the broker's process.
        self.broker = b""
        #: Is there no connection, or none yet?
        self.down = True
        #: The task that connects again.
        self._task: Task | None = None
        #: Why an attempt has failed, and whether it was the last.
        self._fault = ""
        self._final = False
        #: Who waits for a connection.
        self._hopeful: deque[Any] = deque()
        self.connection = Connection("client", bytearray(SCRATCH_BYTES))
        #: The longest frame that the broker takes.
        self.frame_limit = HELLO_LIMIT
        #: How deep a message may nest.
        self.depth = DEPTH
        self.sock: socket.socket | TLSSocket | UDPSocket | None = None
        #: What stands in the reader's buffer, and has to be copied before the next read if it is still wanted.
        self.lent: list[Arrival] = []
        self.out: Outbox = Stock()
        self._interest = IN
        #: Somebody waits for the output to be less than full.
        self.crowded = False
        self._reading = False
        #: Nothing was sent since the last poll.
        self.fresh = True
        self.going_away = False
        self.channels: dict[int, ChannelState] = {}
        #: Those to which frames go: all of them, or none while the link is down.
        self._live: dict[int, ChannelState] = {}
        #: The maps of their OPEN frames.
        self._maps: dict[int, dict[str, Any]] = {}
        self.dirty: dict[Speaker, None] = {}
        self._last_channel = 0
        self._questions = Questions(hub)
        self._ended: Callable[[], Exception] | None = None
        self._unhook: Callable[[], None] = _nothing

    # -- the beginning

    def dial(self, timeout: float) -> None:
        """Connect and shake hands, for the first time.

        :param timeout: ms for all of it.
        :raises ConnectionLost: nobody there, or the other side is no broker of ours.
        :raises Timeout: the time is over.
        """
        deadline = Deadline(timeout)
        for left, url in zip(range(len(self._urls), 0, -1), self._urls):
            try:
                self._attempt(url, deadline.left() / left if timeout > 0 else timeout)
                break
            except BaseException as error:
                if left == 1 or not isinstance(error, (ConnectionLost, Timeout)) or self._is_final(error):
                    self._fault = str(error)
                    self.end(self.loss)
                    raise
        self._begin()

    def _attempt(self, url: str, timeout: float) -> None:
        """Connect to *url* and shake hands.

        :param timeout: ms for all of it.
        :raises ConnectionLost: see `dial`, as for Timeout.
        """
        deadline = Deadline(timeout)
        address = parse(url)
        if address.scheme == "unix":
            sock: socket.socket | TLSSocket | UDPSocket = unix.dial(self.hub, address.path, timeout)
        elif address.scheme == "tls":
            assert self._context is not None
            sock = tls.dial(self.hub, address.host, address.port, self._context, timeout)
        elif address.scheme == "udp":
            sock = udp.dial(self.hub, address.host, address.port, timeout, address.datagram)
        else:
            sock = tcp.dial(self.hub, address.host, address.port, timeout)
        self.url, self.sock = url, sock
        if self.loose:
            assert isinstance(sock, UDPSocket)
            self.beside = Beside(self, sock)
        self.connection = Connection("client", bytearray(SCRATCH_BYTES))
        self._interest = IN
        _links.add(self)
        self.hub.poll.register(sock.fileno(), self._ready, IN)
        try:
            hello = Outbox()
            hello.put(self._pack_hello())
            hello.write(sock)
            self._await(GREETING, deadline.left())
            if self.sock is None:  # lost, right behind the answer
                raise self.loss()
        except OSError as error:
            self._hang_up()
            raise ConnectionLost(f"{url}: {tcp.reason(error)}") from error
        except BaseException:
            self._hang_up()
            raise

    def _is_final(self, error: BaseException) -> bool:
        return self._final or is_final(error)

    def _begin(self) -> None:
        """There is a connection: open all channels on it."""
        self.out = Outbox()
        self.down = False
        self._live = self.channels
        self._unhook = self.hub.at_every_edge(self.edge)
        if self.backoff is not None:
            self.backoff.connected()
        self.notify("connected", self.url)
        self.hub.ready.extend(self._hopeful)
        self._hopeful.clear()
        for state in list(self.channels.values()):
            if self.down:  # lost again
                return
            self.hub.guard(state.reopen)
        self.flush()

    def _pack_hello(self) -> bytes:
        fields: dict[str, Any] = {"v": VERSION, "id": self.id, "agent": f"vanilla/{__version__}"}
        if self._token is not None:
            fields["token"] = self._token
        if self.loose:
            fields["loose"] = True
        return pack_control(HELLO, 0, 0, fields)

    def _await(self, number: int, timeout: float) -> Any:
        try:
            return self._questions.wait(number, timeout)
        except Timeout:
            raise Timeout(f"{self.url}: no answer from the broker in {timeout:.0f} ms") from None

    def ask(self, kind: int, fields: dict[str, Any], timeout: float) -> Any:
        """Send a STATUS, ADMIN or PING and wait for its answer's map.

        :raises Refused: the broker does not answer this to us.
        :raises ConnectionLost: the link ended.
        :raises Timeout: the time is over.
        """
        deadline = Deadline(timeout)
        self._wait_connected(deadline)
        number = self._questions.number()
        self.put(pack_control(kind, 0, number, fields))
        self.flush()
        self.check()
        if self.down:  # to write has found the connection gone
            raise self.loss()
        return self._await(number, deadline.left())

    def _wait_connected(self, deadline: Deadline) -> None:
        """Wait while the link is down."""
        self.check()
        while self.down:
            try:
                self.hub.wait(self._hopeful, "a connection to the broker", deadline.left())
            except Timeout:
                raise Timeout(f"{self.url}: there is no connection: {self._fault}") from None
            self.check()

    # -- input

    def _ready(self, events: int) -> None:
        if events & OUT:
            self.out.blocked = False
            self.flush()
        if events & ~OUT and self.sock is not None:
            self._read()

    def _read(self) -> None:
        self._reading = True
        try:
            if self.lent:
                self._take_back()
            for event in self.connection.read(self._receive):
                _HANDLERS[event.kind](self, event)
        except BlockingIOError:
            pass
        except EOFError:
            self.lost("the broker is gone" if self.going_away else "the broker closed the connection")
        except ProtocolError as error:
            self.faulted(error)
        except OSError as error:
            self.lost(tcp.reason(error))
        except BaseException as error:  # ctrl-C: frames that were read may be lost
            self.lost(f"a read was interrupted: {error!r}")
            raise
        finally:
            self._reading = False

    def _take_back(self) -> None:
        """The reader's buffer is about to be written over."""
        lent, self.lent = self.lent, []
        for arrival in lent:
            if arrival.left:
                arrival.own()

    def poll(self) -> None:
        """Send what there is and read what has come, without a turn of the loop: a select may be on its way."""
        if self.down:
            return
        self._gather()
        self.flush()
        if self.sock is not None:
            self._read()

    def poll_now(self) -> None:
        """`poll`, for who waits no longer, and may ask again and again: while there is no connection the loop gets a
        turn, for it is to make the next."""
        if self.down and self._ended is None:
            self.hub.sleep(0)
        else:
            self.poll()

    def _receive(self, buffers: list[memoryview]) -> int:
        if self.sock is None:  # ended by a handler of this batch
            raise BlockingIOError
        try:
            if len(buffers) == 1:
                return self.sock.recv_into(buffers[0])
            return self.sock.recvmsg_into(buffers)[0]
        finally:
            if self.beside is not None:  # before what the stream says of it
                self.beside.take()

    def _hello(self, event: Event) -> None:
        self.broker = event.payload["id"]
        self.frame_limit = event.payload["frame"]
        self.depth = event.payload.get("depth", DEPTH)
        self._questions.answer(GREETING, event.payload)

    def _error(self, event: Event) -> None:
        code, text = event.payload["code"], event.payload["text"]
        self.notify("error", f"{code}: {text}")
        if event.channel:
            state = self._live.get(event.channel)
            if state is not None:
                state.refused(code, text)
        elif "request" in event.payload:
            self._questions.answer(event.payload["request"], None, Refused(code, text))
        else:
            self.lost(f"the broker ended the connection: {code}: {text}", final=code in FINAL)

    def _go_away(self, event: Event) -> None:
        self.going_away = True
        self.notify("going_away", f"the broker ends in {event.payload['drain']} ms at the latest")

    def _reply(self, event: Event) -> None:
        self._questions.answer(event.seq, event.payload)

    def _ping(self, event: Event) -> None:
        self.put(pack_control(PONG, 0, event.seq))

    def _opened(self, event: Event) -> None:
        state: Any = self._live.get(event.channel)
        if state is not None:
            state.opened(event.seq)
            if event.payload and OPEN in state.frames:
                state.frames[OPEN](state, event)

    def _closed(self, event: Event) -> None:
        """The broker has forgotten the channel; so has the connection's table."""

    def live(self, channel: int) -> ChannelState | None:
        """The state to which frames on *channel* go."""
        return self._live.get(channel)

    def _channel(self, event: Event) -> None:
        state: Any = self._live.get(event.channel)
        if state is not None:
            state.frames[event.kind](state, event)

    # -- channels

    def open(
        self, kind: str, name: str, state: ChannelState, first: int = 0, fields: dict[str, Any] | None = None
    ) -> int:
        """Ask for an endpoint; *first* is the number of the first message that we shall push.

        :param fields: what else OPEN says.

        :return: the channel's number.
        """
        self.check()
        self._last_channel += 1
        number = self._last_channel
        self.channels[number] = state
        self._maps[number] = {"kind": kind, "name": name, **(fields or {})}
        if not self.down:
            self._put_open(number, first, self._maps[number])
        return number

    def _put_open(self, number: int, first: int, fields: dict[str, Any]) -> None:
        self.connection.opening(number, fields["kind"])
        self.put(pack_control(OPEN, number, first, fields))

    def reopen(self, state: ChannelState, first: int, resume: bool = False) -> None:
        """Ask for the endpoint of *state* on this connection, as it was asked for on others.

        :param first: the number of the next message, request or item, sent or delivered.
        :param resume: what is known of this channel, this broker's process may know, too.
        """
        fields = self._maps[state.id]
        self._put_open(state.id, first, {**fields, "resume": True} if resume else fields)

    def exchange(self, state: ChannelState, first: int) -> int:
        """The broker has refused the channel of *state*: ask for another one, with *first* to begin with.

        :return: its number.
        """
        fields = self._maps[state.id]
        self.close_channel(state)
        return self.open(fields["kind"], fields["name"], state, first, fields)

    def amend(self, state: ChannelState, fields: dict[str, Any]) -> None:
        """Say *fields*, too, when the channel of *state* is opened on another connection."""
        if state.id in self._maps:
            self._maps[state.id].update(fields)

    def let_go(self, state: ChannelState) -> None:
        """The link is down, and there is no need to open the channel of *state* when it is up."""
        self.channels.pop(state.id, None)
        self._maps.pop(state.id, None)

    def close_channel(self, state: ChannelState, seen: int = 0, end: bool = False) -> None:
        """Say that we are done with a channel.

        :param seen: the first number that was not handed out.
        :param end: of a pipe or queue: the other end is to be closed, too.
        """
        if self.channels.pop(state.id, None) is not None and not self.down:
            self.connection.closing(state.id)
            self.put(pack_control(CLOSE, state.id, seen, {"end": True} if end else {}))
        self._maps.pop(state.id, None)
        self.dirty.pop(state, None)

    # -- output

    def put(self, *parts: Buffer) -> None:
        """Send *parts* with the next flush, at the tick's edge at the latest."""
        self.out.put(*parts)

    @property
    def full(self) -> bool:
        """Is as much unsent as may be?"""
        return self.out.unsent >= OUTPUT_BYTES

    def edge(self) -> None:
        """The tick's edge: gather what the channels have to say, and write it."""
        if self.down:
            return
        self.fresh = True
        if self.dirty:
            self._gather()
        if (self.out and not self.out.blocked) or self.beside is not None:
            self.flush()

    def _gather(self) -> None:
        """Put out what the channels have to say."""
        for state in list(self.dirty):
            if not state.emit():
                self.dirty.pop(state, None)

    def flush(self) -> None:
        """Write as much as the socket takes."""
        if self.out and self.sock is not None:
            self.fresh = False
            try:
                self.out.write(self.sock)
            except OSError as error:
                self.lost(tcp.reason(error))
                return
        if self.beside is not None and self.beside.flush():
            self.fresh = False
        if self.out.blocked or self._interest != IN:
            self._mind_interest()
        self.relieve()

    def relieve(self) -> None:
        """Let those go on who wait for the output to be less than full, if it is."""
        if self.crowded and not self.full:
            self.crowded = False
            for state in list(self.channels.values()):
                state.drained()

    def _mind_interest(self) -> None:
        """Wait for the socket to take more, while there is more."""
        interest = IN | OUT if self.out.blocked else IN
        if self.sock is None or interest == self._interest:
            return
        self._interest = interest
        self.hub.poll.modify(self.sock.fileno(), interest)

    # -- the end

    def check(self) -> None:
        """Is the link up?

        :raises ConnectionLost: the broker is gone.
        :raises Closed: it was closed here.
        :raises Forked: it is the parent process's.
        """
        if self._ended is not None:
            raise self._ended()

    @property
    def ended(self) -> bool:
        return self._ended is not None

    def error(self) -> Exception:
        """Why it ended, made anew for each who asks: an exception is one raiser's."""
        assert self._ended is not None
        return self._ended()

    def loss(self) -> ConnectionLost:
        """Why there is no connection for now, made anew for each who asks."""
        return ConnectionLost(self._fault)

    def lost(self, why: str, final: bool = False) -> None:
        """The connection is gone.

        :param final: another one would end in the same way.
        """
        if self._ended is not None:
            return
        self._fault = f"{self.url}: {why}"
        if self.down:  # in the middle of the handshake
            self._final |= final
            self._hang_up()
            self._questions.answer(GREETING, None, self.loss())
        elif final or self.backoff is None or self.hub.stopping:
            self._give_up()
        else:
            self._suspend()
            self.backoff.lost()
            self._task = self.hub.spawn(self._redial, self.backoff)

    def _suspend(self) -> None:
        """There is no connection for now."""
        self.down = True
        self.going_away = self.fresh = self.crowded = False
        self._live = {}  # what is left of this read is nobody's
        self._hang_up()
        self.out = Stock()
        for state in list(self.channels.values()):
            self.hub.guard(state.suspend)
        self.dirty.clear()
        self.notify("lost", self._fault)
        self._questions.fail(self.loss)

    def _redial(self, backoff: Backoff) -> None:
        """Connect again: to one URL after the other, and after a pause all over again."""
        while self._ended is None:
            pause = backoff.pause()
            self.notify("reconnecting", f"{', '.join(self._urls)}: in {pause:.0f} ms")
            self.hub.sleep(pause)
            for url in self._urls:
                try:
                    self._attempt(url, ATTEMPT_MS)
                except Exception as error:  # whatever it is: to stop here would be to keep all who wait for ever
                    if not isinstance(error, (ConnectionLost, Timeout, OSError)):
                        log.exception("%s: to connect again failed", url)
                    self._fault = str(error)
                    if self._is_final(error):
                        self._give_up()
                        return
                else:
                    self._task = None
                    self._begin()
                    return

    def _give_up(self) -> None:
        self._task = None
        self.end(self.loss)
        self.notify("lost", self._fault)

    def _hang_up(self) -> None:
        """Close the socket, if there is one."""
        self._unhook()
        self._unhook = _nothing
        self.lent.clear()
        self.beside = None
        sock, self.sock = self.sock, None
        if sock is not None:
            if not self.hub.forked:
                self.hub.poll.unregister(sock.fileno())
            sock.close()

    def call_closers(self, state: Any) -> None:
        """*state* has ended. In the middle of a read its closers wait for the edge: what they do might read again."""
        closers, state.closers = state.closers, []
        for f, args in closers:
            if self._reading:
                self.hub.at_edge(partial(self.hub.guard, f, *args))
            else:
                self.hub.guard(f, *args)

    def faulted(self, error: ProtocolError) -> None:
        """The broker broke the protocol."""
        # Who has spoken it before, would break it again; who has not, may be no broker, in a broker's place for now.
        self.lost(f"the broker broke the protocol: {error}", final=not self.down or error.code == "VERSION")

    def end(self, error: Callable[[], Exception]) -> None:
        """End: close the socket and tell everybody who waits. Twice does nothing."""
        if self._ended is not None:
            return
        self._ended = error
        self.down = True
        _links.discard(self)
        self._hang_up()
        task, self._task = self._task, None
        if task is not None and not self.hub.forked:
            task.cancel()
        self.out.clear()
        self.dirty.clear()
        channels, self.channels, self._live = self.channels, {}, {}
        self._maps.clear()
        for state in channels.values():
            state.lose()
        self._questions.fail(error)
        for waiter in self._hopeful:
            waiter.error = error()
        self.hub.ready.extend(self._hopeful)
        self._hopeful.clear()

    def detach(self) -> None:
        """Close every channel, each in its own words: what was handed out and what was not is then known."""
        for state in list(self.channels.values()):
            state.close()

    def close(self) -> None:
        """End it from here; what is still to be sent is sent as far as the socket takes it."""
        if self._ended is None:
            self.edge()
            self.end(lambda: Closed(f"{self.url}: this connection was closed"))

    def disown(self) -> None:
        """In a forked child: this connection is the parent's, and so is whatever waits in its buffers."""
        pid = os.getppid()
        self.end(lambda: Forked(f"{self.url}: this connection was made in process {pid}; connect anew after fork"))

    @property
    def is_here(self) -> bool:
        """Does it belong to this thread?"""
        return self.hub._thread == threading.get_ident()


_HANDLERS: dict[int, Callable[[Link, Event], None]] = {
    HELLO: Link._hello,
    ERROR: Link._error,
    GO_AWAY: Link._go_away,
    STATUS: Link._reply,
    ADMIN: Link._reply,
    PONG: Link._reply,
    PING: Link._ping,
    OPEN: Link._opened,
    CLOSE: Link._closed,
    **dict.fromkeys(
        (
            DATA,
            DATA | MORE,
            DATA_OPTIONS,
            DATA_OPTIONS | MORE,
            CREDIT,
            ACK,
            REPLY,
            PART,
            FAIL,
            END,
            CANCEL,
            CLEAR,
            NACK,
            SENT,
        ),
        Link._channel,
    ),
}

_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _nothing() -> None: ...


def _disown() -> None:
    for link in list(_links):
        link.disown()


os.register_at_fork(after_in_child=_disown)
