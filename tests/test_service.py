"""A service in the broker: under any sequence of what can happen, each request ends once, for its caller, as it should;
and what a caller or a server can say that a client never would."""

from __future__ import annotations

import os

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peers import PATIENCE, Peer, accounts, data, until
from test_endpoint import Clock, Connection

from vanilla.broker import stream as stream_module
from vanilla.broker.broker import Broker
from vanilla.broker.caller import Caller
from vanilla.broker.options import Options
from vanilla.broker.server import CANCELS, Server
from vanilla.broker.service import Service, overlaps
from vanilla.broker.session import Session
from vanilla.outbox import Outbox
from vanilla.protocol.connection import Event
from vanilla.protocol.errors import FAILURES
from vanilla.protocol.frames import (
    CANCEL,
    CREDIT,
    DATA,
    DATA_OPTIONS,
    END,
    ERROR,
    FAIL,
    HELLO_LIMIT,
    MAX_SEQ,
    MORE,
    NACK,
    OPEN,
    PART,
    REPLY,
    pack_control,
    pack_head,
)
from vanilla.protocol.ranges import Ranges

# -- the model

#: What a delivery says of who asks by a Unix socket: us.
WHO = {"identity": f"uid:{os.getuid()}"}


class Wire(Connection):
    """The connection of one caller or server, which is read at each turn."""

    identity = ""

    def __init__(self, broker):
        super().__init__(broker)
        self.crowded = set()
        self.promised = 0
        self.out = Outbox()  # what is said here is read at once, so nothing is ever unsent
        self.full = self.dirty = self.owed = False


def packed(items):
    """An array as it stands in a frame."""
    body = b"".join(map(msgpack.packb, items))
    return pack_head(DATA, 1, 0, len(items), len(body))[21:] + body


class Asked:
    """One request as the model knows it."""

    def __init__(self, caller, number, wait, due):
        self.caller = caller
        self.number = number
        self.wait = wait
        self.due = due
        #: The server and number that it was delivered to and under, or None.
        self.at = None
        #: Items of a stream that its server has sent, None before its beginning; and of these, what the caller got.
        self.sent = None
        self.got = []
        #: What its caller must be told, None as long as it is open; "nothing" if it does not want to know.
        self.outcome = None
        self.told = False


def has_callers(machine):
    return machine.callers


def has_servers(machine):
    return machine.servers


def has_work(machine):
    return any(machine.work.values())


def has_open(machine):
    return any(ask.outcome is None for ask in machine.asked.values())


