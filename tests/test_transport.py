"""A UDP session in simulated time: whatever a path does to datagrams, each byte comes once and in order."""

from __future__ import annotations

import pytest
from links import MANY, End, Flow, Link, World, bytes_of

from vanilla.protocol import packets, reassembly
from vanilla.protocol.limits import Limits
from vanilla.protocol.outgoing import MOST_FLYING
from vanilla.protocol.packets import INIT_BYTES, Close, Data, parse_data
from vanilla.protocol.transport import CLOSED, OPEN, Transport

PATHS = {
    "lossless": {},
    "lossy": {"loss": 0.1},
    "very lossy": {"loss": 0.3},
    "jitter": {"jitter": 0.02},
    "all of it": {"loss": 0.2, "duplicate": 0.1, "reorder": 0.2, "jitter": 0.003},
    "reordering": {"reorder": 0.5, "late": 0.03},
    "narrow": {"rate": 1e6, "queue": 20_000},
}


def flow(seed, limits=MANY, server_limits=None, **path):
    world = World(seed)
    return Flow(world, Link(world, delay=0.01, **path), Link(world, delay=0.01, **path), limits, server_limits)


def over(flow):
    return flow.server is not None and {flow.client.transport.state, flow.server.transport.state} == {CLOSED}


def exchange(flow, total=60_000, until=200.0):
    """Both ends send, end their streams, and get each other's."""
    there, flow.client.source = bytes_of(total, flow.world.random)
    back, source = bytes_of(total // 2, flow.world.random)

    def begin(end):
        end.source = source

    flow.on_server = begin
    flow.start()
    assert flow.world.run(until, lambda: over(flow))
    assert (flow.server.got, flow.client.got) == (there, back)
    assert flow.client.transport.error is None and flow.server.transport.error is None


def opened(seed=1, **more):
    made = flow(seed, **more)
    made.start()
    assert made.world.run(5.0, lambda: made.client.transport.state == OPEN)
    made.world.run(made.world.now + 1.0)
    return made


def test_what_is_lost_first_is_sent_again_after_the_round_trips_that_dialling_took():
    made, lost = flow(1), []
    there, made.client.source = bytes_of(100, made.world.random)
    send = made.client.outgoing.send

    def lose_the_first(data, deliver):
        if packets.kind_of(data) == packets.DATA and not lost:
            lost.append(made.world.now)
        else:
            send(data, deliver)

    made.client.outgoing.send = lose_the_first
    made.start()
    assert made.world.run(0.15, lambda: made.server is not None and made.server.got == there)
    assert lost == [pytest.approx(0.02)]


def test_a_retry_that_may_answer_a_later_init_tells_of_no_round_trip():
    made = flow(1)
    made.client.outgoing.dark = True
    made.start()
    made.world.run(0.1)
    made.client.outgoing.dark = False
    recovery = made.client.transport._outgoing.recovery
    assert made.world.run(5.0, lambda: made.client.transport._outgoing.peer)
    assert not recovery.sampled and recovery.pto > 0.3


def test_what_is_longer_than_a_full_datagram_leaves_in_one_piece():
    exchange(flow(1, Limits(datagram=92, datagrams=4096)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(20))
def test_every_byte_comes_once_and_in_order(path, seed):
    exchange(flow(seed, **PATHS[path]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(4))
def test_who_rests_has_nothing_to_send_and_nothing_to_do_sooner(monkeypatch, path, seed):
    said: dict[Transport, float] = {}
    rested = 0
    next_time, datagrams = Transport.next_time, Transport.datagrams

    def timed(self):
        time = next_time(self)
        said[self] = min(said.get(self, time) or time, time) if time is not None else 0.0
        return time

    def checked(self, now):
        nonlocal rested
        until = said.get(self, 0.0)
        rests = self.rests(now, until)
        if now >= until:
            said.pop(self, None)
        trains = datagrams(self, now)
        if rests:
            rested += 1
            assert not trains and next_time(self) >= until
        return trains

    monkeypatch.setattr(Transport, "next_time", timed)
    monkeypatch.setattr(Transport, "datagrams", checked)
    made = flow(seed, **PATHS[path])
    receive = End.receive

    def late(self, data, address=None):
        self.pump()
        receive(self, data, address)
        self.pump()

    monkeypatch.setattr(End, "receive", late)
    exchange(made)
    assert rested or path == "all of it"


@pytest.mark.parametrize("controller", ["delivery", "newreno"])
def test_either_controller_gets_everything_through(controller):
    exchange(flow(1, Limits(controller=controller), **PATHS["lossy"]), 300_000)


@pytest.mark.parametrize("size", [0, 1, packets.DATAGRAM_BYTES - packets.OVERHEAD_BYTES, 10_000])
def test_a_stream_of_any_length_ends(size):
    exchange(flow(1), size)


@pytest.mark.parametrize("most", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_who_keeps_few_pieces_that_are_out_of_order_gets_every_byte(monkeypatch, seed, most):
    monkeypatch.setattr(reassembly, "MOST_PIECES", most)
    made = flow(seed, loss=0.3, reorder=0.1, jitter=0.01)
    data, made.client.source = bytes_of(200_000, made.world.random)
    made.start()
    assert made.world.run(300.0, lambda: made.server is not None and made.server.count == len(data))
    assert made.server.got == data


def test_nothing_is_made_for_who_has_not_returned_a_cookie():
    made = flow(1)
    made.client.outgoing.loss = 0.0
    made.back.dark = True
    made.start()
    made.world.run(10.0)
    assert made.server is None and made.answered > 3


def test_a_session_goes_on_after_a_blackout():
    made = flow(3)
    data, made.client.source = bytes_of(3_000_000, made.world.random)
    made.client.outgoing.rate = 1e6
    made.start()
    made.world.run(1.0)
    made.client.outgoing.dark = made.back.dark = True
    made.world.run(11.0)
    before = made.server.count
    made.client.outgoing.dark = made.back.dark = False
    made.world.run(13.5)
    assert made.server.count > before  # the PTO backs off to two seconds
    assert made.world.run(60.0, lambda: made.server.got == data)


def test_a_silent_peer_ends_the_session_and_an_idle_one_does_not():
    made = opened()
    made.world.run(300.0)
    assert made.client.transport.state == made.server.transport.state == OPEN
    made.client.outgoing.dark = True
    made.world.run(400.0)
    assert made.client.transport.error[0] == made.server.transport.error[0] == packets.TIMEOUT


def test_a_closed_session_tells_its_peer_why():
    made = opened()
    made.client.transport.close(packets.DONE, "enough")
    made.client.pump()
    made.world.run(made.world.now + 1)
    assert made.server.transport.error == (packets.DONE, "enough")


def test_a_client_learns_that_its_server_was_started_again():
    made = opened()
    made.server = None
    made.client.source = bytes_of(1000, made.world.random)[1]
    made.client.pump()
    assert made.world.run(made.world.now + 5, lambda: made.client.transport.state == CLOSED)
    assert made.client.transport.error[0] == packets.UNKNOWN


def test_no_more_is_sent_than_the_peer_reads():
    made = opened()
    made.server.reads = False
    _, made.client.source = bytes_of(10_000_000, made.world.random)
    made.client.pump()
    made.world.run(20.0)
    assert made.server.transport.ready == MANY.window
    assert made.client.transport.room == 0
    made.server.reads = True
    made.server.pump()
    assert made.world.run(60.0, lambda: made.server.count == 10_000_000)


def test_no_more_datagrams_fly_than_the_peers_kernel_holds():
    made = opened(server_limits=Limits(datagrams=7))
    made.client.source = bytes_of(300_000, made.world.random)[1]
    most = 0

    def watch(end):
        nonlocal most
        most = max(most, end.transport._outgoing.recovery.flying)

    pump = made.client.pump
    made.client.pump = lambda: (pump(), watch(made.client))
    made.client.pump()
    assert made.world.run(60.0, lambda: made.server.count == 300_000)
    assert most == 7


def test_a_client_that_moves_is_asked_there_and_goes_on_from_there():
    made = flow(2, rate=1e6)
    data, made.client.source = bytes_of(1_000_000, made.world.random)
    made.start()
    made.world.run(0.3)
    made.client.address = "elsewhere"
    assert made.world.run(60.0, lambda: made.server.got == data)
    assert made.server.transport.address == "elsewhere" and made.server.transport.counters.moves == 1


def test_who_repeats_datagrams_from_elsewhere_gets_three_times_as_much_at_most_and_moves_nothing():
    made = opened()
    made.client.transport.put([b"x"])
    [(data, _, _)] = made.client.transport.datagrams(made.world.now)
    victim = 0
    server = made.server.transport
    server.receive(data, made.world.now, "victim")
    for step in range(100):
        for train, _, address in server.datagrams(made.world.now + step / 10):
            victim += len(train) if address == "victim" else 0
    assert 0 < victim <= 3 * len(data)
    assert server.address == "client" and server.counters.moves == 0


def test_an_address_that_answers_another_challenge_is_not_moved_to():
    made = opened()
    server = made.server.transport
    ping = packets.pack_data(1 << 30, server.token, [packets.PING_ITEM])
    server.receive(ping, made.world.now, "victim")
    [item] = [parse_data(data).items[0] for data, _, address in server.datagrams(made.world.now) if address == "victim"]
    for number, value, moved in ((1, item.value ^ 1, "client"), (2, item.value, "victim")):
        answer = packets.pack_data((1 << 30) + number, server.token, [packets.pack_response(value)])
        server.receive(answer, made.world.now, "victim")
        assert server.address == moved


@pytest.mark.parametrize("datagram", [packets.DATAGRAM_BYTES, 16_000])
def test_much_that_comes_after_little_is_not_paced_by_it(datagram):
    made = opened(limits=Limits(datagram=datagram, datagrams=4096))
    begin = made.world.now
    made.client.transport.put([bytes(250_000)])
    made.client.pump()
    assert made.world.run(begin + 0.15, lambda: made.server.count == 250_000)  # a round trip is 20 ms


def test_little_is_kept_for_a_peer_that_acknowledges_little():
    """Not 4 MiB: ten thousand of them would be 40 GB."""
    made = opened()
    transport = made.client.transport
    assert transport.put([bytes(1 << 20)]) <= 256 << 10
    assert transport.room == transport.put([b"more"]) == 0


def test_more_is_kept_for_a_peer_that_acknowledges_much():
    made = flow(1, rate=50e6, queue=1 << 20)
    made.client.source = lambda room: bytes(min(room, 1 << 20))
    made.start()
    assert made.world.run(2.0, lambda: made.server is not None and made.server.count > 5 << 20)
    transport = made.client.transport
    made.client.source = None
    assert made.world.run(made.world.now + 5.0, lambda: transport.empty)
    assert 256 << 10 < transport.room <= 4 << 20


def test_what_leaves_at_once_is_what_the_pace_has_for_a_few_milliseconds(monkeypatch):
    made = flow(1, rate=1e6, queue=50_000)
    made.client.source = bytes
    made.start()
    made.world.run(2.0)
    sizes = []
    datagrams = Transport.datagrams

    def watch(transport, now):
        trains = datagrams(transport, now)
        if transport.client:
            sizes.append(sum(len(data) for data, _, _ in trains))
        return trains

    monkeypatch.setattr(Transport, "datagrams", watch)
    made.world.run(4.0)
    assert sum(sizes) > 1.5e6 and max(sizes) < 1e6 * 0.008


def test_datagrams_of_others_change_nothing():
    made = opened()
    server = made.server.transport
    before = server.next_time()
    for data in (
        packets.pack_data(5, server.token ^ 1, [packets.pack_stream(0, b"x", False)]),
        packets.pack_data(6, server.token ^ 1, [packets.pack_stream(0, b"x", True)]),
        packets.pack_close(Close(packets.DONE, server.token ^ 1, "")),
        packets.pack_init(packets.Init(1, 0, 77, bytes(16))),
        packets.pack_retry(packets.Retry(1, server.token, 9, bytes(16))),
    ):
        server.receive(data, made.world.now, "stranger")
    server.receive(b"", made.world.now)
    server.receive(bytes(40), made.world.now)
    assert (server.counters.strangers, server.counters.bad) == (5, 2)
    assert server.state == OPEN and server.ready == 0 and server.next_time() == before


@pytest.mark.parametrize(
    "item",
    [
        packets.pack_ack([(0, 1 << 40)], 0.0),
        packets.pack_stream(1 << 40, b"x", False),
        packets.pack_stream(0, b"abc", True) + packets.pack_stream(0, b"abcd", False),
        packets.pack_stream(0, b"abc", True) + packets.pack_stream(0, b"ab", True),
    ],
    ids=["acknowledges what was never sent", "beyond the window", "behind the end", "two ends"],
)
def test_a_peer_that_breaks_the_rules_is_told_and_left(item):
    made = opened()
    server = made.server.transport
    server.receive(packets.pack_data(1 << 30, server.token, [item]), made.world.now)
    assert server.state == CLOSED and server.error[0] == packets.BAD_PACKET
    [(data, _, _)] = server.datagrams(made.world.now)
    assert packets.parse_close(data).code == packets.BAD_PACKET


def pair():
    """Two transports that have met, in one instant."""
    made = opened()
    return made.client.transport, made.server.transport, made.world.now


def test_trains_are_datagrams_of_one_length_but_for_the_last():
    client, server, now = pair()
    client.put([bytes(200_000)])
    trains = client.datagrams(now)
    assert any(len(data) > segment for data, segment, _ in trains)
    for data, segment, _ in trains:
        assert len(data) <= 64_000 and -(-len(data) // segment) <= 64
        for at in range(0, len(data), segment):
            assert isinstance(parse_data(data[at : at + segment]), Data)
        server.receive(data, now, None, segment)
    assert server.ready == 200_000 - client.unsent


@pytest.mark.parametrize("grouped", [False, True])
def test_a_train_read_at_once_is_what_its_datagrams_are(grouped):
    client, server, now = pair()
    data = bytes(range(256)) * 200
    assert client.put([data]) == len(data)
    for train, segment, _ in client.datagrams(now):
        if grouped:
            server.receive(train, now, None, segment)
        else:
            for at in range(0, len(train), segment):
                server.receive(train[at : at + segment], now)
    assert bytes(server.read(1 << 20)) == data[: len(data) - client.unsent]


@pytest.mark.parametrize(("ours", "theirs", "both"), [(16_000, 16_000, 16_000), (16_000, 3_000, 3_000)])
def test_datagrams_are_as_long_as_both_take_once_the_peer_has_said_so(ours, theirs, both):
    made = flow(1, Limits(datagram=ours, datagrams=4096), Limits(datagram=theirs, datagrams=4096))
    sizes = []
    carry = made.client.outgoing.send
    made.client.outgoing.send = lambda data, deliver: (sizes.append(len(data)), carry(data, deliver))
    data, made.client.source = bytes_of(500_000, made.world.random)
    made.start()
    assert made.world.run(20.0, lambda: made.server is not None and made.server.got == data)
    assert sizes[2] == packets.DATAGRAM_BYTES and max(sizes) == both


def test_what_loopback_carries_counts_no_more_once_the_peer_has_moved():
    made = opened(limits=Limits(datagram=16_000, datagrams=4096))
    server = made.server.transport
    made.client.address = "elsewhere"
    made.client.transport.put([bytes(500_000)])
    made.client.pump()
    assert made.world.run(60.0, lambda: made.server.count == 500_000 and server.counters.moves == 1)
    made.world.run(made.world.now + 1.0)
    for transport in (server, made.client.transport):
        transport.put([bytes(100_000)])
        assert {segment for _, segment, _ in transport.datagrams(made.world.now)} == {packets.DATAGRAM_BYTES}


def test_an_init_is_as_long_as_the_rule_says():
    world = World(1)
    client = Transport(True, world.now, 5, world.random)
    [(data, _, _)] = client.datagrams(world.now)
    assert len(data) == INIT_BYTES


def test_a_process_that_did_not_run_for_an_hour_hears_its_peer_before_it_gives_up():
    client, server, now = pair()
    later = now + 3600.0
    client.datagrams(later)
    assert client.state == OPEN
    server.put([b"still here"])
    for train, segment, _ in server.datagrams(now + 1):
        client.receive(train, later + 1, None, segment)
    client.datagrams(later + 30)
    assert client.state == OPEN and bytes(client.read()) == b"still here"


def zeros(total):
    """A source of so many, and then of the end."""
    left = [total]

    def source(room):
        size = min(room, left[0])
        left[0] -= size
        return bytes(size) if size else None

    return source


@pytest.mark.parametrize("often", [True, False], ids=["small messages", "nothing"])
@pytest.mark.parametrize(
    ("rtt", "rest"), [(0.02, 3.0), (0.02, 25.0), (0.1, 25.0), (0.3, 21.4), (0.3, 24.1), (0.3, 28.2)]
)
def test_a_burst_behind_a_while_of_little_is_about_as_fast_as_at_once(rtt, rest, often):
    """What is sent seldom says how fast its sender is, and not the path; nor does a look at the shortest round trip."""

    def took(rest):
        world = World()
        there, back = (Link(world, rate=6e6, delay=rtt / 2, jitter=0.001) for _ in range(2))
        flow = Flow(world, there, back, Limits())
        client = flow.client

        def say():
            client.transport.put([b"x" * 60])
            client.pump()

        flow.start()
        said = int(rest) if often else 0
        world.at(0.5, say)
        for second in range(said):
            world.at(2.0 + second, say)
        world.run(2.0 + rest)
        begun = world.now
        client.source = zeros(1_000_000)
        client.pump()
        wanted = 60 * (1 + said) + 1_000_000
        assert world.run(begun + 120, lambda: flow.server is not None and len(flow.server.got) >= wanted)
        return world.now - begun

    assert took(rest) < 2.5 * took(0.0) + 0.1


def test_what_was_booked_at_a_low_rate_is_not_waited_for_at_a_higher_one():
    world = World()
    there, back = (Link(world, rate=6e6, delay=0.01) for _ in range(2))
    flow = Flow(world, there, back, Limits())
    flow.client.transport.put([b"hello"])
    flow.start()
    world.run(2.0)
    flow.client.transport._outgoing.leave = world.now + 200.0
    flow.client.source = zeros(5_000)
    flow.client.pump()
    assert world.run(world.now + 5.0, lambda: len(flow.server.got) >= 5_005)


@pytest.mark.parametrize("slot", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_a_dial_makes_one_session_though_its_first_questions_get_two_answers(slot):
    """The second left before the first was answered, and met the next slot of the cookies."""
    world = World()
    world.now = 10.0 - 0.15 - slot
    there, back = Link(world, delay=0.15), Link(world, delay=0.15)
    flow, made = Flow(world, there, back), []
    make = flow._make

    def listen(data, address):  # as a broker does: each good cookie is a session, known by its token
        if data[0] != packets.INIT:
            return make_known(data, address)
        init = packets.parse_init(data)
        token = flow.cookies.check(address, init, world.now)
        if not token:
            answer = flow.cookies.retry(address, init, world.now)
            back.send(answer, lambda data: flow.client.receive(data))
        elif token not in made:
            made.append(token)
            if flow.server is None:
                make(token, init.client, address)

    def make_known(data, address):
        if flow.server is not None:
            flow.server.receive(data, address)

    flow.client.arrive = listen
    flow.client.transport.put([b"hello"])
    flow.start()
    assert world.run(world.now + 8.0, lambda: flow.server is not None and flow.server.got == b"hello")
    world.run(world.now + 5.0)
    assert len(made) == 1


@pytest.mark.parametrize("stalled", [(58.0, 61.0), (30.0, 95.0), (55.0, 600.0)])
def test_a_process_that_stood_still_gives_its_silent_peer_a_moment_more_and_no_second_one(stalled):
    transport = Transport(False, 0.0, 5, World().random, peer=7, address="a", limits=Limits())
    transport.put([b"x" * 100])
    now = 0.0
    transport.datagrams(now)
    while transport.state != CLOSED and now < 3_600:
        now = max(now, transport.next_time()) + 0.001  # as timers are
        if stalled[0] <= now < stalled[1]:
            now = stalled[1]
        transport.datagrams(now)
    assert now < stalled[1] + 10


def test_a_peer_that_speaks_and_acknowledges_nothing_is_kept_in_mind_up_to_a_bound():
    limits = Limits(datagram=15_900, elsewhere=1_200)
    transport = Transport(False, 0.0, 5, World().random, peer=7, address="a", limits=limits)
    loose, now = transport.loosen(), 0.0
    window = packets.pack_window(1 << 40, 0xFFFFFFFF, 15_900)
    transport.receive(packets.pack_data(0, 5, [window]), now, "a")
    for number in range(12_000):
        now += 0.001
        if number % 1_000 == 0:
            transport.receive(packets.pack_data(1 + number, 5, [packets.PING_ITEM]), now, "a")
        if not loose.full:
            loose.put([b"m" * 1_000], 0, 1)
        transport.datagrams(now)
    assert transport.state == OPEN
    assert transport._outgoing.recovery.flying <= MOST_FLYING


@pytest.mark.parametrize("dark", [1.0, 2.0, 5.0])
def test_what_is_to_be_sent_behind_a_blackout_is_sent_though_both_have_ended(dark):
    world = World()
    there, back = (Link(world, rate=2e5, delay=0.001, queue=15_000) for _ in range(2))
    flow = Flow(world, there, back)
    flow.client.source = zeros(5)
    flow.on_server = lambda end: setattr(end, "source", zeros(250_000))
    flow.start()

    def shade(on):
        there.dark = back.dark = on

    world.at(0.5, lambda: shade(True))
    world.at(0.5 + dark, lambda: shade(False))
    world.run(30.0)
    assert len(flow.client.got) == 250_000
    assert flow.server.transport.error is None
