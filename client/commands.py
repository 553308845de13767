"""`vanilla push`, `vanilla pull` and `vanilla status`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from vanilla.core import Hub
from vanilla.exception import Closed, ConnectionLost, Timeout
from vanilla.protocol.errors import Refused

from .failed import Failed
from .jsonlines import decode, encode
from .remote import Remote
from .sender import PushSender
from .stdio import Output, chunks, lines
from .table import table

#: How long ctrl-C waits for confirms, in ms.
LINGER_MS = 2_000
#: What the shell gets after ctrl-C, and after SIGPIPE: 128 and the signal's number.
INTERRUPTED, NO_READER = 130, 141


def push(args: Namespace) -> None:
    """A JSON value a line, from stdin to an endpoint."""
    fd = _descriptor(sys.stdin, "stdin")
    with Hub() as hub, _connect(hub, args.url) as remote:
        jobs = remote.push(args.name)
        _Push(jobs).run(lines(chunks(hub, fd, remote.events, lambda: _check(jobs))))


def _check(jobs: PushSender) -> None:
    """Can it still send? If not, `sync` raises the reason."""
    if jobs.halted:
        jobs.sync()


class _Push:
    """One `vanilla push`, which can say at any moment how far it came."""

    def __init__(self, jobs: PushSender) -> None:
        self.jobs = jobs
        self.sent = 0

    def run(self, source: Any) -> None:
        """Send each line of *source*, and wait for the confirms."""
        try:
            self._send_all(source)
            self.jobs.sync()
        except (ConnectionLost, Refused) as error:
            raise Failed(f"{error}; {self._account()}") from None
        except KeyboardInterrupt:
            raise Failed(self._interrupted(), INTERRUPTED) from None

    def _send_all(self, source: Any) -> None:
        for number, line in enumerate(source, 1):
            if not line.strip():
                continue
            try:
                self.jobs.send(decode(line))
            except (ValueError, TypeError, RecursionError) as error:
                self.jobs.sync()
                raise Failed(f"line {number}: {error}; all {self.sent} messages before it are confirmed") from None
            self.sent += 1

    def _interrupted(self) -> str:
        try:
            self.jobs.sync(timeout=LINGER_MS)
        except (ConnectionLost, Refused, Timeout):
            pass
        return f"interrupted; {self._account()}"

    def _account(self) -> str:
        return f"{self.jobs.unconfirmed} of {self.sent} messages sent are unconfirmed"


def pull(args: Namespace) -> None:
    """Items of an endpoint to stdout, a line each."""
    fd = _descriptor(sys.stdout, "stdout")
    with Hub() as hub, _connect(hub, args.url) as remote, remote.pull(args.name, ack=True) as jobs:
        output = Output(hub, fd, jobs.close)
        try:
            _print_all(jobs, output, args.count, args.timeout)
        except (BrokenPipeError, Closed):
            _arrive(remote)
            raise Failed("", NO_READER) from None
        except Timeout:
            _arrive(remote)
            raise Failed(f"nothing came in {args.timeout:.0f} ms") from None
        _arrive(remote)


def _print_all(jobs: Any, output: Output, count: int | None, timeout: float) -> None:
    """Acknowledge each item when its line is written, and not before."""
    done = 0
    while done != count:
        delivery = jobs.recv(timeout)
        try:
            line = encode(delivery.item)
        except ValueError as error:
            delivery.nack()
            raise Failed(f"a message cannot be written: {error}; it was refused, and is delivered again") from None
        output.write(line)
        delivery.ack()
        done += 1


def _arrive(remote: Remote) -> None:
    """Be sure that the broker has read the acknowledgements: it answers in order."""
    remote.ping()


def status(args: Namespace) -> None:
    """What the broker says of itself."""
    with Hub() as hub, _connect(hub, args.url) as remote:
        said = remote.status()
    print(json.dumps(said, ensure_ascii=False) if args.json else table(said, args.url))


def _connect(hub: Hub, url: str) -> Remote:
    try:
        return hub.client.connect(url)
    except ConnectionLost as error:
        raise Failed(f"{error} (to start a broker: vanilla-broker --listen {url})") from None


def _descriptor(file: Any, name: str) -> int:
    """The descriptor behind *file*; if that is closed its number may be anybody's."""
    if file is None:
        raise Failed(f"{name} is closed")
    fd: int = file.fileno()
    return fd