class Services(RuleBasedStateMachine):
    """Callers ask, cancel, stop reading and go; servers answer in any order, in part, wrongly and not at all."""

    @initialize(capacity=st.integers(4, 40))
    def start(self, capacity):
        self.clock = Clock()
        self.broker = Broker(
            self.clock, Options(capacity=capacity, capacity_bytes=capacity * 4, unsettled_bytes=20_000)
        )
        self.broker.now = lambda: self.clock.time
        self.service = self.broker.endpoint("sums", Service)
        self.callers, self.servers = [], []
        #: Requests by what they carry; and which of them each server has and has not answered, by its numbers.
        self.asked, self.work = {}, {}
        self.channel = self.item = 0
        #: Those that the broker acknowledges: a server has answered.
        self.answered = 0

    # -- what the wire says, against the model

    def turn(self):
        self.clock.settle()
        for server in self.servers:
            frames, server.session.frames = server.session.frames, []
            for frame in frames:
                self.at_server(server, frame)
        for caller in self.callers:
            frames, caller.session.frames = caller.session.frames, []
            for frame in frames:
                self.at_caller(caller, frame)

    def at_server(self, server, frame):
        kind, _, seq, _, array = frame
        items = msgpack.unpackb(array)
        if kind & ~MORE in (DATA, DATA_OPTIONS):
            options = items.pop(0) if kind & ~MORE == DATA_OPTIONS else {}
            for offset, item in enumerate(items):
                ask = self.asked[item]
                assert ask.at is None, "a request is delivered once, unless it was given back"
                assert ask.outcome is None
                assert ("deadline" in options) == (ask.due is not None)
                assert ask.due is None or ask.due >= self.clock.time
                ask.at = server, seq + offset
                self.work[server][seq + offset] = item
        elif kind == CANCEL:
            flat = items[0]["r"]
            for first, count in zip(flat[::2], flat[1::2]):
                for number in range(first, first + count):
                    item = self.work[server].pop(number)
                    assert self.asked[item].outcome == "nothing"
        else:
            assert kind == CREDIT

    def at_caller(self, caller, frame):
        kind, _, seq, _, array = frame
        if kind == CREDIT:
            return
        fields = msgpack.unpackb(array)
        if kind == REPLY:
            for number, item in enumerate(fields, seq):
                self.told(caller, number, ("reply", item))
        elif kind == FAIL:
            for number in range(seq, seq + fields[0]["count"]):
                self.told(caller, number, ("fail", fields[0]["code"], fields[0]["by"]))
        elif kind == END:
            self.told(caller, seq, ("end", fields[0]["n"]))
        else:
            assert kind == PART
            ask = self.of(caller, seq)
            assert ask.outcome in (None, "nothing") or not ask.told
            assert fields[0] == len(ask.got)
            ask.got += fields[1:]
            assert ask.got == list(range(len(ask.got)))

    def of(self, caller, number):
        (ask,) = (ask for ask in self.asked.values() if (ask.caller, ask.number) == (caller, number))
        return ask

    def told(self, caller, number, outcome):
        ask = self.of(caller, number)
        assert not ask.told, "each request ends once"
        ask.told = True
        if ask.outcome is None:  # the broker's own decision
            assert outcome[0] == "fail"
            assert outcome[2] == "broker"
            code = outcome[1]
            assert code in FAILURES
            if code == "NO_SERVICE":
                assert not ask.wait
                assert not self.servers
            elif code == "DEADLINE":
                assert ask.due < self.clock.time
            else:
                assert code == "NO_SERVICE", "a lost server's are known to the model"
            ask.outcome = outcome
        elif ask.outcome != "nothing":
            assert outcome == ask.outcome

    # -- callers

    @rule(first=st.sampled_from([0, 5, 1 << 40]))
    def a_caller_comes(self, first):
        if len(self.callers) < 4:
            self.channel += 1
            self.callers.append(Caller(Wire(self.broker), self.channel, self.service, first))
        self.turn()

    @precondition(has_callers)
    @rule(most=st.integers(1, 8), wait=st.booleans(), deadline=st.sampled_from([None, None, 100, 2000]), data=st.data())
    def a_caller_asks(self, most, wait, deadline, data):
        ready = [caller for caller in self.callers if not caller.spent and not caller.session.full]
        if not ready:
            return
        caller = data.draw(st.sampled_from(ready))
        quota, items = caller.quota, []
        while len(items) < min(most, quota.left_n):
            if len(b"".join(map(msgpack.packb, [*items, self.item]))) > quota.left_b:
                break
            due = None if deadline is None else self.clock.time + deadline / 1000
            self.asked[self.item] = Asked(caller, quota.n + len(items), wait, due)
            items.append(self.item)
            self.item += 1
        if items:
            options = {"wait": wait} if wait else {}
            if deadline is not None:
                options["deadline"] = deadline
            array = packed([options, *items]) if options else packed(items)
            kind = DATA_OPTIONS if options else DATA
            caller.data(Event(kind, 1, quota.n, len(items) + bool(options), array))
        self.turn()

    @precondition(has_callers)
    @rule(data=st.data())
    def a_caller_wants_credit(self, data):
        data.draw(st.sampled_from(self.callers)).want(Event(0, 0, 0, 1, {"n": 10, "b": 40}))
        self.turn()

    @precondition(has_callers)
    @rule(data=st.data(), first=st.integers(0, 40), count=st.integers(1, 12), both=st.booleans())
    def a_caller_cancels(self, data, first, count, both):
        caller = data.draw(st.sampled_from(self.callers))
        base = min((ask.number for ask in self.asked.values() if ask.caller is caller), default=0)
        flat = [base + first, count]
        if both:
            flat += [base + first + count + 2, 1]
        caller.cancel(Event(CANCEL, 0, 0, 1, {"r": flat}))
        for ask in self.asked.values():
            wanted = any(low <= ask.number < low + many for low, many in zip(flat[::2], flat[1::2]))
            if ask.caller is caller and wanted and ask.outcome is None:
                ask.outcome = "nothing"
        self.turn()

    @precondition(has_callers)
    @rule(data=st.data())
    def a_caller_stops_reading_or_goes_on(self, data):
        caller = data.draw(st.sampled_from(self.callers))
        caller.session.full = not caller.session.full
        if not caller.session.full:
            crowded, caller.session.crowded = caller.session.crowded, set()
            for each in crowded:
                each.line_up()
        self.turn()

    @precondition(has_callers)
    @rule(data=st.data())
    def a_caller_goes(self, data):
        caller = data.draw(st.sampled_from(self.callers))
        self.callers.remove(caller)
        caller.detach(None)
        for ask in self.asked.values():
            if ask.caller is caller and ask.outcome is None:
                ask.outcome = "nothing"
        self.turn()
        assert not caller.streams
        assert caller.session.promised == 0

    @precondition(has_work)
    @rule(data=st.data(), more_n=st.integers(1, 5), more_b=st.integers(1, 10))
    def a_caller_takes_more_of_a_stream(self, data, more_n, more_b):
        streams = [(caller, number) for caller in self.callers for number in caller.streams]
        if streams:
            caller, number = data.draw(st.sampled_from(streams))
            stream = caller.streams[number]
            caller.credit(Event(CREDIT, 0, number, 1, {"n": stream.n + more_n, "b": stream.b + more_b, "epoch": 0}))
        self.turn()

    # -- servers

    @rule()
    def a_server_comes(self):
        if len(self.servers) < 3:
            self.channel += 1
            server = Server(Wire(self.broker), self.channel, self.service)
            self.servers.append(server)
            self.work[server] = {}
        self.turn()

    @precondition(has_servers)
    @rule(n=st.integers(1, 10), data=st.data())
    def a_server_gives_credit(self, n, data):
        server = data.draw(st.sampled_from(self.servers))
        server.credit(Event(0, 0, 0, 1, {"n": server.sent_n + n, "b": server.sent_b + 3 * n}))
        self.turn()

    def some_range(self, data):
        server = data.draw(st.sampled_from([server for server in self.servers if self.work[server]]))
        first = data.draw(st.integers(0, server.sent_n - 1))
        return server, first, data.draw(st.integers(1, server.sent_n - first))

    def ends(self, server, first, count, outcome):
        """The model: what *server* answers ends what is still open of it."""
        for number in range(first, first + count):
            item = self.work[server].pop(number, None)
            if item is not None:
                self.asked[item].outcome = outcome(item)
                self.answered += 1

    @precondition(has_work)
    @rule(data=st.data())
    def a_server_replies(self, data):
        server, first, count = self.some_range(data)
        if any(number in server.streams for number in range(first, first + count)):
            with pytest.raises(Exception, match="BAD_SEQUENCE"):
                server.reply(Event(REPLY, 0, first, count, packed([0] * count)))
            return
        replies = [[number, "reply"] for number in range(first, first + count)]
        work = {item: number for number, item in self.work[server].items()}
        self.ends(server, first, count, lambda item: ("reply", [work[item], "reply"]))
        server.reply(Event(REPLY, 0, first, count, packed(replies)))
        self.turn()

    @precondition(has_work)
    @rule(data=st.data())
    def a_server_fails_them(self, data):
        server, first, count = self.some_range(data)
        self.ends(server, first, count, lambda item: ("fail", "NO", "server"))
        fields = {"count": count, "code": "NO", "text": "", "by": "broker"}  # the last is a lie
        server.fail(Event(FAIL, 0, first, 1, fields))
        self.turn()

    @precondition(has_work)
    @rule(data=st.data(), many=st.integers(0, 4))
    def a_server_streams(self, data, many):
        server = data.draw(st.sampled_from([server for server in self.servers if self.work[server]]))
        number = data.draw(st.sampled_from(sorted(self.work[server])))
        ask, stream = self.asked[self.work[server][number]], server.streams.get(number)
        if stream is None:
            ask.sent = 0
            server.part(Event(PART, 0, number, 1, packed([0])))
        elif ask.sent + many > stream.limit_n or (many and stream.b >= stream.limit_b):
            with pytest.raises(Exception, match="OVER_CREDIT"):
                server.part(Event(PART, 0, number, 1 + many, packed([ask.sent, *[0] * many])))
        else:
            items = range(ask.sent, ask.sent + many)
            ask.sent += many
            server.part(Event(PART, 0, number, 1 + many, packed([items.start, *items])))
        self.turn()

    @precondition(has_work)
    @rule(data=st.data())
    def a_stream_ends(self, data):
        server = data.draw(st.sampled_from([server for server in self.servers if self.work[server]]))
        number = data.draw(st.sampled_from(sorted(self.work[server])))
        n = self.asked[self.work[server][number]].sent or 0
        with pytest.raises(Exception, match="BAD_SEQUENCE"):
            server.end(Event(END, 0, number, 1, {"n": n + 1}))
        self.ends(server, number, 1, lambda item: ("end", n))
        server.end(Event(END, 0, number, 1, {"n": n}))
        self.turn()

    @precondition(has_work)
    @rule(data=st.data())
    def a_server_answers_what_it_never_got(self, data):
        server = data.draw(st.sampled_from(self.servers))
        for method, event in (
            (server.reply, Event(REPLY, 0, server.sent_n, 1, packed([1]))),
            (server.part, Event(PART, 0, server.sent_n, 1, packed([0]))),
            (server.end, Event(END, 0, server.sent_n, 1, {"n": 1})),
            (server.fail, Event(FAIL, 0, server.sent_n, 1, {"count": 1, "code": "X", "text": ""})),
            (server.nack, Event(NACK, 0, 0, 1, {"r": [server.sent_n, 1], "back": True})),
        ):
            with pytest.raises(Exception, match="BAD_SEQUENCE"):
                method(event)

    @precondition(has_work)
    @rule(data=st.data())
    def a_server_gives_back(self, data):
        server, first, count = self.some_range(data)
        event = Event(NACK, 0, 0, 1, {"r": [first, count], "back": True})
        if any(number in server.streams for number in range(first, first + count)):
            with pytest.raises(Exception, match="BAD_SEQUENCE"):
                server.nack(event)
            return
        for number in range(first, first + count):
            item = self.work[server].pop(number, None)
            if item is not None:
                self.asked[item].at = None
        server.nack(event)
        self.turn()

    @precondition(has_servers)
    @rule(data=st.data(), crash=st.booleans())
    def a_server_goes(self, data, crash):
        server = data.draw(st.sampled_from(self.servers))
        self.servers.remove(server)
        seen = None if crash else data.draw(st.integers(0, server.sent_n))
        for number, item in self.work.pop(server).items():
            ask = self.asked[item]
            if seen is None or number < seen or ask.sent is not None:
                ask.outcome = "fail", "PEER_LOST", "broker"
            else:
                ask.at = None
        server.detach(seen)
        assert not server.streams
        self.turn()

    @rule(seconds=st.sampled_from([0.05, 0.2, 1, 10]))
    def time_passes(self, seconds):
        self.clock.pass_time(seconds)
        self.turn()

    # -- what holds at every moment

    @invariant()
    def every_request_is_in_one_place(self):
        if not hasattr(self, "service"):
            return
        service = self.service
        assert service.balance == 0
        assert service.accepted == self.item
        assert service.acknowledged == self.answered
        open_ = {item for item, ask in self.asked.items() if ask.outcome is None}
        assert {item for work in self.work.values() for item in work.values()} | set(self.waiting()) == open_
        assert service.flight_n == sum(map(len, self.work.values()))

    def waiting(self):
        batches = [*self.service.ready, *(b for some in self.service.aside.values() for b in some)]
        for batch in batches:
            unpacker = msgpack.Unpacker()
            unpacker.feed(batch.body)
            yield from unpacker

    @invariant()
    def everybody_was_told(self):
        if hasattr(self, "service"):
            for ask in self.asked.values():
                if ask.outcome not in (None, "nothing"):
                    assert ask.told
                    assert ask.outcome[0] != "end" or len(ask.got) == ask.outcome[1]

    @invariant()
    def the_sums_are_the_sums(self):
        if not hasattr(self, "service"):
            return
        service = self.service
        waiting = [*service.ready, *(b for some in service.aside.values() for b in some)]
        assert not service.back
        assert service.ready_n == sum(batch.count for batch in waiting)
        assert service.ready_b == sum(len(batch.body) for batch in waiting)
        assert service.flight_n == sum(server.flight.count for server in service.pullers)
        assert service.granted_n == sum(0 if each.spent else each.quota.left_n for each in service.pushers)
        numbers = [batch.number for batch in service.ready]
        assert numbers == sorted(numbers)
        for caller in self.callers:
            streams = caller.streams.values()
            assert caller.session.promised == sum(max(stream.limit_b - stream.b, 0) for stream in streams)
            assert all(stream.server.streams[stream.seq] is stream for stream in streams)
            assert set(caller.streams) <= {ask.number for ask in self.asked.values() if ask.caller is caller}

    @invariant()
    def nobody_waits_for_what_is_there(self):
        if not hasattr(self, "service"):
            return
        if self.service.ready:
            assert not any(server.can_take for server in self.servers)
        if self.service.ready and not self.servers:
            assert all(batch.origin.wait for batch in self.service.ready)
        for caller in self.service.aside:
            assert caller.session.full


