"""``vanilla``: messages from and to the shell, a broker's status, load for it, and the demo.

Whatever goes wrong is one line on stderr and a status that is not 0. 130 is ctrl-C, 141 that nobody reads the output
any more.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from typing import Any, Callable

import vanilla
from vanilla import busypoll
from vanilla.exception import ConnectionLost, Refused, Rejected, Timeout
from vanilla.memory import keep_freed_memory
from vanilla.protocol.scan import KIND
from vanilla.protocol.urls import check_name, parse

from .benchcmd import bench
from .callcmd import call
from .commands import INTERRUPTED, NO_READER, pull, push, status
from .deadcmd import PEEK, dead, peek, purge
from .declarecmd import add_options, declare
from .demo import WORKERS, demo
from .failed import Failed
from .sharing import get, pub, set_value, sub
from .tlsflags import add_flags

log = logging.getLogger("vanilla.client")

DEFAULT_URL = "tcp://127.0.0.1:8264"
#: What `bench` tries unless told otherwise, in bytes.
SIZES = "16,256,4096,65536"
#: Of a number: more are more than anybody has, and more than 64 bits.
DIGITS = 18

PUSH = """\
Each line of stdin is a JSON value, and becomes a message; blank lines are passed over. A line leaves as soon as it is
read. It ends when the broker has confirmed all of them. While the queue is full it waits, and says so once.

{"$bytes": BASE64} becomes bytes. Refused are NaN, infinity, integers beyond 64 bits, text that is no UTF-8, nesting
deeper than 64, and messages larger than the broker takes (1 MiB, if it was not told otherwise). At the first such
line it ends with status 1 and names it; what came before is sent and confirmed. Whenever it ends otherwise, ctrl-C
included, it says how many messages are not confirmed, and from which line on nothing was sent."""
PULL = """\
Each message becomes a line of JSON on stdout, and is acknowledged when its line is written: a message that could not be
written stays in the queue. What a pipe took is written, whether its reader reads it or not; to take just so many
messages use -n. Without -n it goes on until ctrl-C, or until the broker goes (status 1).

What JSON lacks: bytes become {"$bytes": BASE64}, times ISO 8601, the keys of a map their JSON text. A message with NaN
or infinity is refused: it ends with status 1, and the message is delivered again, or becomes a dead letter."""
CALL = """\
Asks a service once. The answer is a line of JSON on stdout; of a streamed answer each item is, as it comes.

One argument is JSON, and is what is asked. Two are METHOD and JSON, for services made by `Remote.serve`: a list holds
the method's arguments, a map its keyword arguments, anything else is its one argument. --method names a method without
arguments, too. JSON is read and written as by push and pull: {"$bytes": BASE64} stands for bytes.

Its status is 1, and one line on stderr says why, if nobody serves NAME, or the server is gone or has answered with an
error. A call is never repeated: whether it was done is then not known. ctrl-C cancels it."""
PUB = """\
Each line of stdin is a JSON value, as for push, and goes to everybody who subscribes right now. It waits for none of
them, and ends when the broker has all."""
SUB = """\
Each message that is published from now on becomes a line of JSON on stdout, as of pull. Who reads too slowly misses
messages: how many, it says on stderr. Without -n it goes on until ctrl-C, or until the broker goes (status 1)."""
SET = """\
The JSON value becomes that of a state, for all who are attached to it. It stays while anybody is: if nobody else is
attached, --hold keeps it there."""
GET = """\
The value of a state becomes a line of JSON on stdout. If there is none, it waits for the first."""
DECLARE = """\
Makes the work queue with these options, or sees that it has them: its status is 1 if it is there with another value of
one. What is not named is as the broker has it, or as others have settled it. One with options stays, also while it is
empty and nobody is connected to it; they cannot be changed while it is there. Times are in ms."""
STATUS = """\
Endpoints exist while somebody is connected to them or something is in them, or with options of their own, which stand
below the table; the second line counts for all, also those that are gone. At every moment accepted is acknowledged +
ready + delayed + in flight + dead + dropped. Rates are messages a second since the last status; bytes are those of
ready, delayed and unsettled messages; oldest is the age of the oldest that waits. In JSON times are in seconds."""
DEAD = """\
The dead letters of NAME (in NAME.dead, or where its option dead says): how many there are, since when, and why they
died. Or, with a word behind NAME: peek shows some, and takes none; replay moves them back to where they died, where
they begin anew; purge drops them for good. Those that a consumer has been sent and has not settled are not among them.

