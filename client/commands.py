"""`vanilla push`, `vanilla pull` and `vanilla status`."""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import Any, Callable

from vanilla.core import Hub
from vanilla.exception import Closed, ConnectionLost, Refused, Rejected, Timeout
from vanilla.protocol.urls import parse
from vanilla.signal import subscribe

from .failed import Failed
from .jsonlines import EXPANSION, decode, encode
from .remote import Remote
from .sender import PushSender
from .stdio import Output, chunks, lines
from .table import plural, table
from .tlsflags import files

log = logging.getLogger("vanilla.client")

#: How long ctrl-C waits for confirms, and for the broker to have read what was acknowledged, in ms.
LINGER_MS = 2_000
#: How long the rest waits for the latter, in ms.
ARRIVE_MS = 10_000
#: A send that waits so long says so, in ms.
PATIENCE_MS = 1_000
#: What the shell gets after ctrl-C, and after SIGPIPE: 128 and the signal's number.
INTERRUPTED, NO_READER = 130, 141


def push(args: Namespace) -> None:
    """A JSON value a line, from stdin to an endpoint."""
    send_lines(args, lambda remote: remote.push(args.name))


def send_lines(args: Namespace, sender: Callable[[Remote], PushSender]) -> None:
    """Send each line of stdin to what *sender* makes of a connection, and wait for the confirms."""
    fd = descriptor(sys.stdin, "stdin")
    with Hub() as hub, connect(hub, args) as remote:
        interrupt_waits(hub)
        jobs = sender(remote)
        longest = remote.message_limit * EXPANSION
        source = chunks(hub, fd, remote.events, lambda: _check(jobs))
        _Push(remote, jobs, args.name, longest).run(lines(source, longest))


def _check(jobs: PushSender) -> None:
    """Can it still send? If not, `sync` raises the reason."""
    if jobs.halted:
        jobs.sync()


class _Push:
    """One `vanilla push`, which can say at any moment how far it came."""

    def __init__(self, remote: Remote, jobs: PushSender, name: str, longest: int) -> None:
        self.remote = remote
        self.jobs = jobs
        self.name = name
        #: The longest line that may be a message, in bytes.
        self.longest = longest
        self.sent = 0
        #: The number of the line that was read and is not sent yet, or 0.
        self.line = 0
        self.patience = PATIENCE_MS

    def run(self, source: Iterable[bytes]) -> None:
        """Send each line of *source*, and wait for the confirms."""
        try:
            self._send_all(source)
            self.jobs.sync()
            if self.jobs.lost:
                log.warning("%s", self._losses())
        except (ConnectionLost, Refused) as error:
            raise Failed(f"{error}; {self._account()}") from None
        except KeyboardInterrupt:
            raise self._interrupted() from None

    def _send_all(self, source: Iterable[bytes]) -> None:
        try:
            for number, line in enumerate(source, 1):
                self.line = number
                self._send_line(line)
                self.line = 0
        except (ValueError, TypeError, RecursionError, Rejected) as error:
            number, self.line = self.line, 0
            raise self._give_up(f"line {number}: {error}") from None
        except OSError as error:
            raise self._give_up(f"cannot read stdin: {error.strerror}") from None

    def _send_line(self, line: bytes) -> None:
        if len(line) > self.longest:
            limit = self.remote.message_limit
            raise ValueError(f"longer than {self.longest} bytes; the broker takes messages of up to {limit} bytes")
        if line.strip():
            self._send(decode(line))
            self.sent += 1

    def _send(self, item: Any) -> None:
        try:
            self.jobs.send(item, self.patience)
        except Timeout:
            log.warning("queue %r is full; waiting for room", self.name)
            self.patience = -1  # once is enough
            self.jobs.send(item)

    def _give_up(self, text: str) -> Failed:
        """What was sent is still confirmed."""
        self.jobs.sync()
        return Failed(f"{text}; {self._account()}")

    def _interrupted(self) -> Failed:
        try:
            self.jobs.sync(LINGER_MS)
        except (ConnectionLost, Refused, Timeout, KeyboardInterrupt):
            pass
        said = Failed(f"interrupted; {self._account()}", INTERRUPTED)
        log.setLevel(logging.ERROR)  # that is all that there is to say
        self.remote.close(linger=0)
        return said

    def _account(self) -> str:
        """What became of the lines that were read."""
        left, lost = self.jobs.unconfirmed, self.jobs.lost
        if lost and not left:
            text = self._losses()
        elif not self.sent:
            text = "nothing was sent"
        elif self.sent == 1:
            text = f"the one message sent is {'not ' if left else ''}confirmed"
        elif not left:
            text = f"all {self.sent} messages sent are confirmed"
        else:
            text = f"{left} of {self.sent} messages sent {'is' if left == 1 else 'are'} not confirmed"
        return f"{text}; from line {self.line} on nothing was sent" if self.line else text

    def _losses(self) -> str:
        """What the way has lost."""
        return f"{self.jobs.lost} of {plural(self.sent, 'message')} sent {'is' if self.jobs.lost == 1 else 'are'} lost"