Services.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestServices = Services.TestCase


# -- peers that speak the wire by hand

CALL, SERVE = 1, 2


@pytest.fixture
def broker(h, tmp_path):
    """On a Unix socket: what a peer does not read stays with the broker, but for 200 KB or so."""
    with h.broker.listen(f"unix://{tmp_path}/s", output_bytes=100_000, unsettled_bytes=1 << 20) as broker:
        yield broker


#: More than the kernel keeps for a peer that does not read, and than the broker's output may be.
MUCH = 1_000_000


@pytest.fixture
def peer(h, broker):
    """Makes peers."""
    peers = []

    def make():
        peers.append(Peer(h, broker.urls[0]))
        return peers[-1]

    yield make
    for each in peers:
        each.close()


@pytest.fixture
def server(peer, broker):
    """Serves "sums", and may be sent all that there is."""
    server = peer()
    server.open(SERVE, "serve", "sums")
    server.credit(SERVE)
    server.status()
    return server


@pytest.fixture
def caller(peer, server):
    caller = peer()
    caller.open(CALL, "call", "sums")
    caller.want(CALL, n=4_500, b=1 << 20)
    while caller.fields(CREDIT)["n"] < 4_500:
        pass
    return caller


def test_answers_find_their_requests_in_any_order(caller, server):
    caller.ask(CALL, 0, ["a", "b", "c", "d"])
    assert server.delivery()[1:] == [0, WHO, ["a", "b", "c", "d"]]
    server.reply(SERVE, 2, "C", "D")
    server.fail(SERVE, 1, code="ODD", text="b is odd", type="Odd", trace="here", by="broker")
    server.reply(SERVE, 0, "A")
    assert caller.answer() == [REPLY, CALL, 2, ["C", "D"]]
    odd = {"count": 1, "code": "ODD", "text": "b is odd", "type": "Odd", "trace": "here", "by": "server"}
    assert caller.answer() == [FAIL, CALL, 1, odd]
    assert caller.answer() == [REPLY, CALL, 0, ["A"]]


