"""What `h.thread.pool(n).wrap(ob)` gives: methods that run in a thread."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, Callable

from .message import Recver

Call = Callable[..., Recver]


class Proxy:
    """Stands for *ob*, or for what is found in it under a path of names.

    To name an attribute does nothing but lengthen the path; a call runs in the pool, and there the path is followed
    too: an attribute may be a property that takes its time, or not be there. Names that begin with an underscore are
    not taken: Python's protocols, which look for such, do not mistake it for what it stands for.
    """

    __slots__ = ("_call", "_ob", "_path")

    def __init__(self, call: Call, ob: Any, path: tuple[str, ...] = ()) -> None:
        self._call = call
        self._ob = ob
        self._path = path

    def __getattr__(self, name: str) -> Proxy:
        if name.startswith("_"):
            raise AttributeError(f"{name!r}: a proxy has no private names; give the object itself to call for those")
        return Proxy(self._call, self._ob, (*self._path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Recver:
        return self._call(partial(_follow, self._ob, self._path, args, kwargs))

    def __repr__(self) -> str:
        return f"<Proxy of {'.'.join((type(self._ob).__name__, *self._path))}>"


def _follow(ob: Any, path: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return reduce(getattr, path, ob)(*args, **kwargs)