replay moves as many as there is room for; if some stay, its status is 1 and it says why. With --json ages are in ms,
peek writes a line each, and a message is "item", or the "hex" of its packed form if there is no JSON for it."""
WAITING = """\
The messages that wait in NAME itself; what a consumer has been sent and has not settled is not among them. For dead
letters see vanilla dead."""
BENCH = """\
Pushers and pullers, processes of their own on this machine, move messages through the queue as fast as they can, or at
a rate. After each size the pushers stop, and the queue is emptied: what was received must be what was sent, else the
status is 1. Whatever ends it, the queue is left empty. ctrl-C ends it at once, with the figures so far.

msgs/s are those received while the pushers sent, 1 MB is a million bytes. CPU s/M are seconds of CPU time for a million
messages; the broker's is that of its process, whoever else it works for meanwhile. Latency is the time from just before
a send to the end of its recv, so what waits in the queue counts: without --rate that is most of it. To tell, every
100th message carries the time, with --rate below 1,000 each, with --many above 100 the first of a list; those below 16
bytes do not. It is right because all pushers and pullers run on this machine and read one clock, wherever the broker
is."""
DEMO = """\
It starts a broker and worker processes, pushes every .py file of this Python's standard library (site-packages aside)
through a work queue, has the workers count their tokens, and gets the results through a second queue. Then it counts
the same files directly. Its status is 0 only if the totals match. A file that cannot be tokenized is a result, too, and
counts as an error on both sides. With --rpc there are no queues: each file is a call to workers that serve."""


class Intermixed(argparse.ArgumentParser):
    """Options may stand between arguments, of which some may be missing."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="vanilla",
        description="Messages from and to the shell, through a vanilla broker (see vanilla-broker).",
        epilog="Errors are one line on stderr and status 1. ctrl-C is status 130, a reader that is gone 141.",
    )
    p.add_argument("--version", action="version", version=f"vanilla {vanilla.__version__} ({KIND} scanner)")
    commands = p.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Intermixed)

    command = _command(commands, "push", push, "send lines of JSON to an endpoint", PUSH)
    command.add_argument(
        "name", metavar="NAME", type=_checked(check_name), help="the endpoint; made if it is not there"
    )
    _add_url(command)

    command = _command(commands, "pull", pull, "print the messages of an endpoint as lines of JSON", PULL)
    command.add_argument(
        "name", metavar="NAME", type=_checked(check_name), help="the endpoint; made if it is not there"
    )
    command.add_argument("-n", dest="count", metavar="N", type=_positive, help="end after N messages (default: never)")
    _add_timeout(command, "end with status 1 if no message comes for so many ms (default: wait for ever)")
    _add_url(command)

    _add_call(commands)
    _add_sharing(commands)

    command = _command(commands, "declare", declare, "settle the options of a work queue", DECLARE)
    _add_name(command, "the endpoint")
    add_options(command)
    _add_url(command)

    command = _command(commands, "status", status, "show a broker's endpoints", STATUS)
    command.add_argument("--json", action="store_true", help="one JSON value instead of a table")
    _add_url(command)

    _add_waiting(commands)
    _add_bench(commands)
    _add_demo(commands)
    return p