def test_replies_go_only_to_who_asked(peer, caller, server):
    other = peer()
    other.open(7, "call", "sums", first=100)
    other.expect(CREDIT)
    caller.ask(CALL, 0, [1, 2])
    assert server.delivery()[3] == [1, 2]
    other.ask(7, 100, [3])
    assert server.delivery()[1:] == [2, WHO, [3]]
    caller.ask(CALL, 2, [4])
    assert server.delivery()[1:] == [3, WHO, [4]]
    server.reply(SERVE, 0, "one", "two", "three", "four")
    assert other.answer() == [REPLY, 7, 100, ["three"]]
    assert caller.answer() == [REPLY, CALL, 0, ["one", "two"]]
    assert caller.answer() == [REPLY, CALL, 2, ["four"]]


def test_a_failure_of_many_reaches_each_caller_with_its_own(peer, caller, server):
    other = peer()
    other.open(7, "call", "sums", first=100)
    other.expect(CREDIT)
    for seq in range(3):
        caller.ask(CALL, seq, [0])
        server.delivery()
        other.ask(7, 100 + seq, [0])
        server.delivery()
    server.fail(SERVE, 0, 6)
    for seq in range(3):
        assert caller.answer()[1:3] == [CALL, seq]
        assert other.answer()[1:3] == [7, 100 + seq]


@pytest.mark.parametrize("identity", ["admin", ""])
def test_an_identity_is_the_brokers_and_nobody_can_say_that_he_is_another(peer, broker, caller, server, identity):
    forger = peer()
    forger.open(CALL, "call", "sums")
    forger.expect(CREDIT)
    forger.ask(CALL, 0, ["let me in"], identity="admin")
    assert forger.fields(ERROR)["code"] == "BAD_MAP"
    for session in broker.sessions:
        session.identity = identity
    caller.ask(CALL, 0, [1])
    assert server.delivery()[2] == ({"identity": identity} if identity else {})


def test_without_a_server_a_request_fails_at_once_unless_it_waits(peer, broker):
    caller = peer()
    caller.open(CALL, "call", "sums")
    caller.expect(CREDIT)
    caller.ask(CALL, 0, [1, 2])
    no_service = {"count": 2, "code": "NO_SERVICE", "text": FAILURES["NO_SERVICE"], "by": "broker"}
    assert caller.answer() == [FAIL, CALL, 0, no_service]
    caller.ask(CALL, 2, [3], wait=True)
    caller.status()
    assert (accounts(broker).ready_n, accounts(broker).dropped) == (1, 2)
    server = peer()
    server.open(SERVE, "serve", "sums")
    server.credit(SERVE)
    assert server.delivery()[1:] == [0, WHO, [3]]


def test_the_last_servers_end_fails_what_is_queued_unless_it_waits(peer, broker):
    first, second, caller = peer(), peer(), peer()
    for server in first, second:
        server.open(SERVE, "serve", "sums")
        server.status()
    caller.open(CALL, "call", "sums")
    caller.expect(CREDIT)
    caller.ask(CALL, 0, [1])
    caller.ask(CALL, 1, [2], wait=True)
    first.close_channel(SERVE)
    first.status()
    caller.status()
    assert accounts(broker).ready_n == 2
    second.close_channel(SERVE)
    assert caller.answer()[2:] == [
        0,
        {"count": 1, "code": "NO_SERVICE", "text": FAILURES["NO_SERVICE"], "by": "broker"},
    ]
    caller.status()
    assert accounts(broker).ready_n == 1


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_lost_servers_requests_fail_at_once_and_what_it_had_not_begun_goes_to_others(peer, caller, how):
    server, other = peer(), peer()
    server.open(SERVE, "serve", "jobs")
    server.credit(SERVE, n=3)
    caller.open(5, "call", "jobs")
    caller.expect(CREDIT)
    caller.ask(5, 0, [0, 1, 2, 3])
    assert server.delivery()[3] == [0, 1, 2]
    other.open(SERVE, "serve", "jobs")
    if how == "close":
        server.close_channel(SERVE, 1)
    else:
        server.close()
    lost = caller.answer()
    assert (lost[0], lost[2], lost[3]["code"], lost[3]["by"]) == (FAIL, 0, "PEER_LOST", "broker")
    assert lost[3]["count"] == (1 if how == "close" else 3)
    other.credit(SERVE)
    assert other.delivery()[3] == ([1, 2, 3] if how == "close" else [3])


