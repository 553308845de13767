"""`vanilla bench`: load through a broker that runs, size after size of messages.

    pushers -- bench.RANDOM --> pullers

Each pusher and puller is a process of its own (`benchwork`), gone when the command ends, however it ends. What they
could not finish is taken out of the queue again: an operator's broker is left as it was.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vanilla.core import Hub
from vanilla.exception import ConnectionLost, Halt, Refused, Timeout

from .benchresult import Result, heading
from .benchtrial import Trial, empty, look_at, messages_in
from .commands import connect, interrupt_waits
from .failed import Failed
from .family import ended_by_signals, undisturbed_end
from .progress import Line, width
from .remote import Remote
from .table import number, plural

log = logging.getLogger("vanilla.client")

#: What msgpack puts before the bytes of a message, at most.
HEAD_BYTES = 5
#: How long to wait until the queue of a bench that did not end well is empty, in ms.
EMPTY_MS = 2_000


def bench(args: Namespace) -> None:
    """Run it.

    :raises Failed: messages are missing or came twice, or it could not be done.
    :raises ConnectionLost: the broker is gone.
    """
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vanilla-bench-")))
        hub = stack.enter_context(Hub())
        remote = stack.enter_context(connect(hub, args))
        interrupt_waits(hub)
        name = args.name or f"bench.{secrets.token_hex(4)}"
        _check(remote, name, max(args.size))
        run = stack.enter_context(_Bench(hub, remote, folder, name, args))
        stack.enter_context(undisturbed_end())
        run.run()


def _check(remote: Remote, name: str, largest: int) -> None:
    """Can it be done, and would it disturb nobody?"""
    if largest + HEAD_BYTES > remote.message_limit:
        most = remote.message_limit - HEAD_BYTES
        raise Failed(f"messages of {largest} bytes are too big: the broker takes up to {most}")
    endpoint = look_at(remote, name)
    if messages_in(endpoint):
        kinds = ", ".join(f"{endpoint[kind]} {kind.replace('_', ' ')}" for kind in ("ready", "delayed", "in_flight"))
        raise Failed(f"the queue {name!r} is not empty: {kinds}")
    if endpoint:
        users = f"{plural(endpoint['pushers'], 'pusher')}, {plural(endpoint['pullers'], 'puller')}"
        raise Failed(f"the queue {name!r} is in use: {users}")


class _Bench:
    """All sizes. To leave the block in the middle of one is to empty its queue."""

    def __init__(self, hub: Hub, remote: Remote, folder: Path, name: str, args: Namespace) -> None:
        self.hub = hub
        self.remote = remote
        self.folder = folder
        self.name = name
        self.args = args
        self.results: list[Result] = []
        self._line = Line()

    def run(self) -> None:
        """One size after the other; whatever ends it, what was found is told."""
        self._say(self._plan())
        self._say(heading())
        try:
            for size in self.args.size:
                self._try(size)
        finally:
            self._line.clear()
            if self.args.json:
                print(json.dumps(self._as_json()), flush=True)

    def _try(self, size: int) -> None:
        with Trial(self.hub, self.remote, self.folder, self.name, size, self.args, self._show) as trial:
            try:
                result = trial.run()
            except KeyboardInterrupt:
                if trial.result().received:
                    self._add(trial.result())
                raise
        self._add(result)
        if result.fault:
            raise Failed(result.fault)

    def _show(self, text: Any) -> None:
        self._line.show(lambda: text()[: width() - 1])

    def _add(self, result: Result) -> None:
        self.results.append(result)
        self._line.clear()
        self._say(result.row())

    def _say(self, text: str) -> None:
        if not self.args.json:
            print(text, flush=True)

    def _plan(self) -> str:
        args = self.args
        calls = f", {args.many} messages a call" if args.many else ""
        pace = "as fast as it goes" if math.isinf(args.rate) else f"{number(args.rate)} msgs/s of each pusher"
        pushers, pullers = plural(args.pushers, "pusher"), plural(args.pullers, "puller")
        return f"{pushers}, {pullers}{calls}; {pace}, {args.seconds:g} s a size; queue {self.name!r} at {args.url}"

    def _as_json(self) -> dict[str, Any]:
        args = self.args
        return {
            "url": args.url,
            "name": self.name,
            "pushers": args.pushers,
            "pullers": args.pullers,
            "rate": None if math.isinf(args.rate) else args.rate,
            "many": args.many,
            "seconds": args.seconds,
            "complete": [result.size for result in self.results if result.complete] == args.size,
            "sizes": [result.as_json() for result in self.results],
        }

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        try:
            left = empty(self.remote, self.name, EMPTY_MS)
        except (ConnectionLost, Halt, Refused, Timeout):
            return  # the broker is gone, or as good as that
        if left:
            log.warning("%s left in the queue %r", plural(left, "message"), self.name)
