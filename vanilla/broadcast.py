"""A broadcast within one process: what is sent goes to everybody who subscribes, and waits for nobody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from .channel import Channel
from .exception import Closed
from .message import Recver, Sender

if TYPE_CHECKING:
    from .core import Hub

#: Items that wait for a subscriber, unless it says otherwise; beyond them it misses what comes.
BUFFER = 16_384


class Subscription(Recver):
    """What a subscriber receives from.

    :ivar missed: how many items went by because this end was too far behind.
    """

    __slots__ = ()

    @property
    def missed(self) -> int:
        missed: int = self._state.missed
        return missed


class _Feed(Channel):
    """The channel to one subscriber."""

    keeps_cases = True

    __slots__ = ("missed",)

    def __init__(self, hub: Hub, size: int) -> None:
        super().__init__(hub, size, "subscription")
        self.missed = 0


class _Fan(Channel):
    """What is behind the Sender: it never keeps anything itself."""

    __slots__ = ("feeds",)

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, -1, "broadcast")
        self.feeds: dict[_Feed, None] = {}

    def wait_room(self, item: Any, timeout: float) -> None:
        self.hub.check_thread()
        self.give_nowait(item)

    def give_nowait(self, item: Any) -> bool:
        self.has_room()
        for feed in list(self.feeds):
            if feed.halt is None and not feed.give_nowait(item):
                feed.missed += 1
        return True

    def has_room(self) -> bool:
        if self.halt is not None:
            raise self.halt(self._ended("send"))
        return True


class Broadcast:
    """What is sent goes to everybody who subscribes; made by `Hub.broadcast`.

    >>> import vanilla
    >>> with vanilla.Hub() as h:
    ...     news = h.broadcast()
    ...     one, two = news.subscribe(), news.subscribe(size=1)
    ...     news.send("a")
    ...     news.send("b")
    ...     one.recv(), one.recv(), two.recv(), two.missed
    ('a', 'b', 'a', 1)
    """

    __slots__ = ("_fan", "_onempty", "sender")

    def __init__(self, hub: Hub) -> None:
        self._fan = _Fan(hub)
        #: The Sender behind `send`, for `Recver.pipe` and select.
        self.sender = Sender(self._fan)
        self._onempty: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def send(self, item: Any, timeout: float = -1) -> None:
        """Send *item* to all who subscribe. It never waits.

        :raises Closed: this broadcast was closed.
        """
        self.sender.send(item, timeout)

    def send_many(self, items: Iterable[Any], timeout: float = -1) -> None:
        """`Sender.send_many`."""
        self.sender.send_many(items, timeout)

    def subscribe(self, size: int = BUFFER) -> Subscription:
        """A Recver of all that is sent from now on; to close or drop it unsubscribes.

        :param size: items that may wait for it; beyond that they are missed.
        :raises ValueError: *size* is less than 1.
        :raises Closed: this broadcast was closed.
        """
        if size < 1:
            raise ValueError("a subscriber takes at least 1 item")
        self._fan.has_room()
        feed = _Feed(self._fan.hub, size)
        self._fan.feeds[feed] = None
        feed.onclose(self._gone, feed)
        return Subscription(feed)

    def _gone(self, feed: _Feed) -> None:
        self._fan.feeds.pop(feed, None)
        if not self._fan.feeds and self._fan.halt is None:
            for f, args in list(self._onempty):
                self._fan.hub.guard(f, *args)

    def onempty(self, f: Callable[..., object], *args: Any) -> None:
        """Call ``f(*args)`` each time the last subscriber has gone. It must not wait."""
        self._onempty.append((f, args))

    def connect(self, recver: Recver) -> None:
        """Send all that comes from *recver*. Its end is not this one's."""
        recver.pipe(self.sender)

    def close(self) -> None:
        """End it: subscribers still receive what waits for them. Twice does nothing."""
        self._fan.close(Closed)
        for feed in list(self._fan.feeds):
            feed.close()

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Broadcast to {len(self._fan.feeds)}{' (ended)' if self.sender.halted else ''}>"
