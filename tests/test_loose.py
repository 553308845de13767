"""``?reliable=0``: what is sent once comes once, in order, or is counted as lost, the same at both ends."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lossy import Proxy
from peers import PATIENCE, until
from programs import VANILLA

from vanilla import ConnectionLost, Rejected, Timeout
from vanilla.broker.beside import Beside
from vanilla.client.table import table
from vanilla.protocol.frames import CREDIT, DATA, MAX_SEQ, SENT, Keeper, pack_control, pack_head
from vanilla.protocol.packets import DATAGRAM_BYTES
from vanilla.protocol.ranges import check_ranges, pairs

LOSSY = [0.05, 0.3]


@pytest.fixture(autouse=True)
def short_datagrams(monkeypatch):
    """As on any path: of the long ones of loopback so few are lost that it may be none."""
    monkeypatch.setattr("vanilla.udppath.LOOPBACK_BYTES", DATAGRAM_BYTES)


@pytest.fixture
def broker(h):
    with h.broker.listen("udp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture
def proxy(h, broker):
    """A way that loses nothing, unless told."""
    proxy = Proxy(h, broker.urls[0], lost=0, doubled=0, late=0)
    yield proxy
    proxy.close()


@pytest.fixture
def other(h, broker):
    """A connection that loses nothing."""
    with h.client.connect(broker.urls[0]) as other:
        yield other


@pytest.fixture
def remote(h, proxy):
    """One that may lose what is sent."""
    with loose(h, proxy) as remote:
        yield remote


def loose(h, proxy, **options):
    return h.client.connect(f"{proxy.url}?reliable=0", **options)


def spoil(proxy, share):
    """Lose this share from now on, and double and delay half as much."""
    proxy.shares = share, share / 2, share / 2


def session(broker):
    """The broker's side of the one session that may lose something."""
    (found,) = [session for session in broker.sessions if session.beside is not None]
    return found


def gather(h, recver):
    """A list to which all is added that *recver* gets."""
    got = []

    def run():
        try:
            for item in recver:
                got.append(item)
        except ConnectionLost:
            pass

    h.spawn(run)
    return got


def is_subsequence(got, sent):
    left = iter(sent)
    return all(item in left for item in got)


def check(h, broker, jobs, got, sent):
    """All of *sent* has come, in order and once, or is lost; both ends agree on how many, and on what is left."""
    jobs.sync(PATIENCE)
    endpoint = broker.endpoints["jobs"]
    until(h, lambda: len(got) + jobs.lost >= len(sent))
    assert len(got) + jobs.lost == len(sent) and is_subsequence(got, sent)
    assert jobs.unconfirmed == 0
    assert (endpoint.accepted, endpoint.lost, endpoint.balance) == (len(got), jobs.lost, 0)
    assert session(broker).beside.lost == jobs.lost
    (pusher,) = endpoint.pushers
    ours = jobs._state.quota
    assert (pusher.quota.n, pusher.quota.b) == (ours.n, ours.b)
    assert pusher.quota.limit_n >= ours.limit_n and pusher.quota.limit_b >= ours.limit_b


# -- work queues


def test_where_nothing_is_lost_all_arrives(h, broker, remote, other):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    sent = [*range(5_000), *(bytes(n) for n in range(0, 4_000, 7)), "last"]
    jobs.send_many(sent)
    check(h, broker, jobs, got, sent)
    assert jobs.lost == 0


@pytest.mark.parametrize("share", LOSSY)
def test_what_is_sent_has_come_or_is_lost(h, broker, proxy, remote, other, share):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    spoil(proxy, share)
    for n in range(3_000):
        jobs.send((n, bytes(n % 300)))
    check(h, broker, jobs, got, [[n, bytes(n % 300)] for n in range(3_000)])
    assert 0 < jobs.lost < 3_000