def test_a_server_may_give_back_what_it_has_not_begun(peer, broker, caller, server):
    caller.ask(CALL, 0, [1, 2])
    server.delivery()
    server.credit(SERVE, 0)
    server.nack(SERVE, 1, 1, back=True)
    assert server.delivery()[1:] == [2, WHO, [2]]
    server.reply(SERVE, 2, "two")
    assert caller.answer() == [REPLY, CALL, 1, ["two"]]


@pytest.mark.parametrize("fields", [{}, {"delay": 5}, {"dead": "no"}])
def test_a_request_is_never_delivered_again_and_no_dead_letter(caller, server, fields):
    caller.ask(CALL, 0, [1])
    server.delivery()
    server.nack(SERVE, 0, 1, **fields)
    assert server.fields(ERROR)["code"] == "BAD_MAP"
    assert caller.answer()[3]["code"] == "PEER_LOST"


# -- deadlines


def test_what_is_overdue_never_reaches_a_server(h, peer, broker, monkeypatch):
    now = broker.now()
    broker.now = lambda: now
    server, caller = peer(), peer()
    server.open(SERVE, "serve", "sums")
    server.status()
    caller.open(CALL, "call", "sums")
    caller.expect(CREDIT)
    caller.ask(CALL, 0, ["soon"], deadline=1_000)
    caller.ask(CALL, 1, ["later"], deadline=5_000, trace=True)
    caller.status()
    now += 2
    server.credit(SERVE)
    assert server.delivery()[1:] == [0, {"deadline": 3_000, "trace": True, **WHO}, ["later"]]
    assert caller.answer()[3]["code"] == "DEADLINE"
    assert accounts(broker).dropped == 1


def test_a_deadline_that_is_as_far_away_as_can_be_harms_no_server(caller, server):
    caller.ask(CALL, 0, [1], deadline=MAX_SEQ)
    assert 0 < server.delivery()[2]["deadline"] <= MAX_SEQ


# -- cancelling


def test_cancelled_requests_are_dropped_and_their_server_is_told(caller, server, peer, broker):
    caller.ask(CALL, 0, list(range(6)))
    server.delivery()
    server.credit(SERVE, 6)
    caller.cancel(CALL, 1, 2, 4, 1)
    assert server.answer() == [CANCEL, SERVE, 0, {"r": [1, 2, 4, 1]}]
    server.reply(SERVE, 0, *"abcdef")
    assert [caller.answer()[2:] for _ in range(3)] == [[0, ["a"]], [3, ["d"]], [5, ["f"]]]
    caller.cancel(CALL, 0, 6)  # what is answered already
    caller.status()
    assert (accounts(broker).acknowledged, accounts(broker).dropped) == (3, 3)


def test_a_request_is_not_cancelled_before_it_is_asked(caller, server):
    caller.send(pack_control(CANCEL, CALL, 0, {"r": [0, 1 << 40]}) + data(CALL, 0, ["yes"]))
    assert server.delivery()[3] == ["yes"]
    server.reply(SERVE, 0, "here")
    assert caller.answer() == [REPLY, CALL, 0, ["here"]]


def test_a_caller_that_goes_cancels_all_its_requests(caller, server, broker):
    caller.ask(CALL, 0, [1, 2, 3])
    server.delivery()
    server.part(SERVE, 1, 0)
    caller.close_channel(CALL)
    assert server.answer() == [CANCEL, SERVE, 0, {"r": [0, 3]}]
    server.reply(SERVE, 0, 1)
    server.part(SERVE, 1, 0, "late")
    server.end(SERVE, 1, 7)
    server.fail(SERVE, 2)
    server.status()
    assert (accounts(broker).dropped, accounts(broker).flight_n) == (3, 0)


class Counted:
    """A function, and how often it was called."""

    def __init__(self, f):
        self.f = f
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.f(*args)


def test_cancels_one_by_one_cost_a_look_a_tick_in_whatever_order_they_come(broker, caller, server, monkeypatch):
    count = 4_000
    server.close_channel(SERVE)
    server.status()
    caller.ask(CALL, 0, list(range(count)), wait=True)
    caller.status()
    looks, real = [], Service.withdraw
    monkeypatch.setattr(Service, "withdraw", lambda *args: (looks.append(args), real(*args)))
    caller.send(b"".join(pack_control(CANCEL, CALL, 0, {"r": [seq, 1]}) for seq in range(count - 1, -1, -2)))
    caller.status()
    assert accounts(broker).ready_n == accounts(broker).dropped == count // 2
    assert len(looks) <= 10


def test_ranges_that_come_crosswise_are_put_in_order_once(monkeypatch):
    """A caller may say thousands with each frame; to merge each with all before it would take minutes."""
    broker = Broker(Clock(), Options())
    service = broker.endpoint("sums", Service)
    caller = Caller(Wire(broker), 1, service, 0)
    caller.quota.n = 1 << 40
    merges = Counted(Ranges._merge)
    monkeypatch.setattr(Ranges, "_merge", merges)
    wanted = []
    monkeypatch.setattr(Service, "withdraw", lambda service, caller, ranges: wanted.extend(ranges))
    for start in 2, 0:
        flat = [n for first in range(start, 30_000, 4) for n in (first, 1)]
        caller.cancel(Event(CANCEL, 1, 0, 1, {"r": flat}))
    caller.emit()
    assert wanted == [(first, 1) for first in range(0, 30_000, 2)]
    assert merges.calls == 0


