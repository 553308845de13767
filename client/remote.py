"""A remote broker: what `h.client.connect` returns."""

from __future__ import annotations

import atexit
import logging
import math
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vanilla.certificates import client_context
from vanilla.channel import Channel, State
from vanilla.deadline import Deadline
from vanilla.exception import Timeout
from vanilla.message import Pair, Recver, Sender
from vanilla.protocol.frames import COUNTED_BYTES, PING, STATUS
from vanilla.protocol.terms import MAX_MS
from vanilla.protocol.urls import UNRELIABLE, check_name, parse
from vanilla.timers import seconds

from .broadcast import RemoteBroadcast
from .conduit import ConduitRecver, ConduitSender, RecvState, SendState, Shape
from .dealer import CallState, Dealer
from .link import Link
from .numbers import whole
from .pull import WINDOW_BYTES, PullState
from .push import PushState
from .recver import PullRecver
from .redial import BACKOFF, Backoff
from .rendezvous import RendezvousState
from .router import Router, RouterState
from .sender import PushSender
from .serve import METHODS, Served, Wrapped, public_methods
from .terms import asked
from .token import Path, token_of
from .value import RemoteState, ValueState
from .waiting import Waiting

if TYPE_CHECKING:
    from ssl import SSLContext

    from vanilla.core import Hub, Task

log = logging.getLogger("vanilla.client")

#: How long `Service.connect` waits, in ms.
CONNECT_MS = 10_000
#: How long closing waits for confirms, in ms.
LINGER_MS = 5_000
#: Events that are kept for a reader; beyond that the oldest go.
EVENTS = 1_000
#: Those that `Remote.link` tells.
LINK = frozenset(("connected", "going_away", "lost", "closed"))


class Event(NamedTuple):
    """Something that happened to a connection: ``connected``, ``going_away``, ``error``, ``lost``, ``reconnecting``
    (the text says when), ``missed`` (a subscriber may have missed something) or ``closed``. And ``lease_expired``:
    deliveries were not settled in time, or not before their connection was lost, and are for others now."""

    kind: str
    text: str