def test_credit_does_not_leak_and_no_sender_hangs(h, broker, proxy, remote, other):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    spoil(proxy, 0.2)
    jobs.send_many(range(100_000), PATIENCE * 6)
    check(h, broker, jobs, got, range(100_000))
    assert jobs.lost > 5_000


@pytest.mark.parametrize("overflow", ["block", "drop-oldest"])
def test_a_small_queue_of_small_and_large_messages_goes_on(h, broker, proxy, remote, other, overflow):
    other.declare("jobs", capacity=20, capacity_bytes=20_000, overflow=overflow)
    jobs = remote.push("jobs")
    items = other.pull("jobs")
    spoil(proxy, 0.1)
    sent = [bytes([n % 256]) * (1 + n * 7919 % 9_000 if n % 3 else 10) for n in range(400)]
    got = gather(h, items)
    jobs.send_many(sent, PATIENCE * 6)
    jobs.sync(PATIENCE)
    endpoint = broker.endpoints["jobs"]
    until(h, lambda: len(got) == endpoint.accepted - endpoint.dropped)
    assert endpoint.accepted + endpoint.lost == 400 and endpoint.lost == jobs.lost > 0
    assert endpoint.balance == 0 and is_subsequence(got, sent)


def test_a_full_queue_that_rejects_says_so(h, proxy, remote, other):
    jobs = remote.push("jobs", capacity=10, overflow="reject")
    spoil(proxy, 0.1)
    with pytest.raises(Rejected, match="FULL"):
        for n in range(100):
            jobs.send(n, PATIENCE)
    jobs.sync(PATIENCE)


def test_options_go_along(h, broker, proxy, remote, other):
    jobs, items = remote.push("jobs"), other.pull("jobs", ack=True)
    spoil(proxy, 0.1)
    for n in range(500):
        jobs.send((n, bytes(200)), headers={"n": n})
    jobs.sync(PATIENCE)
    assert 0 < jobs.lost < 500
    last = -1
    for _ in range(500 - jobs.lost):
        with items.recv(PATIENCE) as delivery:
            assert delivery.headers == {"n": delivery.item[0]} and delivery.item[0] > last
            last = delivery.item[0]


def test_a_large_message_comes_in_parts_or_not_at_all(h, broker, proxy, remote, other):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    jobs.send(b"x" * 1_000_000)
    jobs.sync(PATIENCE)
    assert jobs.lost == 0
    spoil(proxy, 0.05)
    sent = [bytes([n]) * 8_000 for n in range(60)]
    jobs.send_many(sent)
    check(h, broker, jobs, got, [b"x" * 1_000_000, *sent])
    assert 5 < jobs.lost < 55


def test_a_message_that_is_larger_than_what_can_be_put_together_is_refused(h):
    with h.broker.listen("udp://127.0.0.1:0", frame_bytes=4 << 20) as broker:
        url = broker.urls[0]
        with h.client.connect(f"{url}?reliable=0") as remote, h.client.connect(url) as other:
            body = bytes(2 << 20)
            with pytest.raises(Rejected, match="too big to be lost"):
                remote.push("jobs").send(body)
            news = remote.broadcast("news").subscribe()
            until(h, lambda: "news" in broker.endpoints)
            other.broadcast("news").send(body)
            other.broadcast("news").send("small")
            assert news.recv(PATIENCE) == "small" and news.missed == 1


def test_what_is_lost_behind_all_that_came_is_known_once_the_way_is_open_again(h, broker, proxy, remote, other):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    jobs.send("first")
    jobs.sync(PATIENCE)
    proxy.cut = True
    jobs.send_many(range(10))
    with pytest.raises(Timeout):
        jobs.sync(100)
    assert jobs.lost == 0 and jobs.unconfirmed == 10
    proxy.cut = False
    jobs.sync(PATIENCE)
    assert jobs.lost == 10 and jobs.unconfirmed == 0
    jobs.send("last")
    check(h, broker, jobs, got, ["first", *range(10), "last"])


