"""`vanilla pub`, `sub`, `set` and `get`: broadcasts and states from and to the shell."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from typing import Any

from vanilla.core import Hub
from vanilla.exception import Closed, Refused, Timeout

from .commands import INTERRUPTED, NO_READER, connect, descriptor, interrupt_waits, send_lines
from .failed import Failed
from .jsonlines import decode, encode
from .remote import Remote
from .stdio import Output

log = logging.getLogger("vanilla.client")

#: How long `set` waits for the broker's confirm, in ms.
CONFIRM_MS = 10_000


def pub(args: Namespace) -> None:
    """A JSON value a line, from stdin to all who subscribe."""
    send_lines(args, lambda remote: remote.broadcast(args.name).sender)


def sub(args: Namespace) -> None:
    """Items of a broadcast to stdout, a line each."""
    fd = descriptor(sys.stdout, "stdout")
    with Hub() as hub, connect(hub, args) as remote, remote.broadcast(args.name).subscribe() as news:
        interrupt_waits(hub)
        missed = 0
        for _ in _written(hub, fd, news, args.count, args.timeout):
            if news.missed > missed:
                log.warning("missed %d messages: they came faster than they were read", news.missed - missed)
                missed = news.missed


def set_value(args: Namespace) -> None:
    """A JSON value becomes that of a state."""
    try:
        value = decode(args.value.encode())
    except ValueError as error:
        raise Failed(f"this is no JSON value: {error}", 2) from None
    with Hub() as hub, connect(hub, args) as remote:
        interrupt_waits(hub)
        state = remote.state(args.name)
        try:
            state.send(value)
        except (TypeError, ValueError) as error:
            raise Failed(f"this cannot be sent: {error}") from None
        state.sync(CONFIRM_MS)
        if args.hold:
            _hold(state)
        elif _alone(remote, args.name):
            log.warning("nobody else is attached to %r: its value goes with this command; see --hold", args.name)


def _hold(state: Any) -> None:
    """Stay attached until ctrl-C, or until the broker goes."""
    changes = state.changes()
    try:
        while True:
            changes.recv()
    except KeyboardInterrupt:
        raise Failed("", INTERRUPTED) from None


def _alone(remote: Remote, name: str) -> bool:
    """Is nobody else attached to a state? Who may not ask the broker is not told."""
    try:
        endpoints = {endpoint["name"]: endpoint for endpoint in remote.status()["endpoints"]}
    except Refused:
        return False
    count: int = endpoints[name]["pushers"]
    return count == 1


def get(args: Namespace) -> None:
    """The value of a state to stdout, and its changes if asked for."""
    fd = descriptor(sys.stdout, "stdout")
    with Hub() as hub, connect(hub, args) as remote, remote.state(args.name).changes() as changes:
        interrupt_waits(hub)
        for _ in _written(hub, fd, changes, None if args.follow else 1, args.timeout):
            args.timeout = -1  # it is for the first


def _written(hub: Hub, fd: int, recver: Any, count: int | None, timeout: float) -> Any:
    """Write what comes to *fd*, up to *count* lines, and yield after each.

    :raises Failed: nothing came in *timeout* ms, ctrl-C, nobody reads the output.
    """
    output = Output(hub, fd, recver.close)
    written = 0
    try:
        while written != count:
            item = recver.recv(timeout)
            try:
                line = encode(item)
            except ValueError as error:
                log.warning("a message cannot be written: %s; it is passed over", error)
                continue
            output.write(line)
            written += 1
            yield
    except (BrokenPipeError, Closed):
        raise Failed("", NO_READER) from None
    except Timeout:
        raise Failed(f"nothing came in {timeout:.0f} ms") from None
    except KeyboardInterrupt:
        raise Failed("", INTERRUPTED) from None