def _add_sharing(commands: Any) -> None:
    p = _command(commands, "pub", pub, "send lines of JSON to all who subscribe", PUB)
    _add_name(p, "the broadcast")
    _add_url(p)

    p = _command(commands, "sub", sub, "print what is published as lines of JSON", SUB)
    _add_name(p, "the broadcast")
    p.add_argument("-n", dest="count", metavar="N", type=_positive, help="end after N messages (default: never)")
    _add_timeout(p, "end with status 1 if no message comes for so many ms (default: wait for ever)")
    _add_url(p)

    p = _command(commands, "set", set_value, "change the value of a state", SET)
    _add_name(p, "the state")
    p.add_argument("value", metavar="JSON", help="the value")
    p.add_argument("--hold", action="store_true", help="stay attached until ctrl-C")
    _add_url(p)

    p = _command(commands, "get", get, "print the value of a state as a line of JSON", GET)
    _add_name(p, "the state")
    p.add_argument("--follow", action="store_true", help="go on with each change, until ctrl-C")
    _add_timeout(p, "end with status 1 if there is no value for so many ms (default: wait for ever)")
    _add_url(p)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], help: str, description: str
) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub.set_defaults(run=run, command=name)
    return sub


def _add_name(sub: argparse.ArgumentParser, what: str) -> None:
    sub.add_argument("name", metavar="NAME", type=_checked(check_name), help=f"{what}; made if it is not there")


def _add_timeout(sub: argparse.ArgumentParser, help: str) -> None:
    sub.add_argument("--timeout", metavar="MS", type=_milliseconds, default=-1, help=help)


def _add_url(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--url",
        type=_checked(_url),
        default=os.environ.get("VANILLA_URL", DEFAULT_URL),
        help=f"the broker: tcp://, tls:// or udp://HOST:PORT, unix:///PATH (default: $VANILLA_URL, or {DEFAULT_URL})",
    )
    add_flags(sub)
    sub.add_argument(
        "--token-file",
        metavar="FILE",
        type=os.path.abspath,
        default=os.environ.get("VANILLA_TOKEN_FILE") or None,
        help="what holds the token to show to the broker (default: $VANILLA_TOKEN_FILE, or none)",
    )


def _add_call(commands: Any) -> None:
    sub = _command(commands, "call", call, "ask a service, and print its answer", CALL)
    sub.add_argument("name", metavar="NAME", type=_checked(check_name), help="the service")
    sub.add_argument("what", metavar="METHOD|JSON", nargs="?", help="what is asked; before JSON, the method that is")
    sub.add_argument("json_text", metavar="JSON", nargs="?", help="the method's arguments")
    sub.add_argument("--method", metavar="METHOD", help="the method; what follows NAME is then its JSON, if any")
    sub.add_argument("--list", action="store_true", help="the methods that are served, instead of a call")
    sub.add_argument("--json", action="store_true", help="with --list: one JSON value")
    sub.add_argument(
        "--timeout",
        metavar="MS",
        type=_milliseconds,
        help="when all of the answer is to have come; then the call is cancelled, status 1 (default: no end)",
    )
    sub.add_argument("--wait", action="store_true", help="wait while nobody serves NAME (default: status 1 at once)")
    sub.add_argument("--trace", action="store_true", help="if the method raises, print its traceback on stderr")
    _add_url(sub)


def _add_waiting(commands: Any) -> None:
    sub = _command(commands, "dead", dead, "count, peek at, replay or purge dead letters", DEAD)
    sub.add_argument("name", metavar="NAME", type=_checked(check_name), help="whose they are; NAME.dead will do, too")
    sub.add_argument("action", nargs="?", choices=("count", "peek", "replay", "purge"), default="count")
    sub.add_argument(
        "-n", dest="count", metavar="N", type=_positive, help=f"at most so many (default: peek {PEEK}, replay all)"
    )
    sub.add_argument("--reason", metavar="TEXT", help="only those that died for this, MAX_ATTEMPTS for example")
    sub.add_argument(
        "--to", metavar="NAME", type=_checked(check_name), help="replay to this work queue (default: where they died)"
    )
    sub.add_argument("--yes", action="store_true", help="purge asks for it")
    sub.add_argument("--json", action="store_true", help="JSON instead of text")
    _add_url(sub)

    for name, run, help in (
        ("peek", peek, "show messages of an endpoint without taking them"),
        ("purge", purge, "drop all messages that wait at an endpoint"),
    ):
        sub = _command(commands, name, run, help, WAITING)
        sub.set_defaults(reason=None)
        sub.add_argument("name", metavar="NAME", type=_checked(check_name), help="the endpoint")
        if run is peek:
            sub.add_argument("-n", dest="count", metavar="N", type=_positive, help=f"at most so many (default {PEEK})")
        else:
            sub.add_argument("--yes", action="store_true", help="do it")
        sub.add_argument("--json", action="store_true", help="JSON instead of text")
        _add_url(sub)