def test_the_end_of_a_sender_leaves_nothing_uncounted(h, broker, proxy, other):
    got = gather(h, other.pull("jobs"))
    spoil(proxy, 0.2)
    with loose(h, proxy) as remote, remote.push("jobs") as jobs:
        jobs.send_many(range(2_000))
    endpoint = broker.endpoints["jobs"]
    until(h, lambda: len(got) + endpoint.lost >= 2_000)
    assert len(got) + endpoint.lost == 2_000 and endpoint.lost > 0
    assert jobs.lost == endpoint.lost


def test_nothing_is_left_of_a_sender_that_has_ended(h, broker, remote):
    for n in range(3):
        with remote.push("jobs") as jobs:
            jobs.send(n)
    publisher = remote.broadcast("news")
    publisher.send("first")
    publisher.close()
    ours, theirs = remote._link.beside, session(broker).beside
    assert not ours._senders and not remote._link.channels
    until(h, lambda: not session(broker).channels)
    assert not theirs._missing and not theirs._subscribers


def test_what_was_on_its_way_when_the_connection_was_lost_is_lost_and_all_goes_on(h, broker, proxy, other):
    got = gather(h, other.pull("jobs"))
    with loose(h, proxy, backoff=(10, 50)) as remote:
        jobs = remote.push("jobs")
        jobs.send("first")
        jobs.sync(PATIENCE)
        proxy.cut = True
        jobs.send_many(range(5))
        jobs.flush()
        session(broker).drop("")
        until(h, lambda: not broker.sessions - {s for s in broker.sessions if s.beside is None})
        proxy.cut = False
        until(h, lambda: remote._link.down)
        jobs.send_many([bytes(700)] * 3 + ["last"])  # some of it while there is no connection
        jobs.sync(PATIENCE)
        assert jobs.lost == 5
        until(h, lambda: len(got) == 5)
        assert got == ["first", *[bytes(700)] * 3, "last"]


def test_senders_of_two_queues_count_each_their_own(h, broker, proxy, remote, other):
    pushes = {name: remote.push(name) for name in "abc"}
    spoil(proxy, 0.2)
    for n in range(600):
        for jobs in pushes.values():
            jobs.send((n, bytes(200)))
    for name, jobs in pushes.items():
        jobs.sync(PATIENCE)
        endpoint = broker.endpoints[name]
        assert endpoint.accepted + endpoint.lost == 600 and endpoint.lost == jobs.lost > 0


def test_a_slow_way_has_send_wait_and_loses_nothing(h, broker, proxy, remote, other):
    jobs, got = remote.push("jobs"), gather(h, other.pull("jobs"))
    beside = remote._link.beside
    most = 0
    for _ in range(1_000):
        jobs.send(bytes(1_100))
        most = max(most, beside._frames.unsent)
    check(h, broker, jobs, got, [bytes(1_100)] * 1_000)
    assert most <= (256 << 10) + 4_800 and jobs.lost == 0


class Session:
    """What `Beside` needs of one to tell what has come."""

    def __init__(self):
        self.sent = []

    def put(self, frame):
        self.sent += Keeper(1 << 20, bytearray(frame)).received(len(frame))


class Producer:
    """What `Beside` needs of a channel."""

    def __init__(self):
        self.id = 1
        self.endpoint = SimpleNamespace(lost=0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1))
def test_of_each_number_a_client_is_told_whether_it_has_come(steps):
    made, pusher = Session(), Producer()
    beside = Beside(made, SimpleNamespace(transport=SimpleNamespace(loosen=lambda: None)))
    came, lost, at = set(), set(), 7
    for missing, taken in steps:
        if missing:
            beside.miss(pusher, at, missing)
        lost |= set(range(at, at + missing))
        came |= set(range(at + missing, at + missing + taken))
        at += missing + taken
    flat = beside.report(pusher, 7, at)
    check_ranges(flat)
    assert {n for first, count in pairs(flat) for n in range(first, first + count)} == came
    told = [msgpack.unpackb(frame.payload)[0] for frame in made.sent]
    assert {n for each in told for first, count in pairs(each["r"]) for n in range(first, first + count)} == lost
    assert all(each["code"] == "LOST" for each in told) and beside.lost == pusher.endpoint.lost == len(lost)
    assert beside.report(pusher, at, at + 3) == [at, 3]