def pull(args: Namespace) -> None:
    """Items of an endpoint to stdout, a line each."""
    fd = descriptor(sys.stdout, "stdout")
    with Hub() as hub, connect(hub, args) as remote, remote.pull(args.name, ack=True) as jobs:
        interrupt_waits(hub)
        _Pull(remote, jobs, Output(hub, fd, jobs.close)).run(args.count, args.timeout)


class _Pull:
    """One `vanilla pull`, which ends only when the broker has read its acknowledgements, or says so."""

    def __init__(self, remote: Remote, jobs: Any, output: Output) -> None:
        self.remote = remote
        self.jobs = jobs
        self.output = output
        self.written = 0

    def run(self, count: int | None, timeout: float) -> None:
        """Print *count* messages, None for no end."""
        end: Failed | None = None
        try:
            self._print_all(count, timeout)
        except (BrokenPipeError, Closed):
            end = Failed("", NO_READER)
        except Timeout:
            end = Failed(f"nothing came in {timeout:.0f} ms")
        except KeyboardInterrupt:
            end = Failed("", INTERRUPTED)
        except OSError as error:
            end = Failed(f"cannot write: {error.strerror}")
        except Failed as error:
            end = error
        except (ConnectionLost, Refused) as error:
            raise Failed(f"{error}{self._doubt()}") from None
        self._arrive(end)

    def _print_all(self, count: int | None, timeout: float) -> None:
        """Acknowledge each item when its line is written, and not before."""
        while self.written != count:
            delivery = self.jobs.recv(timeout)
            try:
                line = encode(delivery.item)
            except ValueError as error:
                delivery.nack()
                raise Failed(
                    f"a message cannot be written: {error}; it was refused, and is delivered again or a dead letter"
                ) from None
            self.output.write(line)
            delivery.ack()
            self.written += 1

    def _arrive(self, end: Failed | None) -> None:
        """Be sure that the broker has read the acknowledgements: it answers in order. Then end with *end*."""
        status = end.status if end else 1
        try:
            if self.written:
                self.remote.ping(LINGER_MS if status == INTERRUPTED else ARRIVE_MS)
        except (ConnectionLost, Timeout) as error:
            raise Failed(f"{error}{self._doubt()}", status) from None
        except KeyboardInterrupt:
            raise Failed(f"interrupted{self._doubt()}", INTERRUPTED) from None
        if end:
            raise end

    def _doubt(self) -> str:
        """Acknowledgements are not confirmed one by one."""
        if not self.written:
            return ""
        if self.written == 1:
            return "; the one message written may come again"
        return f"; the last of the {self.written} messages written may come again"


def status(args: Namespace) -> None:
    """What the broker says of itself."""
    with Hub() as hub, connect(hub, args) as remote:
        said = remote.status()
    print(json.dumps(said, ensure_ascii=False) if args.json else table(said, args.url))


def dial(hub: Hub, url: str, **more: Any) -> Remote:
    """Connect as a command does: once. Who has a shell can start it again, and wants to know."""
    return hub.client.connect(url, reconnect=False, **more)


def way(args: Namespace) -> dict[str, Any]:
    """How `Service.connect` gets to the broker that a command line names; all paths are as they were given."""
    return {"url": args.url, "token_file": args.token_file, **files(args)}


def connect(hub: Hub, args: Namespace) -> Remote:
    """The broker that a command line names. If none is there, the error says how to start one."""
    try:
        return dial(hub, **way(args))
    except ConnectionLost as error:
        raise Failed(f"{error}{_advice(error, args.url)}") from None
    except ValueError as error:
        raise Failed(str(error)) from None


def _advice(error: ConnectionLost, url: str) -> str:
    """How to start a broker, if none is there and it would be on this machine."""
    nobody = getattr(error.__cause__, "errno", None) in (errno.ECONNREFUSED, errno.ENOENT)
    if not nobody or not parse(url).is_local:
        return ""
    return f" (to start a broker: vanilla-broker --listen {url}{' --tls-cert FILE' if url.startswith('tls:') else ''})"


def interrupt_waits(hub: Hub) -> None:
    """From here on ctrl-C ends a wait, and never comes in the middle of something else: what is counted is exact."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        subscribe(hub, signal.SIGINT, lambda: hub.interrupt_main(KeyboardInterrupt()))


def descriptor(file: Any, name: str) -> int:
    """The descriptor behind *file*; if that is closed its number may be anybody's."""
    if file is None:
        raise Failed(f"{name} is closed")
    fd: int = file.fileno()
    return fd
