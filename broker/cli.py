"""``vanilla-broker``: the broker as a program.

stdout gets one line a listener when it is ready, and nothing else; logs go to stderr, a line an event.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import NoReturn

import vanilla
from vanilla.core import Hub
from vanilla.memory import keep_freed_memory
from vanilla.protocol.scan import KIND
from vanilla.signal import subscribe

from .broker import Broker
from .options import Options

log = logging.getLogger("vanilla.broker")

DEFAULT_URL = "tcp://127.0.0.1:8264"
LEVELS = ("debug", "info", "warning", "error")

#: flag, field of `Options`, what --help says. The defaults are those of `Options`.
FLAGS = (
    ("--capacity", "capacity", "N", "messages that an endpoint holds before its producers wait"),
    ("--capacity-bytes", "capacity_bytes", "BYTES", "the same in bytes of packed messages"),
    ("--max-frame", "frame_bytes", "BYTES", "longest frame, and so nearly the longest message"),
    ("--hello-timeout", "hello_ms", "MS", "ms that a new connection may take for its hello"),
    ("--connections", "connections", "N", "connections at a time"),
    ("--channels", "channels", "N", "channels of one connection"),
    ("--endpoints", "endpoints", "N", "endpoints at a time"),
    ("--output-bytes", "output_bytes", "BYTES", "unsent output from which on a connection gets no deliveries"),
    ("--unsettled-bytes", "unsettled_bytes", "BYTES", "what the consumers of one connection may leave unsettled"),
    ("--max-attempts", "max_attempts", "N", "failed deliveries before a message becomes a dead letter"),
    ("--backoff", "backoff_ms", "MS", "ms before the first redelivery of a refused message; doubles each time"),
    ("--drain", "drain_ms", "MS", "ms that SIGTERM leaves consumers to take what is there"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="vanilla-broker",
        description="A message broker: named work queues over TCP and Unix sockets.",
        epilog="SIGTERM and SIGINT end it in good order (see --drain); a second one ends it at once.",
    )
    p.add_argument(
        "--listen",
        action="append",
        metavar="URL",
        help="tcp://HOST:PORT (port 0: any free one) or unix:///PATH; may be given more than once "
        f"(default {DEFAULT_URL})",
    )
    for flag, field, metavar, text in FLAGS:
        default = getattr(Options, field)
        p.add_argument(flag, dest=field, type=int, metavar=metavar, default=default, help=f"{text} (default {default})")
    p.add_argument(
        "--insecure",
        action="store_true",
        help="allow addresses that other machines reach; there is no encryption and no authentication",
    )
    p.add_argument("--log-level", choices=LEVELS, default="info", help="what is logged on stderr (default info)")
    p.add_argument("--version", action="version", version=f"vanilla-broker {vanilla.__version__} ({KIND} scanner)")
    return p


def give_up(text: str) -> NoReturn:
    """One line on stderr, exit status 1."""
    print(f"vanilla-broker: {text}", file=sys.stderr)
    raise SystemExit(1)


def main(argv: list[str] | None = None) -> None:
    """The program. Exits with 0 after SIGTERM or SIGINT, with 1 if it cannot start or was told twice to end."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    keep_freed_memory()
    try:
        options = Options(insecure=args.insecure, **{field: getattr(args, field) for _, field, _, _ in FLAGS})
    except ValueError as error:
        field, _, wrong = str(error).partition(" ")
        give_up(f"{next(flag for flag, name, _, _ in FLAGS if name == field)} {wrong}")
    with Hub() as hub:
        serve(hub, Broker(hub, options), args.listen or [DEFAULT_URL])


def serve(hub: Hub, broker: Broker, urls: list[str]) -> None:
    """Listen at *urls* until a signal comes."""
    ended = hub.state()
    signals: list[int] = []

    def end(signum: int) -> None:
        signals.append(signum)
        if len(signals) == 1:
            ended.send(True)
        else:
            log.warning("told twice to end: ending at once")
            broker.hurry()

    for signum in signal.SIGTERM, signal.SIGINT:
        subscribe(hub, signum, lambda signum=signum: end(signum))  # type: ignore[misc]
    with broker:
        for url in urls:
            announce(listen(broker, url))
        ended.recv()
        name, ms = signal.Signals(signals[0]).name, broker.options.drain_ms
        log.info("%s: ending; consumers have %d ms to take what is left, unless it is told again", name, ms)
        broker.drain()
    if len(signals) > 1:
        raise SystemExit(1)


def listen(broker: Broker, url: str) -> str:
    """`Broker.listen`, or the program's end with one line that says why."""
    try:
        return broker.listen(url)
    except ValueError as error:
        give_up(str(error))
    except OSError as error:
        give_up(error.strerror or str(error))


def announce(url: str) -> None:
    """Say that it is ready. That nobody reads it, or that a disk is full, is no reason to end."""
    try:
        print(f"listening on {url}", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