def test_many_ranges_are_told_to_a_server_in_frames_that_it_takes():
    broker = Broker(Clock(), Options())
    server = Server(Wire(broker), 1, broker.endpoint("sums", Service))
    ranges = [(first, 1) for first in range(1 << 60, (1 << 60) + 2_000, 2)]
    server.cancel(ranges)
    frames = server.session.frames
    assert len(frames) == -(-len(ranges) // CANCELS)
    assert all(len(array) < 2 * HELLO_LIMIT - 100 for *_, array in frames)
    told = [number for *_, array in frames for number in msgpack.unpackb(array)[0]["r"]]
    assert list(zip(told[::2], told[1::2])) == ranges


@pytest.mark.parametrize(
    ("first", "count", "ranges", "found"),
    [
        (0, 5, [(0, 1 << 64)], [(0, 5)]),
        (5, 5, [(0, 5), (10, 5)], []),
        (5, 5, [(0, 6), (7, 1), (9, 9)], [(5, 1), (7, 1), (9, 1)]),
        (5, 1, [(5, 1)], [(5, 1)]),
        (5, 5, [(6, 2)], [(6, 2)]),
    ],
)
def test_overlaps_are_the_numbers_that_both_have(first, count, ranges, found):
    assert list(overlaps(first, count, ranges)) == found


# -- servers that lie


def answers(server):
    """What a server may say that is no answer to request 0 as it should be: (code of the error, how it is said)."""
    return {
        "an answer to what was never delivered": ("BAD_SEQUENCE", lambda: server.reply(SERVE, 1, "x")),
        "one reply too many": ("BAD_SEQUENCE", lambda: server.reply(SERVE, 0, "x", "y")),
        "no reply in a reply": ("BAD_MESSAGE", lambda: server.reply(SERVE, 0)),
        "a part of what was never delivered": ("BAD_SEQUENCE", lambda: server.part(SERVE, 1, 0)),
        "an end of what was never delivered": ("BAD_SEQUENCE", lambda: server.end(SERVE, 1, 0)),
        "a failure of what was never delivered": ("BAD_SEQUENCE", lambda: server.fail(SERVE, 0, 2)),
        "a stream that begins in the middle": ("BAD_SEQUENCE", lambda: server.part(SERVE, 0, 1)),
        "items without credit": ("OVER_CREDIT", lambda: server.part(SERVE, 0, 0, "x")),
        "an end of items that were none": ("BAD_SEQUENCE", lambda: server.end(SERVE, 0, 1)),
        "a part without an index": ("BAD_MESSAGE", lambda: server.send(pack_head(PART, SERVE, 0, 0, 0))),
        "an index that is no integer": ("BAD_MESSAGE", lambda: server.part(SERVE, 0, True)),
        "an index that is text": ("BAD_MESSAGE", lambda: server.part(SERVE, 0, "one")),
        "an index that is no text": ("BAD_MESSAGE", lambda: server.send(pack_head(PART, SERVE, 0, 1, 2) + b"\xa1\xff")),
        "an index that no dict has": (
            "BAD_MESSAGE",
            lambda: server.send(pack_head(PART, SERVE, 0, 1, 3) + b"\x81\x90\x01"),
        ),
        "an index below 0": ("BAD_SEQUENCE", lambda: server.part(SERVE, 0, -1)),
        "an acknowledgement": ("BAD_STATE", lambda: server.ack(SERVE, 0, 1)),
        "a code of nothing": ("BAD_MAP", lambda: server.fail(SERVE, 0, code="")),
        "a code of two lines": ("BAD_MAP", lambda: server.fail(SERVE, 0, code="a\nb")),
        "a reply that is broken": ("BAD_MESSAGE", lambda: server.send(pack_head(REPLY, SERVE, 0, 1, 1) + b"\xc1")),
        "more than it says": ("BAD_MESSAGE", lambda: server.send(pack_head(REPLY, SERVE, 0, 1, 2) + b"\x01\x01")),
    }


@pytest.mark.parametrize("lie", answers(None))
def test_a_server_that_lies_loses_its_connection_and_the_call_fails(peer, caller, server, lie):
    caller.ask(CALL, 0, ["?"])
    server.delivery()
    code, say = answers(server)[lie]
    say()
    assert server.fields(ERROR)["code"] == code
    assert server.gone()
    kind, _, seq, said = caller.answer()
    while kind == PART:  # its stream had begun
        kind, _, seq, said = caller.answer()
    assert (kind, seq, said["code"], said["by"]) == (FAIL, 0, "PEER_LOST", "broker")
    caller.status()


@pytest.fixture
def stream(caller, server):
    """Request 0 has begun to be answered by a stream, and may go on with 3 items."""
    caller.ask(CALL, 0, ["?"])
    server.delivery()
    server.part(SERVE, 0, 0)
    assert caller.answer() == [PART, CALL, 0, [0]]
    caller.stream_credit(CALL, 0, 3, 1_000)
    assert server.fields(CREDIT) == {"n": 3, "b": 1_000, "epoch": 0}


def in_a_stream(server):
    """Likewise: of a stream that has 2 items and may have 3."""
    return {
        "an item too many": ("OVER_CREDIT", lambda: server.part(SERVE, 0, 2, "c", "d")),
        "a gap": ("BAD_SEQUENCE", lambda: server.part(SERVE, 0, 3, "d")),
        "an item twice": ("BAD_SEQUENCE", lambda: server.part(SERVE, 0, 1, "b")),
        "an end too early": ("BAD_SEQUENCE", lambda: server.end(SERVE, 0, 3)),
        "an end too late": ("BAD_SEQUENCE", lambda: server.end(SERVE, 0, 1)),
        "a reply instead of an end": ("BAD_SEQUENCE", lambda: server.reply(SERVE, 0, "all")),
        "giving back what was answered in part": ("BAD_SEQUENCE", lambda: server.nack(SERVE, 0, 1, back=True)),
    }


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("lie", in_a_stream(None))
def test_a_server_that_lies_in_a_stream_loses_its_connection_and_the_call_fails(caller, server, lie):
    server.part(SERVE, 0, 0, "a", "b")
    assert caller.answer() == [PART, CALL, 0, [0, "a", "b"]]
    code, say = in_a_stream(server)[lie]
    say()
    assert server.fields(ERROR)["code"] == code
    assert caller.answer()[3]["code"] == "PEER_LOST"


@pytest.mark.usefixtures("stream")
def test_bytes_of_a_stream_are_bounded_but_one_item_may_overshoot(caller, server):
    server.part(SERVE, 0, 0, b"x" * 5_000)
    server.part(SERVE, 0, 1, b"x")
    assert server.fields(ERROR)["code"] == "OVER_CREDIT"


@pytest.mark.usefixtures("stream")
def test_a_stream_that_was_begun_is_not_given_to_another_server_whatever_the_first_says(peer, caller, server):
    other = peer()
    other.open(SERVE, "serve", "sums")
    other.credit(SERVE)
    other.status()
    server.close_channel(SERVE, 0)  # "nothing of it was handed out"
    assert caller.answer()[3]["code"] == "PEER_LOST"
    caller.ask(CALL, 1, ["next"])
    assert other.delivery()[1:] == [0, WHO, ["next"]]


@pytest.mark.usefixtures("stream")
def test_a_stream_may_fail_in_the_middle(caller, server):
    server.part(SERVE, 0, 0, "a")
    server.fail(SERVE, 0)
    assert caller.answer() == [PART, CALL, 0, [0, "a"]]
    assert caller.answer()[:3] == [FAIL, CALL, 0]
    server.part(SERVE, 0, 1, "b")  # passed over
    server.status()


def test_an_end_without_a_beginning_is_an_empty_stream(caller, server):
    caller.ask(CALL, 0, ["?"])
    server.delivery()
    server.end(SERVE, 0, 0)
    assert caller.answer() == [END, CALL, 0, {"n": 0}]


def test_what_is_answered_twice_is_passed_over(caller, server, broker):
    caller.ask(CALL, 0, [1, 2])
    server.delivery()
    for _ in range(3):
        server.reply(SERVE, 0, "a", "b")
        server.fail(SERVE, 0, 2)
        server.end(SERVE, 1, 5)
        server.part(SERVE, 1, 9)
    assert caller.answer() == [REPLY, CALL, 0, ["a", "b"]]
    server.status()
    caller.ask(CALL, 2, [3])
    server.delivery()
    server.reply(SERVE, 2, "c")
    assert caller.answer() == [REPLY, CALL, 2, ["c"]]
    assert accounts(broker).acknowledged == 3


# -- memory and fairness


def session_of(broker, kind, name="sums"):
    """The session that has a channel of *kind*; for tests with one."""
    service = broker.endpoints[name]
    (channel,) = service.pushers if kind == "call" else service.pullers
    return channel.session


@pytest.fixture
def puts(monkeypatch):
    """What any session is to send, from now on: (session, part)."""
    puts, real = [], Session.put

    def put(session, *parts):
        puts.extend((session, part) for part in parts)
        real(session, *parts)

    monkeypatch.setattr(Session, "put", put)
    return puts


@pytest.mark.usefixtures("stream")
def test_parts_without_items_fill_no_output(server, broker, puts):
    empty = pack_head(PART, SERVE, 0, 1, 1) + b"\0"
    server.send(empty * 1_000)
    server.status()
    assert session_of(broker, "call") not in [session for session, _ in puts]


@pytest.mark.usefixtures("stream")
def test_absurd_credit_is_passed_on_as_far_as_the_broker_keeps(h, caller, server, broker):
    caller.stream_credit(CALL, 0)
    assert server.fields(CREDIT)["b"] == stream_module.AHEAD_BYTES
    for _ in range(50):  # asking again and again helps nobody
        caller.stream_credit(CALL, 0)
    caller.status()
    assert session_of(broker, "call").promised == stream_module.AHEAD_BYTES


def test_the_streams_of_one_caller_together_are_promised_no_more_than_the_broker_keeps(caller, server, broker):
    count = 100
    caller.ask(CALL, 0, ["?"] * count)
    server.delivery()
    for seq in range(count):
        server.part(SERVE, seq, 0)
    for seq in range(count):
        caller.stream_credit(CALL, seq)
    for n in range(2, 50):  # each of these asks for the same again
        caller.stream_credit(CALL, 99, (1 << 60) + n)
    caller.status()
    most = broker.options.unsettled_bytes + count * stream_module.LEAST_BYTES
    assert broker.options.unsettled_bytes <= session_of(broker, "call").promised <= most


@pytest.mark.usefixtures("stream")
def test_a_caller_cannot_fill_a_servers_output_with_credit(caller, server, broker):
    """The server reads nothing meanwhile."""
    session = session_of(broker, "serve")
    step = 2_000
    for start in range(0, 40_000, step):
        frames = (pack_control(CREDIT, CALL, 0, {"n": n, "b": 1 << 40, "epoch": 0}) for n in range(start, start + step))
        caller.send(*frames)
        caller.status()
    assert session.out.unsent < 2 * broker.options.output_bytes
    while server.fields(CREDIT)["n"] < 39_999:
        pass


def test_one_small_reply_of_a_large_frame_does_not_keep_the_frame(peer, broker, caller, server, puts):
    other = peer()
    other.open(7, "call", "sums")
    other.expect(CREDIT)
    other.ask(7, 0, ["small"])
    assert server.delivery()[3] == ["small"]
    caller.ask(CALL, 0, ["large"])
    assert server.delivery()[3] == ["large"]
    (session,) = (c.session for c in accounts(broker).pushers if c.id == 7)
    server.reply(SERVE, 0, "tiny", b"x" * 200_000)
    assert other.answer() == [REPLY, 7, 0, ["tiny"]]
    kept = [part for whose, part in puts if whose is session]
    assert kept
    assert all(len(part.obj if isinstance(part, memoryview) else part) < 100 for part in kept)


def test_a_long_failure_of_many_calls_is_kept_once(peer, broker, caller, server, puts):
    other = peer()
    other.open(7, "call", "sums")
    other.expect(CREDIT)
    for seq in range(20):
        caller.ask(CALL, seq, [0])
        server.delivery()
        other.ask(7, seq, [0])
        server.delivery()
    puts.clear()
    server.fail(SERVE, 0, 40, trace="x" * 50_000)
    server.status()
    assert sum(map(len, {id(part): part for _, part in puts}.values())) < 60_000
    for seq in range(20):
        assert caller.answer()[1:3] == [CALL, seq]
        assert other.answer()[1:3] == [7, seq]


@pytest.fixture
def stalled(peer, broker, server):
    """A caller that has asked 20, got large replies, and reads none of them. Then it has asked for "more"."""
    stalled = peer()
    stalled.open(7, "call", "sums")
    stalled.expect(CREDIT)
    (session,) = (c.session for c in accounts(broker).pushers if c.id == 7)
    stalled.ask(7, 0, ["big"] * 20)
    assert server.delivery()[3] == ["big"] * 20
    server.reply(SERVE, 0, *[b"x" * (MUCH // 20)] * 20)
    server.status()
    assert session.full
    # The broker reads nothing from who does not read; this came before it knew.
    (channel,) = (c for c in accounts(broker).pushers if c.id == 7)
    channel.data(Event(DATA, 7, 20, 1, packed(["more"])))
    server.status()
    return stalled


def test_who_does_not_read_its_replies_is_set_aside_and_others_go_on(stalled, broker, caller, server):
    caller.ask(CALL, 0, ["mine"])
    assert server.delivery()[3] == ["mine"]
    server.reply(SERVE, 20, "yours")
    assert caller.answer() == [REPLY, CALL, 0, ["yours"]]
    assert (accounts(broker).ready_n, len(accounts(broker).aside)) == (1, 1)
    got = 0
    while got < 20:
        got += len(stalled.answer()[3])
    assert server.delivery()[3] == ["more"]
    server.reply(SERVE, 21, "last")
    assert stalled.answer() == [REPLY, 7, 20, ["last"]]


def test_what_is_set_aside_is_cancelled_with_its_caller(h, stalled, broker, caller, server):
    stalled.close()
    until(h, lambda: len(broker.sessions) == 2)
    assert (accounts(broker).ready_n, len(accounts(broker).aside), accounts(broker).dropped) == (0, 0, 1)


def test_what_is_set_aside_fails_when_the_last_server_goes(stalled, broker, server):
    server.close_channel(SERVE)
    server.status()
    assert (accounts(broker).ready_n, len(accounts(broker).aside)) == (0, 0)
    got = 0
    while got < 20:
        got += len(stalled.answer()[3])
    kind, _, seq, said = stalled.answer()
    assert (kind, seq, said["code"]) == (FAIL, 20, "NO_SERVICE")


def test_what_waits_for_a_callers_output_does_not_wait_for_its_settlements(stalled, broker, server):
    """It consumes a queue beside, and what it has not settled is as much as may be."""
    (session,) = (c.session for c in accounts(broker).pushers if c.id == 7)
    session.held = broker.options.unsettled_bytes
    got = 0
    while got < 20:
        got += len(stalled.answer()[3])
    assert server.delivery()[3] == ["more"]
    session.held = 0


def test_an_endpoint_of_another_kind_is_a_mismatch(peer, broker):
    one = peer()
    one.open(1, "serve", "sums")
    one.open(2, "push", "sums")
    assert one.fields(ERROR)["code"] == "MISMATCH"
    one.open(3, "push", "jobs")
    one.open(4, "call", "jobs")
    assert one.fields(ERROR)["code"] == "MISMATCH"


def test_a_service_is_gone_with_its_last_end(h, peer, broker):
    one = peer()
    one.open(1, "serve", "sums")
    one.open(2, "call", "sums")
    one.status()
    assert "sums" in broker.endpoints
    one.close_channel(1)
    one.close_channel(2)
    one.status()
    one.open(3, "push", "sums")
    assert one.expect(OPEN, ERROR)[0] == OPEN


def test_two_servers_with_credit_share_what_comes(peer, caller, server):
    other = peer()
    other.open(SERVE, "serve", "sums")
    other.credit(SERVE)
    other.status()
    caller.ask(CALL, 0, list(range(100)))
    assert [len(each.delivery()[3]) for each in (server, other)] == [50, 50]


def test_a_draining_broker_refuses_callers_and_lets_servers_answer(h, peer, broker, caller, server):
    caller.ask(CALL, 0, ["?"])
    server.delivery()
    task = h.spawn(broker.drain, PATIENCE)
    until(h, lambda: broker.draining)
    caller.open(9, "call", "sums")
    assert caller.fields(ERROR)["code"] == "GOING_AWAY"
    server.reply(SERVE, 0, "!")
    assert caller.answer() == [REPLY, CALL, 0, ["!"]]
    caller.close()
    server.close()
    assert task.join(timeout=PATIENCE)


def test_answers_beyond_what_is_kept_for_a_connection_are_dropped_and_their_caller_is_told(peer, broker, server):
    deaf = peer()
    deaf.open(7, "call", "sums")
    deaf.expect(CREDIT)
    (session,) = (c.session for c in accounts(broker).pushers if c.id == 7)
    deaf.ask(7, 0, ["big"] * 60)
    asked = 0
    while asked < 60:
        asked += len(server.delivery()[3])
    for number in range(60):
        server.reply(SERVE, number, b"x" * 500_000)
        server.status()
    assert session.out.unsent < broker.options.unsettled_bytes + 600_000
    replies, codes = 0, set()
    while replies + len(codes) < 60:
        kind, _, _, said = deaf.answer()
        if kind == REPLY:
            assert said == [b"x" * 500_000]
            replies += 1
        else:
            codes.add((said["code"], said["by"], replies + len(codes)))
    assert codes and {code[:2] for code in codes} == {("UNREAD", "broker")}
    assert accounts(broker).balance == 0