class Remote:
    """A connection to a broker, and the endpoints on it.

    When it is lost, there is a new one as soon as there can be, and all goes on: whoever waits to send, to receive or
    for confirms waits on. Only what cannot be known, or is too late, is told: see `Service.connect`.

    :ivar link: a Recver of the connection's state, which keeps the last value: "connected", "going_away", "lost" or
        "closed".
    :ivar events: a Recver of what happens (`Event`). The last 1,000 are kept.
    """

    def __init__(
        self,
        hub: Hub,
        urls: Sequence[str],
        linger: float,
        context: SSLContext | None = None,
        token: bytes | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.hub = hub
        self._linger = linger
        self._state = Sender(State(hub))
        self.link = Recver(self._state._state)
        self._events = Channel(hub, EVENTS, "events")
        self.events = Recver(self._events)
        self._calls: weakref.WeakValueDictionary[str, CallState] = weakref.WeakValueDictionary()
        self._link = Link(hub, urls, self._notify, context, token, backoff)
        self._pushes: weakref.WeakValueDictionary[str, PushState] = weakref.WeakValueDictionary()
        #: All that may have something unconfirmed.
        self._senders: weakref.WeakSet[PushState | ValueState] = weakref.WeakSet()

    def _connect(self, timeout: float) -> None:
        self._link.dial(timeout)
        _remotes.add(self)
        self.hub.onstop(self.close)

    @property
    def url(self) -> str:
        """Where it is connected, or was last."""
        return self._link.url

    def _notify(self, kind: str, text: str) -> None:
        if kind in LINK and not self._state.halted:  # its reader may have closed it
            self._state.send(kind)
        if len(self._events.buffer) >= EVENTS:
            self._events.buffer.popleft()
        if self._events.halt is None:
            self._events.give_nowait(Event(kind, text))

    # -- endpoints

    def push(self, name: str, **options: Any) -> PushSender:
        """A Sender to the work queue *name*, which is made if it is not there.

        :param options: of the endpoint, see `declare`. Without any it is as it was declared, or as the broker has it: a
            full queue blocks its senders. If somebody has settled another value, the first send raises Refused.
        :raises ValueError: *name* is not UTF-8 of 1 to 255 bytes without control characters; a wrong option.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        options = asked(options, "push")
        state = self._pushes.get(name)
        if state is None or state.halt is not None:
            state = self._pushes[name] = PushState(self._link, name, options)
            self._senders.add(state)
        elif options.items() - state.options.items():
            self.declare(name, **options)  # the channel is there, and was not opened with these
            if state.halt is not None:  # meanwhile whoever had it has closed it
                return self.push(name, **options)
            state.options = {**state.options, **options}
            self._link.amend(state, {"options": state.options})
        self._link.check()
        return PushSender(state, self._linger)

    def declare(self, name: str, timeout: float = CONNECT_MS, **options: Any) -> None:
        """Make the work queue *name* with these options, or see that it has them. It then stays, also while it is empty
        and nobody is connected to it.

        Options that are not named are as the broker has them, or as others have settled them.

        :param timeout: ms to wait for the broker's answer, -1 for ever.
        :param options: ``capacity`` and ``capacity_bytes``: what it holds, in messages and in bytes; ``overflow``:
            while it is full a send waits ("block"), raises `Rejected` ("reject"), or the oldest messages go
            ("drop-oldest"); ``max_attempts`` and ``backoff``: how often a message may fail, and the ms before its
            second delivery, which double; ``dead``: the endpoint for its dead letters; ``ttl`` and ``lease``: the ms
            that a message may wait, and that a consumer has for it; ``dedupe_entries`` and ``dedupe``: how many ids of
            messages are remembered, and for how many ms.
        :raises Refused: CONFLICT: it is there, with another value of an option; or DENIED: where there are permissions
            it takes ``pull`` and ``admin``.
        :raises ValueError: a wrong *name* or option.
        :raises Timeout: no answer in time.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        state = PullState(self._link, name, False, 0, WINDOW_BYTES, {"options": asked(options, "declare")})
        try:
            self.ping(timeout)  # the broker answers in order
            state._check()
        finally:
            state.close()

    def pull(
        self,
        name: str,
        ack: bool = False,
        prefetch: int = 0,
        window: int = WINDOW_BYTES,
        lease: float | None = None,
        **options: Any,
    ) -> PullRecver:
        """A Recver of the work queue *name*, which is made if it is not there.

        Each message goes to one of those who pull.

        :param ack: False: an item is acknowledged as it is handed out. True: you get a `Delivery`, and what you do not
            settle is delivered again when you are gone.
        :param prefetch: how many messages to ask for ahead, which then stay here until they are received; 0 lets it
            size itself by how fast they are taken.
        :param window: bytes that may be under way, or with ``ack`` unsettled; beyond it the broker sends nothing.
        :param lease: ms that you have for a delivery, 0 for ever; what the endpoint says if None. What you neither
            settle nor `Delivery.touch` in time goes to somebody else, and counts as a failed attempt.
        :param options: of the endpoint, see `declare`; its ``lease`` is settled there. If somebody has settled another
            value, the first recv raises Refused.
        :raises ValueError: a wrong *name* or option, or a number out of range.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        prefetch, window = whole(prefetch, "prefetch", 0), whole(window, "window", 1)
        if lease is not None and not 0 <= lease <= MAX_MS:
            raise ValueError(f"a lease is 0 ms or more, and {MAX_MS} at most")
        fields: dict[str, Any] = {"options": asked(options, "pull")} if options else {}
        if lease is not None:
            fields["lease"] = math.ceil(lease)
        return PullRecver(PullState(self._link, name, ack, prefetch, window, fields))

    # -- as on the Hub

    def pipe(self, name: str) -> Pair:
        """A rendezvous between one sender and one receiver, wherever they are: ``send`` returns when the item is taken.

        An end is claimed at its first use, and free again when it is closed, dropped or lost.

        :raises ValueError: a wrong *name*, see `push`.
        :raises ConnectionLost: the broker is gone.
        """
        return self._conduit(name, Shape("pipe", 0))

    def queue(self, name: str, size: int) -> Pair:
        """A `pipe` that holds up to *size* items while nobody receives.

        :raises TypeError, ValueError: *size* is no whole number from 1 on; a wrong *name*.
        :raises ConnectionLost: the broker is gone.
        """
        return self._conduit(name, Shape("queue", whole(size, "the size of a queue", 1)))

    def channel(self, name: str, size: int = 0) -> Pair:
        """Any number of senders and receivers; holds up to *size* items while nobody receives (0, or -1: none).

        :raises TypeError, ValueError: *size* is no whole number from -1 on; a wrong *name*.
        :raises ConnectionLost: the broker is gone.
        """
        return self._conduit(name, Shape("channel", max(whole(size, "the size of a channel", -1), 0)))

    def state(self, name: str) -> RemoteState:
        """A slot that holds the last value sent: all who are attached read it, none takes it out. It stays while
        anybody is.

        :raises ValueError: a wrong *name*.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        state = ValueState(self._link, name)
        self._senders.add(state)
        return RemoteState(state, self._linger)

    def broadcast(self, name: str) -> RemoteBroadcast:
        """``send`` sends an item to everybody who has it from ``subscribe``.

        :raises ValueError: a wrong *name*.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        self._link.check()
        return RemoteBroadcast(self._link, name, self._linger, self._senders.add)

    def _conduit(self, name: str, shape: Shape) -> Pair:
        check_name(name)
        self._link.check()
        state = (SendState if shape.capacity else RendezvousState)(self._link, name, shape)
        self._senders.add(state)
        return Pair(ConduitSender(state, self._linger), ConduitRecver(RecvState(self._link, name, shape)))

    # -- requests and replies

    def dealer(self, name: str) -> Dealer:
        """The asking end of the service *name*: ``dealer.call(item).recv()``.

        :raises ValueError: a wrong *name*, see `push`.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        state = self._calls.get(name)
        if state is None or state.halt is not None:
            state = self._calls[name] = CallState(self._link, name)
        self._link.check()
        return Dealer(state)

    def router(self, name: str, prefetch: int = 0, window: int = WINDOW_BYTES) -> Router:
        """The answering end of the service *name*: a Recver of `Request`. Each goes to one of those who serve.

        :param prefetch: how many requests to ask for ahead; 0 lets it size itself by how fast they are taken.
        :param window: bytes of requests that may be unanswered; beyond it the broker sends nothing.
        :raises ValueError: a wrong *name*, or a number out of range.
        :raises ConnectionLost: the broker is gone.
        """
        check_name(name)
        prefetch, window = whole(prefetch, "prefetch", 0), whole(window, "window", 1)
        return Router(RouterState(self._link, name, prefetch, window))

    def serve(self, name: str, ob: Any, methods: Iterable[str] | None = None, concurrency: int = 1) -> Task:
        """Let others call methods of *ob* by `wrap`.

        What a method returns is the reply; a generator's items become a streamed reply; what it raises is logged, and
        raised at the caller as a `RemoteError`. A call that is cancelled cancels the task that its method runs in.

        :param methods: which; None for all whose names have no underscore in front.
        :param concurrency: how many calls at a time, each in a task of its own.
        :return: the task that takes the requests; to ``cancel`` it ends the service.
        :raises ValueError: one of *methods* is none of *ob*; a wrong *name*; *concurrency* is below 1.
        :raises ConnectionLost: the broker is gone.
        """
        if concurrency < 1:
            raise ValueError("concurrency is 1 or more")
        found = public_methods(ob, methods)
        return self.hub.spawn(Served(self.hub, self.router(name), found, concurrency).run)

    def wrap(
        self,
        name: str,
        deadline: float | None = None,
        wait: bool = False,
        trace: bool = False,
        idempotent: bool = False,
    ) -> Wrapped:
        """Methods that are served elsewhere: ``remote.wrap("calc").add(2, 3).recv()``.

        The options hold for each call, see `Dealer.call`.

        :raises ValueError: a wrong *name*.
        :raises ConnectionLost: the broker is gone.
        """
        options = {"deadline": deadline, "wait": wait, "trace": trace, "idempotent": idempotent}
        return Wrapped(self.dealer(name), options)

    def methods(self, name: str, timeout: float = CONNECT_MS) -> list[dict[str, str]]:
        """What is served by `serve` under *name*.

        :param timeout: ms to wait for the answer, -1 for ever.
        :return: a map for each method: ``name``, ``signature`` and ``doc``.
        :raises RemoteError: nobody serves it, or not by `serve`.
        :raises Timeout: no answer in time.
        :raises ConnectionLost: the broker is gone.
        """
        deadline = None if timeout < 0 else timeout
        found: list[dict[str, str]] = self.dealer(name).call([METHODS, [], {}], deadline=deadline).recv()
        return found

    # -- asking the broker

    @property
    def message_limit(self) -> int:
        """How large a message the broker takes, packed, in bytes."""
        return self._link.frame_limit - COUNTED_BYTES

    def status(self, timeout: float = CONNECT_MS) -> dict[str, Any]:
        """What the broker says of itself and its endpoints.

        :param timeout: ms for each page of up to 100 endpoints.
        :return: ``{"broker": {...}, "endpoints": [{...}, ...]}``, in the order of names.
        :raises Refused: DENIED: it wants the permission ``admin``.
        :raises Timeout: no answer in time.
        :raises ConnectionLost: the broker is gone.
        """
        endpoints: list[Any] = []
        after: str | None = ""
        page: dict[str, Any] = {}
        while after is not None:
            page = self._link.ask(STATUS, {"after": after}, timeout)
            endpoints += page["endpoints"]
            after = page.get("next")
        return {"broker": page["broker"], "endpoints": endpoints}

    def dead(self, name: str) -> Waiting:
        """The dead letters of the endpoint *name*, to look at, send again or drop. With the name of an endpoint of dead
        letters it is that.

        :raises ValueError: a wrong *name*, see `push`.
        """
        return Waiting(self._link.ask, check_name(name), dead=True)

    def waiting(self, name: str) -> Waiting:
        """What waits in the endpoint *name* itself, to look at, move elsewhere or drop.

        :raises ValueError: a wrong *name*, see `push`.
        """
        return Waiting(self._link.ask, check_name(name), dead=False)

    def ping(self, timeout: float = CONNECT_MS) -> float:
        """The round trip to the broker, in ms.

        :raises Timeout: no answer in *timeout* ms.
        :raises ConnectionLost: the broker is gone.
        """
        then = time.monotonic()
        self._link.ask(PING, {}, timeout)
        return (time.monotonic() - then) * 1000

    # -- the end

    def close(self, linger: float | None = None) -> None:
        """Send what is left, wait for its confirms, and close. Twice does nothing.

        :param linger: ms to wait at most, -1 for ever; what `Service.connect` was told if None. What is then left
            unconfirmed is logged.
        """
        deadline = Deadline(self._linger if linger is None else linger)
        self.hub.offstop(self.close)
        _remotes.discard(self)
        if self._link.ended:
            return
        for state in list(self._senders):
            self._settle(state, deadline)
        self._link.detach()
        self._link.close()
        self._notify("closed", self.url)

    def _settle(self, state: PushState | ValueState, deadline: Deadline) -> None:
        if not state.unconfirmed:
            return
        try:
            state.sync(deadline.left())
        except Exception as error:
            log.warning("%s: unconfirmed messages to %r: %d (%s)", self.url, state.name, state.unconfirmed, error)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Remote {self.url}{' (ended)' if self._link.ended else ''}>"


class Service:
    """``h.client``: connections to brokers."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def connect(
        self,
        *urls: str,
        timeout: float = CONNECT_MS,
        linger: float = LINGER_MS,
        ca: str = "",
        cert: str = "",
        key: str = "",
        verify: bool = True,
        token: str | bytes | None = None,
        token_file: Path | None = None,
        reconnect: bool = True,
        backoff: tuple[float, float] = BACKOFF,
    ) -> Remote:
        """Connect to the broker at one of *urls*: they are tried in turn.

        When the connection is lost, there is another as soon as there can be, on which all goes on:

        * What was pushed and not confirmed is sent again. The broker passes over what it has; another process of it
          delivers it with ``redelivered`` set. If it can no longer tell, the next ``send`` or ``sync`` raises
          `Rejected` once. While there is no connection ``send`` takes 1 MiB of items, then it waits; ``sync`` waits.
        * Who receives goes on. What was handed out and not acknowledged is delivered again, perhaps to others; to
          settle the old `Delivery` or `Request` does nothing.
        * Calls wait until they can be asked. Those that were under way fail with `ConnectionLost`, unless they are
          ``idempotent``; so does a rendezvous. What was published, or sent to a queue, and not confirmed may not have
          arrived: the next ``sync`` raises `ConnectionLost` once.
        * ``link`` and ``events`` of the `Remote` tell.

        If a certificate is not accepted, or the broker says that something is wrong with us (as DENIED), it stays lost.

        :param urls: ``tcp://HOST:PORT``, ``tls://HOST:PORT``, ``udp://HOST:PORT`` or ``unix:///PATH``. With
            ``udp://HOST:PORT?reliable=0`` what is pushed and published is sent once, and what subscribers get is, too:
            some of it may be lost, which is counted (`PushSender.lost`, `Subscription.missed`).
        :param timeout: ms for look-up, connection and handshakes together.
        :param linger: ms that closing, and the interpreter's exit, wait for confirms; -1 for ever.
        :param ca: for tls, as the next three: a PEM file of the authorities that may have signed the broker's
            certificate, which has to name HOST. "" is those of the system.
        :param cert: a PEM file with our certificate, if the broker wants one.
        :param key: a PEM file with its key, if that is not in *cert*.
        :param verify: False takes any certificate: only to look into what is wrong.
        :param token: the secret that says who you are, for a broker that asks; text counts as its UTF-8.
        :param token_file: a file that holds it, in place of *token*.
        :param reconnect: False: a connection that is lost stays so, and everything on it raises `ConnectionLost`.
        :param backoff: ms that the first pause before connecting again takes at most, and any later one; it doubles
            each time, and is anything from 0 to that.
        :raises ConnectionLost: there is no broker, or one side does not accept the other's certificate, or the broker
            does not let you in: DENIED.
        :raises Timeout: it does not answer in time.
        :raises ValueError: one of *urls* is none, or there are none; a TLS file is missing or not right, or the token
            has not 16 to 256 bytes; *backoff* is none.
        :raises OSError: *token_file* cannot be read.
        """
        seconds(linger)  # what is no time is to be told now, not at the end
        if not urls:
            raise ValueError("connect to what? A URL is missing")
        for url in urls:
            if not isinstance(url, str):
                raise TypeError(f"a URL is text, and each is an argument of its own, not {url!r}")
        if not isinstance(backoff, tuple) or len(backoff) != 2:
            raise ValueError(f"backoff is two times in ms, of the first pause and the longest, not {backoff!r}")
        secret, addresses, context = token_of(token, token_file), [parse(url) for url in urls], None
        if any(address.scheme == "tls" for address in addresses):
            context = client_context(ca, cert, key, verify)
        elif ca or cert or key or not verify:
            raise ValueError(f"{urls[0]}: certificates are for tls:// only, here nothing is encrypted")
        if len({address.reliable for address in addresses}) > 1:
            raise ValueError(f"{', '.join(urls)}: all of them are to end in {UNRELIABLE}, or none")
        for url, address in zip(urls, addresses):
            if secret is not None and address.scheme == "tcp" and not address.is_local:
                log.warning("%s: the token travels in clear text; whoever listens can use it", url)
        remote = Remote(self.hub, urls, linger, context, secret, Backoff(*backoff) if reconnect else None)
        remote._connect(timeout)
        return remote


_remotes: weakref.WeakSet[Remote] = weakref.WeakSet()


def _close_all() -> None:
    """At the interpreter's exit: what was sent is to arrive, as if each connection had been closed.

    Only here: what another thread's hub still holds, nobody else can send.
    """
    for remote in list(_remotes):
        if remote.hub.stopping or remote.hub.forked:
            continue
        if not remote._link.is_here:
            left = sum(state.unconfirmed for state in list(remote._senders))
            if left:
                log.warning("%s: never closed by its thread; unconfirmed messages: %d", remote.url, left)
            continue
        try:
            remote.close()
        except Timeout as error:
            log.warning("%s: %s", remote.url, error)


atexit.register(_close_all)