# -- broadcasts


@pytest.mark.parametrize("share", LOSSY)
def test_a_broadcast_to_a_subscriber_has_come_or_is_missed(h, broker, proxy, remote, other, share):
    news, publisher = remote.broadcast("news").subscribe(), other.broadcast("news")
    until(h, lambda: "news" in broker.endpoints)
    publisher.send("first")
    assert news.recv(PATIENCE) == "first"
    got = gather(h, news)
    spoil(proxy, share)
    for n in range(3_000):
        publisher.send((n, bytes(n % 300)))
    until(h, lambda: len(got) + news.missed >= 3_000 and not session(broker).beside.frames.pending)
    assert len(got) + news.missed == 3_000 and is_subsequence(got, [[n, bytes(n % 300)] for n in range(3_000)])
    endpoint, tally = broker.endpoints["news"], session(broker).beside.frames.tally
    assert endpoint.balance == 0
    assert tally.sent_messages == tally.acknowledged_messages + tally.lost_messages == 3_001 - endpoint.missed
    assert tally.lost_messages > 0


def test_what_is_lost_behind_all_that_a_subscriber_got_is_told(h, broker, proxy, remote, other):
    news, publisher = remote.broadcast("news").subscribe(), other.broadcast("news")
    until(h, lambda: "news" in broker.endpoints)
    publisher.send("first")
    assert news.recv(PATIENCE) == "first"
    proxy.cut = True
    publisher.send_many(range(20))
    publisher.sync()
    proxy.cut = False
    until(h, lambda: news.missed == 20)
    publisher.send("last")
    assert news.recv(PATIENCE) == "last" and news.missed == 20


def test_a_subscriber_with_little_room_gets_credit_for_what_it_has_missed(h, broker, proxy, remote, other):
    news, publisher = remote.broadcast("news").subscribe(size=50, window=5_000), other.broadcast("news")
    until(h, lambda: "news" in broker.endpoints)
    publisher.send("first")
    assert news.recv(PATIENCE) == "first"
    got = gather(h, news)
    spoil(proxy, 0.2)
    tally, sent = session(broker).beside.frames.tally, 0

    def enough():  # more than a window has come, and some is lost: of credit too, which comes again, but later
        nonlocal sent
        for _ in range(40):
            publisher.send((sent, bytes(50)))
            sent += 1
        publisher.sync()
        return len(got) > 100 and tally.lost_messages > 50

    until(h, enough)
    spoil(proxy, 0)
    last = 0

    def over():  # whether it still gets what is published
        nonlocal last
        last += 1
        publisher.send(("after", last))
        return got[-1][0] == "after"

    until(h, over)
    publisher.sync()
    until(h, lambda: len(got) + news.missed == sent + last)
    assert is_subsequence([item[0] for item in got if item[0] != "after"], range(sent))
    assert broker.endpoints["news"].missed < news.missed


def test_what_is_published_has_come_or_is_lost(h, broker, proxy, remote, other):
    publisher, news = remote.broadcast("news"), other.broadcast("news").subscribe()
    until(h, lambda: "news" in broker.endpoints)
    spoil(proxy, 0.2)
    for n in range(2_000):
        publisher.send((n, bytes(100)))
    publisher.sync(PATIENCE)
    lost = publisher.sender.lost
    got = [news.recv(PATIENCE)[0] for _ in range(2_000 - lost - news.missed)]
    assert 0 < lost < 2_000 and news.missed == 0 and is_subsequence(got, range(2_000))
    endpoint = broker.endpoints["news"]
    assert (endpoint.accepted, endpoint.lost) == (len(got), lost)


