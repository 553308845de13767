"""Methods of an object, called from elsewhere."""

from __future__ import annotations

import pytest
from peers import PATIENCE, accounts, until

import vanilla
from vanilla.client.serve import describe, public_methods


class Calculator:
    """Adds, and more."""

    version = 1

    class Inner:
        """Not a method."""

    def __init__(self, h=None):
        self.h = h
        self.running = self.most = self.begun = 0
        self.ended = []
        self.go = h.channel() if h else None

    @property
    def trap(self):
        raise AssertionError("somebody has looked")

    def _secret(self):
        return "secret"

    def add(self, a, b=2):
        """Add *b* to *a*."""
        return a + b

    def keywords(self, **kwargs):
        return kwargs

    def count(self, n):
        """Up to *n*."""
        yield from range(n)

    def breaks(self, n):
        yield from range(n)
        raise ValueError("broken")

    def raises(self, text):
        raise LookupError(text)

    def unsendable(self):
        return {1, 2}

    def block(self, name=None):
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return self.go.recv()
        finally:
            self.running -= 1
            self.ended.append(name)

    def drip(self):
        try:
            while True:
                yield "drop"
        finally:
            self.ended.append("drip")

    def joins_a_cancelled_task(self):
        task = self.h.spawn(self.h.sleep, 60_000)
        task.cancel()
        task.join()


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def object_(h):
    return Calculator(h)


@pytest.fixture
def served(far, object_):
    """Served by one task, until the test ends."""
    return far.serve("calc", object_)


@pytest.fixture
def calc(near, served):
    return near.wrap("calc", wait=True)


def failure(reply):
    with pytest.raises(vanilla.RemoteError) as raised:
        reply.recv(timeout=PATIENCE)
    return raised.value


def test_methods_are_called_with_arguments_of_both_kinds(calc):
    assert calc.add(1).recv(timeout=PATIENCE) == 3
    assert calc.add(a=1, b=5).recv(timeout=PATIENCE) == 6
    assert calc.keywords(x=[1], y=None).recv(timeout=PATIENCE) == {"x": [1], "y": None}


def test_a_generator_is_a_stream(calc):
    assert list(calc.count(100)) == list(range(100))
    assert list(calc.count(0)) == []


def test_a_generator_that_raises_is_an_error_and_no_end(calc):
    reply, got = calc.breaks(3), []
    with pytest.raises(vanilla.RemoteError) as raised:
        for item in reply:
            got.append(item)
    assert got == [0, 1, 2]
    assert (raised.value.code, raised.value.type, raised.value.text) == ("RAISED", "ValueError", "broken")


def test_what_a_method_raises_is_raised_at_the_caller(calc, near, caplog):
    error = failure(calc.raises("nowhere"))
    assert (error.code, error.type, error.text, error.trace) == ("RAISED", "LookupError", "nowhere", "")
    assert "nowhere" in caplog.text
    traced = near.wrap("calc", trace=True)
    assert "in raises" in failure(traced.raises("x")).trace
    assert failure(calc.add(1, 2, 3)).type == "TypeError"
    assert failure(calc.unsendable()).type == "TypeError"


def test_a_request_is_not_logged_with_what_it_carries(calc, caplog):
    failure(calc.add("password", []))
    assert "password" not in caplog.text


@pytest.mark.parametrize("name", ["_secret", "trap", "Inner", "version", "nothing", "__init__", "h", "add.__self__"])
def test_only_public_methods_can_be_called(calc, near, name):
    assert failure(near.dealer("calc").call([name, [], {}])).code == "NO_METHOD"


def test_underscores_cannot_even_be_named(calc):
    with pytest.raises(AttributeError):
        calc._secret  # noqa: B018


@pytest.mark.parametrize(
    "item", [None, "add", [], ["add", [1]], ["add", {}, {}], [b"add", [], {}], ["add", [], {1: 2}]]
)
def test_what_is_no_call_is_told_so(calc, near, item):
    assert failure(near.dealer("calc").call(item)).code == "BAD_CALL"
    assert calc.add(1, 1).recv(timeout=PATIENCE) == 2


def test_methods_are_listed_with_signatures_and_docstrings(near, calc):
    listed = {method["name"]: method for method in near.methods("calc")}
    assert sorted(listed) == [
        "add",
        "block",
        "breaks",
        "count",
        "drip",
        "joins_a_cancelled_task",
        "keywords",
        "raises",
        "unsendable",
    ]
    assert listed["add"] == {"name": "add", "signature": "(a, b=2)", "doc": "Add *b* to *a*."}
    assert listed["keywords"]["doc"] == ""


def test_methods_that_nobody_serves_are_no_service(near):
    with pytest.raises(vanilla.RemoteError, match="NO_SERVICE"):
        near.methods("nowhere")