def _add_bench(commands: Any) -> None:
    sub = _command(commands, "bench", bench, "put load on a broker and measure what goes through", BENCH)
    sub.add_argument(
        "--size",
        metavar="BYTES",
        type=_sizes,
        default=_sizes(SIZES),
        help=f"of a message; several, with commas between, one after the other (default {SIZES})",
    )
    sub.add_argument("--pushers", metavar="N", type=_positive, default=1, help="pushing processes (default 1)")
    sub.add_argument("--pullers", metavar="N", type=_positive, default=1, help="pulling processes (default 1)")
    sub.add_argument(
        "--rate",
        metavar="N",
        type=_measure,
        default=math.inf,
        help="messages a second of each pusher (default: as fast as it goes)",
    )
    sub.add_argument(
        "--seconds", metavar="S", type=_measure, default=5.0, help="how long to send, for each size (default 5)"
    )
    sub.add_argument(
        "--many",
        metavar="N",
        type=_positive,
        help="send_many and recv_many with lists of N messages (default: a message a call)",
    )
    sub.add_argument(
        "--name",
        metavar="NAME",
        type=_checked(check_name),
        help="the endpoint, which nobody else may use (default: a new one, bench. and something random)",
    )
    sub.add_argument("--json", action="store_true", help="one JSON value at the end instead of a table")
    _add_url(sub)


def _add_demo(commands: Any) -> None:
    sub = _command(commands, "demo", demo, "count the standard library's tokens, by workers and directly", DEMO)
    sub.add_argument(
        "--workers", metavar="N", type=_positive, default=WORKERS, help=f"worker processes (default {WORKERS})"
    )
    sub.add_argument("--path", metavar="DIR", help="another tree of .py files (default: the standard library)")
    sub.add_argument("--quick", action="store_true", help="leave out folders of tests: less than half of the files")
    sub.add_argument(
        "--kill",
        action="store_true",
        help="kill a worker (SIGKILL) half-way and start another: nothing may be missing, a repeat counts once",
    )
    sub.add_argument(
        "--rpc", action="store_true", help="by calls; those that are lost with a killed worker are asked again"
    )


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """*check* as argparse wants it: of a ValueError it would not show the text."""

    def convert(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _url(text: str) -> str:
    return str(parse(text))


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= DIGITS else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no number from 1 on, of {DIGITS} digits at most")
    return number


def _sizes(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _measure(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _milliseconds(text: str) -> float:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of ms")
    return float(text)


def main(argv: list[str] | None = None) -> None:
    """The program. Returns if all went well, else SystemExit has the status."""
    if sys.stdout is not None:  # None: closed by who started us
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files may be no text
    try:
        try:
            code = _run(parser().parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = NO_READER
    if code:
        raise SystemExit(code)


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=f"vanilla {args.command}: %(message)s")
    keep_freed_memory()
    try:
        busypoll.look_us(None)
    except ValueError as error:
        return _say(str(error), 2)
    try:
        args.run(args)
    except Failed as error:
        return _say(str(error), error.status)
    except (ConnectionLost, Timeout, Refused, Rejected) as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        text = error.strerror or str(error)
        return _say(f"{error.filename}: {text}" if error.filename else text, 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(text: str, code: int) -> int:
    if text:
        log.error("%s", text)  # one way for all that goes to stderr, which may be closed
    return code
