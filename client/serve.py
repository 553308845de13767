"""Methods of an object as a service, and such a service as an object: `Remote.serve` and `Remote.wrap`.

A call of a method is the request ``[name, [argument, ...], {name: argument, ...}]``. The name `METHODS`, which no
method can have, asks what there is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from vanilla.exception import Halt

from .request import Request, answer

if TYPE_CHECKING:
    from vanilla.core import Hub

    from .dealer import Dealer
    from .reply import Reply
    from .router import Router

#: Asks for the list of methods: maps with ``name``, ``signature`` and ``doc``.
METHODS = ".methods"


def public_methods(ob: Any, names: Iterable[str] | None) -> dict[str, Callable[..., Any]]:
    """What of *ob* may be called from elsewhere.

    :param names: which; None for all that are public. An underscore in front is never public.
    :raises ValueError: one of *names* is no method of *ob*, or is not public.
    """
    if names is None:
        # What a property would do when it is looked at is nobody's business here.
        found = [name for name in dir(ob) if not name.startswith("_") and not _is_property(ob, name)]
        return {name: method for name in found if callable(method := getattr(ob, name)) and not inspect.isclass(method)}
    methods = {}
    for name in names:
        method = None if name.startswith("_") or not name.isidentifier() else getattr(ob, name, None)
        if not callable(method):
            raise ValueError(f"{name!r} is no public method of {type(ob).__qualname__}")
        methods[name] = method
    return methods


def _is_property(ob: Any, name: str) -> bool:
    return isinstance(inspect.getattr_static(ob, name, None), (property, functools.cached_property))


def describe(methods: dict[str, Callable[..., Any]]) -> list[dict[str, str]]:
    """What a caller is told about them."""
    return [
        {"name": name, "signature": _signature(method), "doc": inspect.getdoc(method) or ""}
        for name, method in sorted(methods.items())
    ]


def _signature(method: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(method))
    except (TypeError, ValueError):  # some that are written in C tell none
        return "(...)"


class Served:
    """The methods of one object, answering one router."""

    def __init__(self, hub: Hub, router: Router, methods: dict[str, Callable[..., Any]], concurrency: int) -> None:
        self.hub = hub
        self.router = router
        self.methods = methods
        #: One item for each request that may still be begun.
        self._free = hub.channel(concurrency)
        for _ in range(concurrency):
            self._free.send(None)

    def run(self) -> None:
        """Take requests and answer each in a task of its own, until the router ends or this task is cancelled."""
        with self.router:
            try:
                while True:
                    self._free.recv()
                    self._begin(self.router.recv())
            except Halt:
                pass  # closed

    def _begin(self, request: Request) -> None:
        task = self.hub.spawn(self._answer, request)

        def cancel() -> None:
            # One that is cancelled before it starts would never give its place back; it looks by itself.
            if task.fiber is not None:
                task.cancel()

        request.oncancel(cancel)

    def _answer(self, request: Request) -> None:
        try:
            if request.cancelled:
                return
            call = self._find(request)
            if call is not None:
                answer(request, call)
        finally:
            self._free.send(None)

    def _find(self, request: Request) -> functools.partial[Any] | None:
        """What *request* asks for. None: that cannot be, and the caller has been told."""
        item = request.item
        if not (
            type(item) is list
            and len(item) == 3
            and [type(part) for part in item] == [str, list, dict]
            and all(type(key) is str for key in item[2])
        ):
            request.fail("BAD_CALL", "a call is [method, [argument, ...], {name: argument, ...}]")
            return None
        name, args, kwargs = item
        if name == METHODS:
            return functools.partial(describe, self.methods)
        method = self.methods.get(name)
        if method is None:
            request.fail("NO_METHOD", f"there is no method {name[:100]!r}")
            return None
        return functools.partial(method, *args, **kwargs)


class Wrapped:
    """Somebody's methods, elsewhere; made by `Remote.wrap`. Each call returns a `Reply`."""

    def __init__(self, dealer: Dealer, options: dict[str, Any]) -> None:
        self._dealer = dealer
        self._options = options

    def __getattr__(self, name: str) -> Callable[..., Reply]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Reply:
            return self._dealer.call([name, args, kwargs], **self._options)

        return call