# -- what stays as it was


def test_everything_else_is_reliable(h, broker, proxy, remote, other):
    spoil(proxy, 0.2)
    server = remote.router("sums")
    h.spawn(lambda: [request.reply(sum(request.item)) for request in server])
    until(h, lambda: "sums" in broker.endpoints)
    sums = other.dealer("sums")
    assert [call.recv(PATIENCE) for call in [sums.call([n, 1]) for n in range(300)]] == list(range(1, 301))
    sums = remote.dealer("sums")
    assert [sums.call([n, 2]).recv(PATIENCE) for n in range(50)] == list(range(2, 52))
    state = remote.state("s")
    state.send(5)
    assert other.state("s").recv(PATIENCE) == 5
    _, ours = other.queue("q", 100)
    h.spawn(remote.queue("q", 100).sender.send_many, range(1_000))
    assert [ours.recv(PATIENCE) for _ in range(1_000)] == list(range(1_000))
    other.push("jobs").send_many(range(1_000))
    jobs = remote.pull("jobs")
    assert [jobs.recv(PATIENCE) for _ in range(1_000)] == list(range(1_000))


def test_a_reliable_session_loses_nothing_and_says_so(h, broker, proxy, other):
    with h.client.connect(f"{proxy.url}?reliable=1") as remote:
        jobs, items = remote.push("jobs"), other.pull("jobs")
        spoil(proxy, 0.2)
        jobs.send_many(range(2_000))
        assert [items.recv(PATIENCE) for _ in range(2_000)] == list(range(2_000))
        assert jobs.lost == 0


# -- who breaks the rules


def beside(remote, *frames):
    """Send these, each a frame and its position, beside the stream."""
    link = remote._link
    for frame, position in frames:
        link.beside._frames.put([frame], position, 1)
    link.flush()


def message(seq, item=1, channel=1):
    body = msgpack.packb(item)
    return pack_head(DATA, channel, seq, 1, len(body)) + body


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        ("BAD_STATE", [(pack_control(CREDIT, 1, 0, {"n": 1, "b": 1}), 0)]),
        ("BAD_FRAME", [(b"\xc6", 0)]),
        ("BAD_FRAME", [(message(0) + b"x", 0)]),
        ("BAD_MESSAGE", [(pack_head(DATA, 1, 0, 1, 1) + b"\xc1", 0)]),
        ("BAD_SEQUENCE", [(message(0), 1)]),
        ("BAD_SEQUENCE", [(message(0), 0), (message(2), 0)]),
        ("BAD_SEQUENCE", [(message(1 << 63), 0)]),
        ("OVER_CREDIT", [(message(1 << 40), 1 << 10)]),
        ("OVER_CREDIT", [(message(1), 1 << 40)]),
        ("TOO_BIG", [(pack_head(DATA, 1, 0, 1, 5_000) + bytes(5_000), 0)]),
    ],
)
def test_who_breaks_the_rules_beside_the_stream_is_ended_and_nobody_else(h, code, frames):
    with h.broker.listen("udp://127.0.0.1:0", frame_bytes=4_096) as broker:
        url = broker.urls[0]
        with h.client.connect(f"{url}?reliable=0", reconnect=False) as remote, h.client.connect(url) as other:
            jobs = remote.push("jobs")
            until(h, lambda: jobs._state.quota.limit_n)
            beside(remote, *frames)
            with pytest.raises(ConnectionLost, match=code):
                while True:
                    remote.ping(PATIENCE)
                    h.sleep(1)
            other.push("others").send("fine")
            assert other.pull("others").recv(PATIENCE) == "fine"


