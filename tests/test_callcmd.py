"""``vanilla call`` as a process: what it asks, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal

import pytest
from peers import PATIENCE, until
from programs import broker, running, vanilla

NO_READER = 141


class Calculator:
    """For these tests."""

    def __init__(self):
        self.left = []

    def add(self, a, b=2):
        """Add *b* to *a*.

        Both are numbers.
        """
        return a + b

    def echo(self, *args, **kwargs):
        return [args, kwargs]

    def count(self, n):
        yield from range(n)

    def drip(self):
        try:
            while True:
                yield "drop"
        finally:
            self.left.append("drip")

    def raises(self):
        raise ValueError("two\nlines")

    def nan(self):
        return float("nan")

    def data(self):
        return {1: b"ab"}


@pytest.fixture(scope="module")
def url():
    with broker() as (url, _):
        yield url


@pytest.fixture
def calculator():
    return Calculator()


@pytest.fixture
def ask(h, url, name, calculator):
    """Runs ``vanilla call`` while the calculator is served: (status, stdout, stderr)."""
    with h.client.connect(url) as remote:
        remote.serve(name, calculator)
        remote.ping()

        def ask(*args, **popen):
            return h.thread.call(lambda: vanilla("call", name, *args, "--url", url, **popen)).recv(timeout=60_000)

        yield ask


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["add", "[1, 3]"], 4),
        (["add", '{"a": 1, "b": 5}'], 6),
        (["add", "1"], 3),
        (["--method", "add", "[1, 3]"], 4),
        (["--method", "echo"], [[], {}]),
        (["echo", "[]"], [[], {}]),
        (["echo", "null"], [[None], {}]),
        (["echo", "[[1]]"], [[[1]], {}]),
        (["echo", '"tëxt"'], [["tëxt"], {}]),
        (["echo", "-5"], [[-5], {}]),
        (['["add", [1], {}]'], 3),
        (["--method", "data"], {"1": {"$bytes": "YWI="}}),
    ],
)
def test_it_asks_what_its_arguments_say(ask, args, said):
    status, out, err = ask(*args)
    assert (status, err) == (0, "")
    assert json.loads(out) == said
    assert out.count("\n") == 1


def test_a_stream_is_a_line_an_item(ask):
    assert ask("count", "3") == (0, "0\n1\n2\n", "")
    assert ask("count", "0") == (0, "", "")


def test_the_methods_are_listed_for_people_and_for_programs(ask):
    status, out, err = ask("--list")
    assert (status, err) == (0, "")
    assert "add(a, b=2)\n    Add *b* to *a*.\n\n    Both are numbers.\n" in out
    assert "count(n)\n" in out
    status, out, err = ask("--list", "--json")
    assert (status, err) == (0, "")
    assert {"name": "count", "signature": "(n)", "doc": ""} in json.loads(out)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--method", "raises"], "RAISED: ValueError: two lines"),
        (["--method", "nothing"], "NO_METHOD"),
        (["5"], "BAD_CALL"),
        (["add", "[]"], "TypeError"),
        (["--method", "nan"], "cannot be written"),
    ],
)
def test_an_error_is_one_line_and_status_1(ask, args, line):
    status, out, err = ask(*args)
    assert (status, out) == (1, "")
    assert line in err
    assert err.startswith("vanilla call: ")
    assert err.count("\n") == 1


def test_a_remote_traceback_comes_if_it_is_asked_for(ask):
    status, out, err = ask("--method", "raises", "--trace")
    assert (status, out) == (1, "")
    assert "in raises" in err
    assert err.splitlines()[-1] == "vanilla call: RAISED: ValueError: two lines"


def test_without_a_server_it_fails_at_once_or_waits(url, name):
    status, out, err = vanilla("call", name, "1", "--url", url)
    assert (status, out) == (1, "")
    assert "NO_SERVICE" in err
    status, out, err = vanilla("call", name, "1", "--wait", "--timeout", "50", "--url", url)
    assert (status, out) == (1, "")
    assert err == "vanilla call: the 50 ms are over; the call was cancelled\n"


def test_a_service_that_was_not_made_by_serve_has_no_list(h, url, name):
    with h.client.connect(url) as remote:
        remote.router(name).consume(lambda item: "what?")
        remote.ping()
        run = h.thread.call(lambda: vanilla("call", name, "--list", "--url", url))
        status, out, err = run.recv(timeout=60_000)
    assert (status, out) == (1, "")
    assert "no list of methods" in err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "what is to be asked"),
        (["add", "x"], "no JSON"),
        (["x"], "no JSON"),
        (["NaN"], "no JSON"),
        (["--method", "add", "1", "2"], "too many"),
        (["--list", "1"], "too many"),
        (["1", "--json"], "--json goes with --list"),
        (["1", "--timeout", "soon"], "no number of ms"),
    ],
)
def test_wrong_arguments_are_named_and_status_2(url, name, args, complaint):
    status, out, err = vanilla("call", name, *args, "--url", url)
    assert (status, out) == (2, "")
    assert complaint in err


def test_ctrl_c_cancels_the_call(h, url, name, calculator):
    with h.client.connect(url) as remote:
        remote.serve(name, calculator)
        remote.ping()
        with running("call", name, "--method", "drip", "--url", url) as call:
            drops = h.thread.call(call.process.stdout.readline)
            assert drops.recv(timeout=PATIENCE) == b'"drop"\n'
            call.process.send_signal(signal.SIGINT)
            reading = h.thread.call(call.process.stdout.read)
            until(h, lambda: calculator.left == ["drip"])
            reading.recv(timeout=PATIENCE)
            assert call.end() == (130, "")


def test_a_reader_that_goes_cancels_the_call(h, url, name, calculator):
    with h.client.connect(url) as remote:
        remote.serve(name, calculator)
        remote.ping()
        ours, theirs = os.pipe()
        with running("call", name, "--method", "drip", "--url", url, stdout=theirs) as call:
            os.close(theirs)
            assert h.thread.call(os.read, ours, 7).recv(timeout=PATIENCE) == b'"drop"\n'
            os.close(ours)
            until(h, lambda: calculator.left == ["drip"])
            assert h.thread.call(call.end).recv(timeout=PATIENCE) == (NO_READER, "")


def test_a_server_that_dies_is_told(h, url, name):
    remote = h.client.connect(url)
    router = remote.router(name)
    remote.ping()
    with running("call", name, "1", "--url", url) as call:
        router.recv(timeout=PATIENCE)
        remote._link.sock.shutdown(2)
        status, err = h.thread.call(call.end).recv(timeout=PATIENCE)
    assert status == 1
    assert "PEER_LOST" in err