def test_a_list_of_methods_is_all_that_is_served(far, near, object_):
    task = far.serve("some", object_, ["add"])
    some = near.wrap("some", wait=True)
    assert some.add(1).recv(timeout=PATIENCE) == 3
    assert failure(some.count(1)).code == "NO_METHOD"
    assert [method["name"] for method in near.methods("some")] == ["add"]
    task.cancel()


@pytest.mark.parametrize("names", [["_secret"], ["nothing"], ["version"], ["add.x"], "add"])
def test_what_is_no_public_method_cannot_be_served(far, object_, names):
    with pytest.raises(ValueError, match="no public method"):
        far.serve("some", object_, names)
    with pytest.raises(ValueError, match="concurrency"):
        far.serve("some", object_, concurrency=0)


def test_a_function_without_a_signature_is_described_nevertheless():
    class Odd:
        __signature__ = "odd"

        def __call__(self):
            """Call."""

    assert describe({"f": Odd()}) == [{"name": "f", "signature": "(...)", "doc": ""}]


def test_a_property_is_not_looked_at():
    assert "trap" not in public_methods(Calculator(), None)


# -- concurrency


def test_eight_at_a_time_are_eight_and_no_ninth(h, far, near, object_):
    task = far.serve("calc", object_, concurrency=8)
    calc = near.wrap("calc", wait=True)
    replies = [calc.block(i) for i in range(20)]
    until(h, lambda: object_.running == 8)
    far.ping()
    h.sleep(20)
    assert object_.begun == 8
    for _ in range(20):
        object_.go.send("go")
    assert [reply.recv(timeout=PATIENCE) for reply in replies] == ["go"] * 20
    assert object_.most == 8
    task.cancel()


def test_a_cancelled_call_cancels_its_method(h, calc, object_):
    first, second = calc.block("first"), calc.add(1)
    until(h, lambda: object_.running)
    first.close()
    until(h, lambda: object_.ended == ["first"])
    assert second.recv(timeout=PATIENCE) == 3


def test_a_deadline_cancels_the_method(h, near, served, object_):
    reply = near.wrap("calc", deadline=300).block("late")
    with pytest.raises(vanilla.Timeout):
        reply.recv(timeout=PATIENCE)
    until(h, lambda: object_.ended == ["late"])


def test_a_stream_that_is_left_ends_its_generator(h, calc, object_):
    reply = calc.drip()
    assert reply.recv(timeout=PATIENCE) == "drop"
    reply.close()
    until(h, lambda: object_.ended == ["drip"])
    assert calc.add(1).recv(timeout=PATIENCE) == 3


def test_calls_that_are_cancelled_before_they_begin_give_their_places_back(h, far, near, object_):
    task = far.serve("calc", object_, concurrency=2)
    calc = near.wrap("calc", wait=True)
    for _ in range(20):
        replies = [calc.block() for _ in range(4)]
        near.ping()
        for reply in replies:
            reply.close()
        far.ping()
    assert calc.add(1).recv(timeout=PATIENCE) == 3
    replies = [calc.block() for _ in range(2)]
    until(h, lambda: object_.running == 2)
    for reply in replies:
        reply.close()
    task.cancel()


def test_a_method_that_is_cancelled_by_another_than_its_caller_is_an_error(calc):
    error = failure(calc.joins_a_cancelled_task())
    assert (error.code, error.type) == ("RAISED", "Cancelled")
    assert calc.add(1).recv(timeout=PATIENCE) == 3


def test_cancelling_the_service_fails_its_calls_and_gives_others_the_rest(h, connect, served, calc, object_):
    begun = calc.block("begun")
    until(h, lambda: object_.running)
    waiting = calc.add(1)
    other = connect().serve("calc", Calculator(h))
    served.cancel()
    assert failure(begun).code == "PEER_LOST"
    assert waiting.recv(timeout=PATIENCE) == 3
    until(h, lambda: object_.ended == ["begun"])
    with pytest.raises(vanilla.Cancelled):
        served.join(timeout=PATIENCE)
    other.cancel()


def test_closing_the_connection_ends_the_service_without_a_word(h, far, served, calc, caplog):
    assert calc.add(1).recv(timeout=PATIENCE) == 3
    far.close()
    served.join(timeout=PATIENCE)
    assert caplog.text == ""


def test_a_connection_that_stays_lost_ends_the_service_with_it(h, near, connect, object_):
    far = connect(reconnect=False)
    served = far.serve("calc", object_)
    near.wrap("calc", wait=True).block("x")
    until(h, lambda: object_.running)
    far._link.sock.shutdown(2)
    until(h, lambda: object_.ended == ["x"])
    with pytest.raises(vanilla.ConnectionLost):
        served.join(timeout=PATIENCE)


def test_the_accounts_of_a_service_count_what_its_methods_answered(h, broker, calc):
    for i in range(10):
        assert calc.add(i).recv(timeout=PATIENCE) == i + 2
    until(h, lambda: accounts(broker, "calc").acknowledged == 10)
    assert accounts(broker, "calc").accepted == 10
