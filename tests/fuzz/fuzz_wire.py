"""Fuzzing of what reads strangers' bytes, by atheris (libFuzzer, guided by the coverage of our Python code).

    python tests/fuzz/fuzz_wire.py scan                      # until interrupted, or something is found
    python tests/fuzz/fuzz_wire.py scan -max_total_time=600 DIRECTORY-OF-CASES
    python tests/fuzz/fuzz_wire.py scan crash-0123abcd       # one case again

The first argument names a target, the others are libFuzzer's. A target is a function of bytes and a row in TARGETS; it
raises when a promise is broken. A case that was found becomes a test of its own, beside those of its module.

Exit code 3: atheris is not there. 2: no such target.
"""

from __future__ import annotations

import inspect
import sys

import msgpack

from vanilla.protocol import errors, scan

#: These guide the fuzzer by their coverage.
INSTRUMENTED = [scan]

SCANNERS = [scanner for scanner in (scan.scan_python, scan.scan_c) if scanner is not None]


def fuzz_scan(data: bytes) -> None:
    """Three bytes of limits, then a body: the scanners agree, and what they pass msgpack can at least walk."""
    if len(data) < 3:
        return
    count, max_bytes, depth = data[0], data[1] ** 2, data[2]
    body = data[3:]
    same_outcome(body, 0, count, max_bytes, depth)
    same_outcome(body, min(len(body), count), 2**32, 2**32, depth)
    messages, end = well_formed_start(body)
    for scanner in SCANNERS:
        scan.check(body[:end], messages, scanner=scanner)
    unpack(messages, body[:end])


def same_outcome(*arguments: object) -> None:
    """Every scanner has the same result, or raises BadMessage with the same text."""
    outcomes = [outcome(scanner, *arguments) for scanner in SCANNERS]
    assert all(other == outcomes[0] for other in outcomes), outcomes


def outcome(scanner, *arguments):
    try:
        return scanner(*arguments)
    except errors.BadMessage as error:
        return str(error)


def well_formed_start(body: bytes) -> tuple[int, int]:
    """How many well-formed messages the body begins with, and where they end."""
    messages = end = 0
    try:
        while True:
            _, end = scan.scan(body, end, 1, 1)
            messages += 1
    except errors.BadMessage:
        return messages, end


def unpack(messages: int, body: bytes) -> None:
    """Unpack as a consumer does: what a message means may be wrong (its text, keys, times), never how it is built."""
    try:
        unpacked = msgpack.unpackb(b"\xdd" + messages.to_bytes(4, "big") + body, strict_map_key=False)
    except (msgpack.StackError, msgpack.FormatError, msgpack.ExtraData):
        raise
    except (UnicodeDecodeError, TypeError, OverflowError):
        return
    except ValueError as error:
        if "incomplete" in str(error) or "exceeds" in str(error):
            raise
        return
    assert len(unpacked) == messages


TARGETS = {
    "scan": fuzz_scan,
}


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        print(f"usage: {arguments[0]} {'|'.join(TARGETS)} [libFuzzer's arguments]", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError as missing:
        print(f"atheris cannot be imported, so nothing was fuzzed: {missing}", file=sys.stderr)
        return 3
    for module in INSTRUMENTED:
        for _, function in inspect.getmembers(module, inspect.isfunction):
            atheris.instrument_func(function)
    atheris.Setup([arguments[0], *arguments[2:]], TARGETS[arguments[1]])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