def test_who_says_that_more_is_lost_than_can_be_counted_does_not_keep_others_from_a_status(h, broker, remote, other):
    publishers = [remote.broadcast("news") for _ in range(3)]  # they need no credit
    for publisher in publishers:
        state = publisher.sender._state
        state.quota.n = MAX_SEQ
        remote._link.put(pack_control(SENT, state.id, MAX_SEQ, {"b": MAX_SEQ}))
    until(h, lambda: "news" in broker.endpoints and broker.endpoints["news"].lost)
    status = other.status(timeout=PATIENCE)
    (ours,) = [each for each in status["broker"]["udp"] if not each["reliable"]]
    assert ours["loose"]["missing"] == status["endpoints"][0]["lost"] == MAX_SEQ


def test_frames_for_channels_that_are_not_there_and_what_was_overtaken_are_passed_over(h, broker, remote, other):
    jobs, items = remote.push("jobs"), other.pull("jobs")
    until(h, lambda: jobs._state.quota.limit_n)
    one = (message(0), 0)
    jobs._state.quota.n = 5
    beside(remote, (message(0, channel=9), 0), (message(3, "d"), 3), one, (message(1), 1), (message(4, "e"), 5))
    assert [items.recv(PATIENCE), items.recv(PATIENCE)] == ["d", "e"]
    remote.ping()
    assert (broker.endpoints["jobs"].accepted, broker.endpoints["jobs"].lost) == (2, 3)


# -- addresses, status, the command


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1?reliable=0", "udp://127.0.0.1:1?reliable=2", "udp://127.0.0.1:1?x"])
def test_other_queries_are_refused(h, url):
    with pytest.raises(ValueError, match="no query"):
        h.client.connect(url)


def test_who_dials_chooses_for_all_addresses(h, broker):
    with pytest.raises(ValueError, match="who dials"):
        h.broker.listen("udp://127.0.0.1:0?reliable=0")
    with pytest.raises(ValueError, match="or none"):
        h.client.connect("udp://127.0.0.1:1", "udp://127.0.0.1:2?reliable=0")


def test_a_status_tells_what_was_lost(h, broker, proxy, remote, other):
    jobs = remote.push("jobs")
    spoil(proxy, 0.2)
    jobs.send_many([bytes(500)] * 300)
    jobs.sync(PATIENCE)
    said = other.status()
    (endpoint,) = said["endpoints"]
    assert endpoint["lost"] == jobs.lost > 0
    found = {udp["reliable"]: udp["loose"] for udp in said["broker"]["udp"]}
    assert found == {True: {}, False: {"missing": jobs.lost, "sent": 0, "acknowledged": 0, "lost": 0}}
    text = table(said, broker.urls[0])
    assert f"reliable=0: lost {jobs.lost} messages from there" in text
    assert f"lost on the way to jobs: {jobs.lost} messages" in text


@contextmanager
def process(h, *args, **popen):
    with subprocess.Popen([*VANILLA, *args], stderr=subprocess.PIPE, **popen) as running:
        try:
            until(h, lambda: running.poll() is not None)
            yield running
        finally:
            running.kill()


def test_vanilla_push_says_at_its_end_how_many_were_lost(h, broker, proxy, other, tmp_path):
    lines = tmp_path / "lines"
    lines.write_text("".join(f'[{n}, "{"x" * 500}"]\n' for n in range(500)))
    items = gather(h, other.pull("jobs"))
    url = f"{proxy.url}?reliable=0"
    with lines.open() as stdin, process(h, "push", "jobs", "--url", url, stdin=stdin) as running:
        assert (running.returncode, running.stderr.read()) == (0, b"")
    until(h, lambda: len(items) == 500)
    proxy.random.seed(3)
    spoil(proxy, 0.2)
    with lines.open() as stdin, process(h, "push", "jobs", "--url", url, stdin=stdin) as running:
        lost = broker.endpoints["jobs"].lost
        assert running.stderr.read().decode() == f"vanilla push: {lost} of 500 messages sent are lost\n"
        assert running.returncode == 0 and 0 < lost < 500
