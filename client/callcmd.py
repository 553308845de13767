"""`vanilla call`: one request to a service, its answer as lines of JSON."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from vanilla.core import Hub
from vanilla.exception import ConnectionLost, Refused, RemoteError, Timeout

from .commands import INTERRUPTED, NO_READER, connect, interrupt_waits
from .failed import Failed
from .jsonlines import decode, encode
from .remote import Remote
from .reply import Reply
from .serve import METHODS
from .stdio import Output

#: How long the broker may take to have read that a call is cancelled, in ms.
LINGER_MS = 2_000


def call(args: Namespace) -> None:
    """Ask, and print what comes."""
    item = request(args)
    if sys.stdout is None:
        raise Failed("stdout is closed")
    fd = sys.stdout.fileno()
    with Hub() as hub, connect(hub, args) as remote:
        interrupt_waits(hub)
        reply = ask(remote, args, item)
        try:
            if args.list:
                _print_methods(reply, args.json)
            else:
                _print_items(reply, hub, fd)
        except RemoteError as error:
            raise _failed(error) from None
        except (ConnectionLost, Refused) as error:
            raise Failed(f"{error}; whether anything was done is not known") from None
        except Timeout:
            raise Failed(f"the {args.timeout:.0f} ms are over; the call was cancelled") from None
        except BrokenPipeError:
            _cancel(remote, reply)
            raise Failed("", NO_READER) from None
        except KeyboardInterrupt:
            _cancel(remote, reply)
            raise Failed("", INTERRUPTED) from None


def request(args: Namespace) -> Any:
    """What is asked, as the arguments say.

    :raises Failed: they are no JSON, or too many.
    """
    given = [part for part in (args.what, args.json_text) if part is not None]
    method = METHODS if args.list else args.method
    if method is None and len(given) == 2:
        method = given.pop(0)
    if len(given) > 1 or (args.list and given):
        raise Failed("too many arguments; see --help", 2)
    if args.json and not args.list:
        raise Failed("--json goes with --list; an answer is JSON in any case", 2)
    value = _decode(given[0]) if given else None
    if method is None:
        if not given:
            raise Failed("what is to be asked? JSON; or METHOD and JSON; or --method METHOD; or --list", 2)
        return value
    if isinstance(value, dict):
        return [method, [], value]
    if isinstance(value, list):
        return [method, value, {}]
    return [method, [value] if given else [], {}]


def _decode(text: str) -> Any:
    try:
        return decode(text.encode())
    except ValueError as error:
        raise Failed(f"{text[:50]!r} is no JSON: {error}", 2) from None


def ask(remote: Remote, args: Namespace, item: Any) -> Reply:
    """Ask for *item* on the terms that the arguments state."""
    try:
        return remote.dealer(args.name).call(item, deadline=args.timeout, wait=args.wait, trace=args.trace)
    except Timeout:
        raise Failed(f"too much is asked of {args.name!r} already: not asked in {args.timeout} ms") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise Failed(f"this cannot be asked: {error}") from None


def _print_items(reply: Reply, hub: Hub, fd: int) -> None:
    """The reply; or each item of a stream, as it comes."""
    left: list[bool] = []  # whoever reads has gone

    def leave() -> None:
        left.append(True)
        reply.close()

    output = Output(hub, fd, leave)
    for item in reply:
        try:
            line = encode(item)
        except ValueError as error:
            raise Failed(f"the answer cannot be written: {error}") from None
        output.write(line)
    if left:
        raise BrokenPipeError


def _print_methods(reply: Reply, as_json: bool) -> None:
    methods = reply.recv()
    if not as_json and not _is_listing(methods):
        raise Failed("the answer is no list of methods: this service was not made by `serve`")
    print(json.dumps(methods, ensure_ascii=False) if as_json else listing(methods))


def _is_listing(methods: Any) -> bool:
    fields = ("name", "signature", "doc")
    return isinstance(methods, list) and all(
        isinstance(each, dict) and all(isinstance(each.get(field), str) for field in fields) for each in methods
    )


def listing(methods: list[dict[str, str]]) -> str:
    r"""Methods as people read them.

    >>> print(listing([{"name": "add", "signature": "(a, b=2)", "doc": "Add.\n\nBoth."}]))
    add(a, b=2)
        Add.
    <BLANKLINE>
        Both.
    """
    lines = []
    for method in methods:
        lines.append(method["name"] + method["signature"])
        lines += [f"    {line}".rstrip() for line in method["doc"].splitlines()]
    return "\n".join(lines)


def _failed(error: RemoteError) -> Failed:
    """One line; before it the traceback, if there is one."""
    if error.trace:
        print(error.trace.rstrip(), file=sys.stderr)
    return Failed(" ".join(str(error).splitlines()))


def _cancel(remote: Remote, reply: Reply) -> None:
    """Be sure that the broker has read it: it answers in order."""
    reply.close()
    try:
        remote.ping(LINGER_MS)
    except (ConnectionLost, Timeout, KeyboardInterrupt):
        pass
