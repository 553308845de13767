"""A connection that is lost, and what of it there is on the next one: nothing lost, and nothing twice in silence."""

from __future__ import annotations

import socket

import pytest
from peers import PATIENCE, Peer, until

import vanilla
from vanilla.broker.conduit import ConduitPusher
from vanilla.broker.pusher import Pusher
from vanilla.broker.tokens import line_of
from vanilla.client.link import OUTPUT_BYTES
from vanilla.client.pull import PullState
from vanilla.client.redial import Backoff
from vanilla.deadline import Deadline
from vanilla.exception import Refused
from vanilla.protocol.frames import DATA, DATA_OPTIONS, PING

#: Not at once, so that there is a while without a connection; and not long.
BACKOFF = (5, 20)


class Site:
    """A broker that can be ended and begun again at the same address."""

    def __init__(self, h):
        self.h = h
        self.options = {"backoff_ms": 10}
        self.broker = h.broker.listen("tcp://127.0.0.1:0", **self.options)
        self.url = self.broker.urls[0]
        self.remotes = []

    def watch(self, remote):
        """Note each loss of *remote*: it may be connected again before anybody looks."""
        link, notify = remote._link, remote._link.notify
        link.losses = link.seen = 0

        def noted(kind, text):
            link.losses += kind == "lost"
            notify(kind, text)

        link.notify = noted
        self.remotes.append(remote)
        return remote

    def mark(self):
        """What is lost from here on is news."""
        for remote in self.remotes:
            remote._link.seen = remote._link.losses

    def end(self):
        self.mark()
        self.broker.close()

    def begin(self, **options):
        """A new process, so to speak: it knows nothing."""
        self.broker = self.h.broker.listen(self.url, **self.options, **options)

    def cut(self):
        """Every connection is lost; the broker goes on."""
        self.mark()
        for session in list(self.broker.sessions):
            session.drop("test")

    def deaf(self):
        """Nobody can connect, and all connections are lost; the broker goes on."""
        self.broker._stop_listening()
        self.cut()

    def hear(self):
        self.broker.listen(self.url)

    def silence(self):
        """The broker reads, and says and does nothing more."""
        self.broker._unhook()

    def speak(self):
        self.broker._unhook = self.h.at_every_edge(self.broker._edge)

    @property
    def at_rest(self):
        """Is there nothing to deliver, or on its way?"""
        return all(endpoint.empty for endpoint in self.broker.endpoints.values())

    def accounts(self, name="jobs"):
        endpoint = self.broker.endpoints[name]
        assert endpoint.balance == 0
        return endpoint


@pytest.fixture
def site(h):
    site = Site(h)
    yield site
    site.end()


@pytest.fixture
def connect(h, site):
    """Makes connections to the test's own broker, which are closed at the end."""
    remotes = []

    def connect(**options):
        remotes.append(h.client.connect(site.url, **{"backoff": BACKOFF, "linger": 1_000, **options}))
        return site.watch(remotes[-1])

    yield connect
    for remote in remotes:
        remote.close(0)


@pytest.fixture
def remote(connect):
    return connect()


@pytest.fixture
def other(connect):
    return connect()


def wait(h, remote, what):
    """Until the link is *what*; or for "lost", was so since the broker ended connections."""
    link = remote._link
    if what != "lost" or not hasattr(link, "seen"):
        until(h, lambda: remote.link.recv() == what)
        return
    until(h, lambda: link.losses > link.seen or link.down)
    link.seen = link.losses


def events(remote):
    found = []
    while remote._events.buffer:
        found.append(remote.events.recv())
    return found


def taken(recver, count):
    return [recver.recv(timeout=PATIENCE) for _ in range(count)]


# -- the link


def test_link_and_events_tell_of_a_loss_and_of_the_next_connection(h, site, remote):
    states = []
    site.deaf()
    wait(h, remote, "lost")
    site.hear()
    wait(h, remote, "connected")
    told = events(remote)
    states = [event.kind for event in told if event.kind != "reconnecting"]
    assert states == ["connected", "lost", "connected"]
    (pause, *_) = [event.text for event in told if event.kind == "reconnecting"]
    assert site.url in pause and pause.endswith(" ms")
    assert "in " in pause
    assert remote.ping(timeout=PATIENCE) > 0


@pytest.mark.parametrize("kind", ["unix", "tls"])
def test_over_any_transport_all_goes_on_with_the_next_connection(h, kind, tmp_path, certs):
    url, files, options = f"unix://{tmp_path}/broker.sock", {}, {}
    if kind == "tls":
        url, files, options = "tls://127.0.0.1:0", {"ca": certs.ca}, {"tls_cert": certs.server}
    broker = h.broker.listen(url, **options)
    with h.client.connect(broker.urls[0], backoff=BACKOFF, linger=1_000, **files) as remote:
        jobs, back = remote.push("jobs"), remote.pull("jobs")
        jobs.send(1)
        assert back.recv(timeout=PATIENCE) == 1
        url = broker.urls[0]
        broker.close()
        until(h, lambda: remote._link.down)
        jobs.send(2)
        with h.broker.listen(url, **options):
            assert back.recv(timeout=PATIENCE) == 2
            jobs.sync(timeout=PATIENCE)
            remote.close()


def test_of_a_frame_that_was_confirmed_in_part_the_rest_arrives(h, site, remote):
    jobs = remote.push("jobs")
    jobs.send(0)
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send_many(["a", "b", "c"])
    jobs.flush()
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 4)
    jobs._state._confirm(2)
    site.cut()
    site.speak()
    jobs.send("d")
    jobs.sync(timeout=PATIENCE)
    assert taken(remote.pull("jobs"), 5) == [0, "a", "b", "c", "d"]
    assert site.accounts().accepted == 5


def test_a_question_waits_for_a_connection_or_its_timeout(h, site, remote):
    site.deaf()
    wait(h, remote, "lost")
    with pytest.raises(vanilla.Timeout, match="there is no connection"):
        remote.ping(timeout=20)
    asked = h.spawn(remote.status, timeout=PATIENCE)
    h.sleep(10)
    assert not asked.done
    site.hear()
    assert asked.join(timeout=PATIENCE)["broker"]["connections"] == 1


def test_a_question_that_was_asked_fails(h, site, remote):
    site.silence()
    asked = h.spawn(remote.status)
    h.sleep(10)
    site.cut()
    site.speak()
    with pytest.raises(vanilla.ConnectionLost):
        asked.join(timeout=PATIENCE)


def test_to_close_while_there_is_no_connection_ends_all(h, site, remote):
    back = remote.pull("jobs")
    waiting = h.spawn(back.recv)
    site.deaf()
    wait(h, remote, "lost")
    remote.close()
    with pytest.raises(vanilla.Closed):
        waiting.join(timeout=PATIENCE)
    assert remote.link.recv() == "closed"
    site.hear()
    h.sleep(30)
    assert not site.broker.sessions
    with pytest.raises(vanilla.Closed):
        remote.push("x")


def test_without_reconnect_what_is_lost_stays_lost(h, site, connect):
    remote = connect(reconnect=False)
    site.cut()
    wait(h, remote, "lost")
    with pytest.raises(vanilla.ConnectionLost):
        remote.push("x")


def test_who_is_denied_does_not_come_again(h, tmp_path):
    def admit(who):
        (tmp_path / "tokens").write_text(line_of(who, f"the secret token of {who}") + "\n")

    (tmp_path / "tokens").touch(mode=0o600)
    admit("me")
    with h.broker.listen("tcp://127.0.0.1:0", token_file=str(tmp_path / "tokens")) as broker:
        remote = h.client.connect(broker.urls[0], token="the secret token of me", backoff=BACKOFF)
        back = h.spawn(remote.pull("jobs").recv)
        h.sleep(5)
        admit("you")
        broker.reload()
        for session in list(broker.sessions):
            session.drop("test")
        with pytest.raises(vanilla.ConnectionLost, match="DENIED"):
            back.join(timeout=PATIENCE)
        assert remote.link.recv() == "lost"
        with pytest.raises(vanilla.ConnectionLost, match="DENIED"):
            remote.push("jobs")


def test_who_is_replaced_does_not_come_again(h, site, remote):
    """Or the two would end each other for ever."""
    peer = Peer(h, site.url, id=remote._link.id)
    wait(h, remote, "lost")
    with pytest.raises(vanilla.ConnectionLost, match="REPLACED"):
        remote.ping()
    peer.close()


def test_a_certificate_that_is_not_accepted_ends_it(h, certs):
    broker = h.broker.listen("tls://127.0.0.1:0", tls_cert=certs.server)
    remote = h.client.connect(broker.urls[0], ca=certs.ca, backoff=BACKOFF)
    (url,) = broker.urls
    broker.close()
    with h.broker.listen(url, tls_cert=certs.stranger):
        with pytest.raises(vanilla.ConnectionLost, match="not accepted"):
            remote.pull("jobs").recv(timeout=PATIENCE)


def test_what_is_no_broker_in_a_brokers_place_is_passed_over(h, site, remote):
    port = int(site.url.rpartition(":")[2])
    site.deaf()
    wait(h, remote, "lost")
    stranger = h.tcp.listen(port)
    stranger.recv(timeout=PATIENCE).send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    stranger.close()
    site.hear()
    wait(h, remote, "connected")


def test_urls_are_tried_in_turn_at_first_and_each_time(h, site):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        second = Site(h)
        remote = site.watch(h.client.connect(dead, site.url, second.url, backoff=BACKOFF))
        assert remote.url == site.url
        jobs = remote.push("jobs")
        jobs.send(1)
        jobs.sync(timeout=PATIENCE)
        site.end()
        wait(h, remote, "lost")
        jobs.send(2)
        jobs.sync(timeout=PATIENCE)
        assert remote.url == second.url
        assert second.accounts().accepted == 1
        site.begin()
        second.end()
        jobs.send(3)
        jobs.sync(timeout=PATIENCE)
        assert remote.url == site.url
        remote.close()


def test_nobody_at_any_url_is_connection_lost(h):
    with pytest.raises(vanilla.ConnectionLost, match=r"/two\.sock"):
        h.client.connect("unix:///none/one.sock", "unix:///none/two.sock")
    with pytest.raises(ValueError, match="URL is missing"):
        h.client.connect()


def test_one_url_that_does_not_answer_leaves_time_for_the_others(h, site):
    silent = h.tcp.listen()
    remote = h.client.connect(f"tcp://127.0.0.1:{silent.port}", site.url, timeout=400)
    assert remote.url == site.url
    remote.close()


@pytest.mark.parametrize("wrong", [(-1, 5), (10, 5)])
def test_a_back_off_that_is_none_is_refused(h, site, wrong):
    with pytest.raises(ValueError, match="back-off"):
        h.client.connect(site.url, backoff=wrong)


def test_pauses_double_up_to_the_longest_and_are_anything_below(monkeypatch):
    bounds = []
    monkeypatch.setattr("vanilla.client.redial.random.uniform", lambda low, high: bounds.append((low, high)) or high)
    backoff = Backoff(50, 10_000)
    pauses = [backoff.pause() for _ in range(1_100)]
    assert pauses[:9] == [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]
    assert set(pauses[9:]) == {10_000}
    assert {low for low, _ in bounds} == {0}


def test_pauses_begin_anew_only_after_a_connection_that_lasted(monkeypatch):
    now = 0.0
    monkeypatch.setattr("vanilla.client.redial.monotonic", lambda: now)
    monkeypatch.setattr("vanilla.client.redial.random.uniform", lambda low, high: high)
    backoff = Backoff(50, 10_000)
    assert [backoff.pause(), backoff.pause()] == [50, 100]
    backoff.connected()
    now += 9.9
    backoff.lost()
    assert backoff.pause() == 200
    backoff.connected()
    now += 10.1
    backoff.lost()
    assert backoff.pause() == 50


# -- pushing


def test_what_is_sent_without_a_connection_arrives_in_order(h, site, remote, other):
    jobs = remote.push("jobs")
    for i in range(3):
        jobs.send(i)
    site.deaf()
    wait(h, remote, "lost")
    for i in range(3, 2_000):
        jobs.send({"n": i} if i % 2 else b"%d" % i)
    jobs.send_many(range(2_000, 3_000))
    assert jobs.unconfirmed >= 2_997
    synced = h.spawn(jobs.sync)
    h.sleep(10)
    assert not synced.done
    site.hear()
    synced.join(timeout=PATIENCE)
    assert jobs.unconfirmed == 0
    assert site.accounts().accepted == 3_000
    items = taken(other.pull("jobs"), 3_000)
    assert items[:4] == [0, 1, 2, {"n": 3}]
    assert items[1_998:] == [b"1998", {"n": 1999}, *range(2_000, 3_000)]


def test_a_confirm_that_is_lost_brings_nothing_twice(h, site, remote, other, monkeypatch):
    jobs = remote.push("jobs")
    emit = Pusher.emit
    for i in range(5):
        jobs.send(f"{i} a")
        jobs.sync(timeout=PATIENCE)
        monkeypatch.setattr(Pusher, "emit", lambda pusher: pusher.session.drop("test"))
        jobs.send_many([f"{i} b", f"{i} c"])
        jobs.flush()
        wait(h, remote, "lost")
        monkeypatch.setattr(Pusher, "emit", emit)
        jobs.send(f"{i} d")
        jobs.sync(timeout=PATIENCE)
        wait(h, remote, "connected")
    assert site.accounts().accepted == 20
    got = taken(other.pull("jobs", ack=True), 20)
    assert [each.item for each in got] == [f"{i} {letter}" for i in range(5) for letter in "abcd"]
    assert not any(each.redelivered for each in got)


def test_what_is_known_to_have_come_does_not_leave_again(h, site, remote, monkeypatch):
    jobs = remote.push("jobs")
    jobs.send(b"x" * 50_000)
    jobs.sync(timeout=PATIENCE)
    emit = Pusher.emit
    monkeypatch.setattr(Pusher, "emit", lambda pusher: pusher.session.drop("test"))
    jobs.send(b"y" * 50_000)
    jobs.flush()
    wait(h, remote, "lost")
    monkeypatch.setattr(Pusher, "emit", emit)
    jobs.sync(timeout=PATIENCE)
    remote.ping(timeout=PATIENCE)
    (session,) = site.broker.sessions
    assert session.channels[1].quota.b == 0
    assert site.accounts().accepted == 2


def test_a_full_queue_does_not_keep_back_what_is_known_of_the_messages_in_it(h, site, connect, monkeypatch):
    site.end()
    site.begin(capacity=16)
    remote = connect()
    jobs = remote.push("jobs")
    emit = Pusher.emit
    for i in range(15):
        jobs.send(i)
    jobs.sync(timeout=PATIENCE)
    monkeypatch.setattr(Pusher, "emit", lambda pusher: pusher.session.drop("test"))
    jobs.send(15)
    jobs.flush()
    wait(h, remote, "lost")
    monkeypatch.setattr(Pusher, "emit", emit)
    jobs.sync(timeout=PATIENCE)
    assert site.accounts().ready_n == 16


def test_another_process_delivers_as_redelivered_what_may_have_been_delivered(h, site, remote, other):
    jobs = remote.push("jobs")
    jobs.send("confirmed")
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send("sent")
    jobs.flush()
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 2)
    site.end()
    wait(h, remote, "lost")
    jobs.send("new")
    site.begin()
    jobs.sync(timeout=PATIENCE)
    got = taken(other.pull("jobs", ack=True), 2)
    assert [(each.item, each.redelivered) for each in got] == [("sent", True), ("new", False)]
    assert got[0].attempts == 1


def test_what_was_marked_stays_marked_on_a_third_connection(h, site, remote, other, monkeypatch):
    jobs = remote.push("jobs")
    jobs.send("a")
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send("b")
    jobs.flush()
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 2)
    site.end()
    wait(h, remote, "lost")
    lost = []
    monkeypatch.setitem(Pusher.frames, DATA_OPTIONS, lambda pusher, event: lost.append(drop(pusher)))
    site.begin()
    until(h, lambda: lost)
    monkeypatch.setitem(Pusher.frames, DATA_OPTIONS, Pusher.data)
    jobs.sync(timeout=PATIENCE)
    (got,) = taken(other.pull("jobs", ack=True), 1)
    assert (got.item, got.redelivered) == ("b", True)


def test_options_of_messages_go_with_them_to_another_process(h, site, remote, other):
    jobs = remote.push("jobs")
    jobs.send("first")
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send("a", headers={"x": 1}, priority=3, id="1", key="k")
    jobs.send("b", headers={"x": 1}, priority=3)
    jobs.flush()
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 3)
    site.end()
    wait(h, remote, "lost")
    jobs.send("c", headers={"y": 2})
    site.begin()
    jobs.sync(timeout=PATIENCE)
    back = other.pull("jobs", ack=True)
    got = taken(back, 3)
    assert [(each.item, each.headers, each.id, each.key, each.redelivered) for each in got] == [
        ("a", {"x": 1}, "1", "k", True),
        ("b", {"x": 1}, None, None, True),
        ("c", {"y": 2}, None, None, False),
    ]


def drop(pusher):
    """The connection is lost as a frame comes."""
    pusher.session.drop("test")


@pytest.mark.parametrize("size", [10, 3_000, 100_000])
def test_what_was_sent_as_one_frame_is_cut_where_the_next_broker_takes_less(h, site, connect, size):
    remote, other = connect(), connect()
    jobs = remote.push("jobs")
    items = [bytes([i]) * size for i in range(60)]
    jobs.send(b"")
    jobs.sync(timeout=PATIENCE)
    h.sleep(5)
    site.silence()
    sent = h.spawn(jobs.send_many, items)
    h.sleep(20)
    site.end()
    wait(h, remote, "lost")
    site.begin(capacity=8, capacity_bytes=5_000, frame_bytes=110_000)
    back = other.pull("jobs")
    assert taken(back, 60) == items
    sent.join(timeout=PATIENCE)
    jobs.sync(timeout=PATIENCE)


def test_without_a_connection_a_mebibyte_is_taken_and_then_it_waits(h, site, remote):
    jobs, more = remote.push("jobs"), remote.push("more")
    site.deaf()
    wait(h, remote, "lost")
    count = 0
    with pytest.raises(vanilla.Timeout):
        while True:
            jobs.send(b"x" * 10_000, timeout=20)
            count += 1
    assert OUTPUT_BYTES <= count * 10_000 < OUTPUT_BYTES + 600_000
    with pytest.raises(vanilla.Timeout):
        more.send(b"x", timeout=0)
    waiting = h.spawn(jobs.send, "last")
    h.sleep(5)
    assert not waiting.done
    site.hear()
    waiting.join(timeout=PATIENCE)
    jobs.sync(timeout=PATIENCE)
    assert site.accounts().accepted == count + 1


def test_an_end_that_is_made_without_a_connection_opens_on_the_next(h, site, remote):
    site.deaf()
    wait(h, remote, "lost")
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    waiting = h.spawn(back.recv)
    jobs.send("job")
    site.hear()
    assert waiting.join(timeout=PATIENCE) == "job"


def test_messages_of_which_the_broker_knows_nothing_any_more_are_told_once(h, site, remote, other):
    jobs = remote.push("jobs")
    jobs.send("a")
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send_many(["b", "c"])
    jobs.flush()
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 3)
    site.deaf()
    site.speak()
    wait(h, remote, "lost")
    jobs.send("d")
    site.broker.producers._records.clear()
    site.hear()
    wait(h, remote, "connected")
    with pytest.raises(vanilla.exception.Rejected, match="2 messages") as raised:
        until(h, lambda: jobs.sync(timeout=PATIENCE))
    assert raised.value.code == "UNKNOWN_PRODUCER"
    jobs.send("e")
    jobs.sync(timeout=PATIENCE)
    assert jobs.unconfirmed == 0
    assert taken(other.pull("jobs"), 5) == ["a", "b", "c", "d", "e"]


def test_who_waits_for_confirms_that_nobody_can_give_is_told(h, site, remote):
    jobs = remote.push("jobs")
    jobs.send("a")
    jobs.sync(timeout=PATIENCE)
    site.silence()
    jobs.send("b")
    waiting = h.spawn(jobs.sync)
    until(h, lambda: site.broker.endpoints["jobs"].accepted == 2)
    site.deaf()
    site.speak()
    wait(h, remote, "lost")
    site.broker.producers._records.clear()
    site.hear()
    with pytest.raises(vanilla.exception.Rejected, match="UNKNOWN_PRODUCER"):
        waiting.join(timeout=PATIENCE)
    jobs.send("c")
    jobs.sync(timeout=PATIENCE)


def test_a_sender_that_is_closed_or_dropped_without_a_connection_still_delivers(h, site, remote):
    site.deaf()
    wait(h, remote, "lost")
    remote.push("dropped").send(1)
    jobs = remote.push("closed")
    jobs.send(2)
    closing = h.spawn(jobs.close)
    h.sleep(5)
    site.hear()
    closing.join(timeout=PATIENCE)
    until(h, lambda: site.broker.endpoints["closed"].ready_n == 1 == site.broker.endpoints["dropped"].ready_n)


# -- pulling


def test_who_iterates_goes_on_and_gets_all(h, site, remote, other):
    got = []

    def work():
        for item in remote.pull("jobs", ack=True):
            with item:
                got.append(item.item)

    task, jobs = h.spawn(work), other.push("jobs")
    for i in range(200):
        jobs.send(i)
        if i % 40 == 20:
            jobs.sync(timeout=PATIENCE)
            site.cut()
            wait(h, remote, "lost")
    until(h, lambda: len(set(got)) == 200)
    assert not task.done


def test_what_was_prefetched_comes_again_in_order_and_not_as_redelivered(h, site, remote, other):
    jobs = other.push("jobs")
    jobs.send_many(range(10))
    jobs.sync(timeout=PATIENCE)
    back = remote.pull("jobs", ack=True, prefetch=10)
    first = back.recv(timeout=PATIENCE)
    first.ack()
    until(h, lambda: site.accounts().acknowledged == 1 and site.accounts().flight_n == 9)
    site.cut()
    wait(h, remote, "lost")
    got = taken(back, 9)
    assert sorted(each.item for each in got) == list(range(1, 10))
    for each in got:
        each.ack()
    until(h, lambda: site.accounts().acknowledged == 10)


@pytest.mark.parametrize("settle", ["ack", "nack"])
def test_a_delivery_of_before_the_loss_is_settled_in_vain_and_that_is_told(h, site, remote, other, settle):
    jobs = other.push("jobs")
    jobs.send_many([1, 2])
    back = remote.pull("jobs", ack=True)
    old = taken(back, 2)
    site.cut()
    wait(h, remote, "lost")
    wait(h, remote, "connected")
    new = taken(back, 2)
    assert [(each.item, each.redelivered) for each in new] == [(1, True), (2, True)]
    events(remote)
    assert [each.expired for each in old] == [True, True]
    assert not any(each.expired for each in new)
    for each in old:
        getattr(each, settle)()
    assert all(each.expired and each.settled for each in old)
    h.sleep(5)
    assert remote.ping(timeout=PATIENCE) > 0
    assert site.accounts().flight_n == 2
    (event,) = events(remote)
    assert event.kind == "lease_expired"
    assert "'jobs'" in event.text and "2 deliveries" in event.text
    for each in new:
        each.ack()
    until(h, lambda: site.accounts().acknowledged == 2)


def test_acknowledgements_that_had_not_left_are_not_taken_for_those_of_new_deliveries(h, site, remote, other):
    jobs, back = other.push("jobs"), remote.pull("jobs", ack=True, prefetch=10)
    jobs.send_many(range(4))
    old = taken(back, 4)
    back._state.due = float("inf")
    for each in old[:2]:
        each.ack()
    remote._link.lost("test")
    back._state.due = 0.0
    old[2].ack()
    new = taken(back, 4)
    assert [each.item for each in new] == [0, 1, 2, 3]
    assert all(each.redelivered for each in new)
    for each in new:
        each.ack()
    until(h, lambda: site.accounts().acknowledged == 4)
    assert [event.kind for event in events(remote)].count("lease_expired") == 1


def test_what_is_handed_out_without_ack_is_not_delivered_again(h, site, remote, other):
    jobs, back = other.push("jobs"), remote.pull("jobs")
    for i in range(20):
        jobs.send(i)
        assert back.recv(timeout=PATIENCE) == i
        if i % 5 == 2:
            until(h, lambda: site.at_rest)
            site.cut()
            wait(h, remote, "lost")


def test_consume_goes_on(h, site, remote, other):
    got = []
    remote.pull("jobs").consume(got.append)
    jobs = other.push("jobs")
    for i in range(3):
        jobs.send(i)
        until(h, lambda i=i: got == list(range(i + 1)))
        until(h, lambda: site.at_rest)
        site.cut()
        wait(h, remote, "lost")


def test_what_comes_behind_the_loss_in_one_read_is_nobodys(h, site, remote, other, monkeypatch):
    first, second = remote.pull("a", prefetch=1), remote.pull("b", prefetch=1)
    for back in first, second:
        with pytest.raises(vanilla.Timeout):
            back.recv(timeout=0)
    remote.ping()
    found = []
    handle = PullState.frames[DATA]

    def lose(state, event):
        handle(state, event)
        if not found:
            found.append(state)
            state.link.lost("test")

    monkeypatch.setitem(PullState.frames, DATA, lose)
    for name in "a", "b":
        other.push(name).send(name)
    until(h, lambda: found)
    assert [first.recv(timeout=PATIENCE), second.recv(timeout=PATIENCE)] == ["a", "b"]
    for back in first, second:
        with pytest.raises(vanilla.Timeout):
            back.recv(timeout=50)


def test_who_only_polls_is_connected_again(h, site, remote, other):
    back, jobs = remote.pull("jobs"), remote.push("jobs")
    site.cut()
    wait(h, remote, "lost")
    sent = False
    deadline = Deadline(PATIENCE)
    while deadline.left():
        try:
            if not sent:
                jobs.send("job", timeout=0)
                sent = True
                jobs.flush()
            assert back.recv(timeout=0) == "job"
            break
        except vanilla.Timeout:
            pass
    assert remote.link.recv() == "connected"


def test_a_select_waits_on(h, site, remote, other):
    back = remote.pull("jobs")
    waiting = h.spawn(h.select, [back])
    site.deaf()
    wait(h, remote, "lost")
    site.hear()
    other.push("jobs").send("job")
    assert waiting.join(timeout=PATIENCE) == (back, "job")


# -- requests


def test_services_go_on(h, site, remote, other):
    class Calculator:
        def add(self, a, b):
            return a + b

    remote.serve("calc", Calculator())
    calc = other.wrap("calc", wait=True)
    for i in range(3):
        assert calc.add(i, 1).recv(timeout=PATIENCE) == i + 1
        site.cut()
        wait(h, remote, "lost")
        wait(h, other, "lost")


@pytest.fixture
def asked(h, site, remote, other):
    """A call that its server has, and does not answer yet."""
    server, sums = other.router("sums"), remote.dealer("sums")
    other.ping()

    def asked(item=1, **options):
        reply = sums.call(item, **options)
        return reply, server.recv(timeout=PATIENCE), sums, server

    return asked


def test_a_call_that_was_under_way_fails_and_the_next_one_works(h, site, remote, asked):
    reply, request, sums, server = asked()
    site.cut()
    with pytest.raises(vanilla.ConnectionLost):
        reply.recv(timeout=PATIENCE)
    until(h, lambda: request.cancelled)
    request.reply("late")
    again = h.spawn(lambda: sums.call(2, wait=True).recv())
    server.recv(timeout=PATIENCE).reply("ok")
    assert again.join(timeout=PATIENCE) == "ok"
    assert reply.halted


def test_a_call_that_may_be_done_twice_is(h, site, remote, asked):
    reply, request, _, server = asked(wait=True, idempotent=True)
    site.cut()
    until(h, lambda: request.cancelled)
    again = server.recv(timeout=PATIENCE)
    assert again.item == 1
    again.reply("ok")
    assert reply.recv(timeout=PATIENCE) == "ok"


def test_of_many_calls_that_may_be_done_twice_each_is_answered(h, site, remote, other):
    class Slow:
        def double(self, n):
            h.sleep(1)
            return 2 * n

    other.serve("slow", Slow(), concurrency=8)
    slow = remote.wrap("slow", wait=True, idempotent=True)
    replies = [slow.double(i) for i in range(300)]
    for _ in range(3):
        h.sleep(10)
        site.cut()
        wait(h, remote, "lost")
    assert [reply.recv(timeout=PATIENCE) for reply in replies] == [2 * i for i in range(300)]
    until(h, lambda: not remote.dealer("slow")._state.calls)


def test_a_call_whose_answer_has_begun_is_not_asked_again(h, site, remote, asked):
    reply, request, _, _ = asked(idempotent=True)
    stream = request.stream()
    h.spawn(stream.send, "one")
    assert reply.recv(timeout=PATIENCE) == "one"
    site.cut()
    with pytest.raises(vanilla.ConnectionLost):
        reply.recv(timeout=PATIENCE)


def test_a_call_that_was_given_up_is_not_asked_again(h, site, remote, asked):
    reply, request, sums, server = asked(idempotent=True, wait=True)
    site.deaf()
    wait(h, remote, "lost")
    reply.close()
    site.hear()
    other = h.spawn(lambda: sums.call(2, wait=True).recv())
    request = server.recv(timeout=PATIENCE)
    assert request.item == 2
    request.reply(3)
    assert other.join(timeout=PATIENCE) == 3


def test_a_call_without_a_connection_waits_for_one_or_its_deadline(h, site, remote, other):
    sums = remote.dealer("sums")
    other.serve("sums", Sums())
    remote.ping()
    site.deaf()
    wait(h, remote, "lost")
    with pytest.raises(vanilla.Timeout):
        sums.call(["add", [1, 2], {}], deadline=20)
    with pytest.raises(vanilla.Timeout):
        sums.call(["add", [1, 2], {}], timeout=0)
    waiting = h.spawn(lambda: sums.call(["add", [1, 2], {}], wait=True).recv())
    h.sleep(10)
    site.hear()
    assert waiting.join(timeout=PATIENCE) == 3


class Sums:
    def add(self, a, b):
        return a + b


def test_a_call_with_a_deadline_that_is_asked_again_ends_at_it(h, site, remote, asked):
    reply, *_ = asked(idempotent=True, deadline=100)
    site.deaf()
    wait(h, remote, "lost")
    with pytest.raises(vanilla.Timeout, match="deadline"):
        reply.recv(timeout=PATIENCE)
    site.hear()
    remote.ping(timeout=PATIENCE)


# -- states, broadcasts, pipes


def test_a_state_sets_again_what_is_not_confirmed(h, site, remote, other):
    mine, theirs = remote.state("x"), other.state("x")
    mine.send(1)
    mine.sync(timeout=PATIENCE)
    until(h, lambda: theirs.recv(timeout=PATIENCE) == 1)
    site.deaf()
    wait(h, remote, "lost")
    mine.send(2)
    mine.send(3)
    synced = h.spawn(mine.sync)
    h.sleep(5)
    assert not synced.done
    site.hear()
    synced.join(timeout=PATIENCE)
    until(h, lambda: theirs.recv(timeout=PATIENCE) == 3)
    assert mine.recv() == 3


def test_a_write_whose_confirm_was_lost_is_set_again(h, site, remote, other):
    mine, theirs = remote.state("x"), other.state("x")
    mine.send(1)
    mine.sync(timeout=PATIENCE)
    site.silence()
    mine.send(2)
    mine.sender._state.emit()
    remote._link.flush()
    until(h, lambda: site.broker.endpoints["x"].version == 2)
    waiting = h.spawn(mine.sync)
    h.sleep(5)
    site.end()
    wait(h, remote, "lost")
    site.begin()
    waiting.join(timeout=PATIENCE)
    until(h, lambda: theirs.recv(timeout=PATIENCE) == 2)


def test_a_state_is_what_the_broker_says_after_a_loss(h, site, remote, other):
    mine, theirs = remote.state("x"), other.state("x")
    mine.send(1)
    mine.sync(timeout=PATIENCE)
    assert theirs.recv(timeout=PATIENCE) == 1
    site.end()
    wait(h, remote, "lost")
    wait(h, other, "lost")
    assert theirs.recv() == 1
    site.begin()  # it is gone with its broker
    until(h, lambda: not is_set(mine) and not is_set(theirs))
    theirs.send(2)
    until(h, lambda: is_set(mine) and mine.recv() == 2)


def is_set(state):
    try:
        state.recv(timeout=0)
    except vanilla.Timeout:
        return False
    return True


def test_subscribers_subscribe_again_and_are_told(h, site, remote, other):
    inbox, news = remote.broadcast("news").subscribe(), other.broadcast("news")
    remote.ping()
    news.send(1)
    assert inbox.recv(timeout=PATIENCE) == 1
    site.cut()
    wait(h, remote, "lost")
    wait(h, remote, "connected")
    wait(h, other, "connected")
    news.send(2)
    assert inbox.recv(timeout=PATIENCE) == 2
    assert inbox.missed == 0
    (event,) = [event for event in events(remote) if event.kind == "missed"]
    assert "'news'" in event.text


def test_what_is_published_without_a_connection_is_published_later(h, site, remote, other):
    inbox, news = other.broadcast("news").subscribe(), remote.broadcast("news")
    news.send("before")
    assert inbox.recv(timeout=PATIENCE) == "before"
    news.sync(timeout=PATIENCE)
    site.deaf()
    wait(h, remote, "lost")
    wait(h, other, "lost")
    synced = h.spawn(news.sync) if news.send(1) is None else None
    site.hear()
    synced.join(timeout=PATIENCE)


@pytest.mark.parametrize("kind", ["broadcast", "queue"])
def test_what_was_sent_and_cannot_be_known_to_have_come_is_told_once(h, site, remote, kind):
    sender = remote.broadcast("x") if kind == "broadcast" else remote.queue("x", 10).sender
    sender.send(1)
    sender.sync(timeout=PATIENCE)
    site.silence()
    sender.send(2)
    waiting = h.spawn(sender.sync)
    until(h, lambda: site.broker.endpoints["x"].accepted == 2)
    site.cut()
    site.speak()
    with pytest.raises(vanilla.ConnectionLost, match="1 may not have arrived"):
        waiting.join(timeout=PATIENCE)
    sender.send(3)
    sender.sync(timeout=PATIENCE)
    site.silence()
    sender.send(4)
    sender.flush()
    until(h, lambda: site.broker.endpoints["x"].accepted in (2, 4))
    site.cut()
    site.speak()
    wait(h, remote, "lost")
    with pytest.raises(vanilla.ConnectionLost, match="1 may not have arrived"):
        sender.sync(timeout=PATIENCE)
    sender.sync(timeout=PATIENCE)


def test_a_queue_goes_on(h, site, remote, other):
    sender, recver = remote.queue("q", 10).sender, other.queue("q", 10).recver
    got = []
    h.spawn(lambda: [got.append(item) for item in recver])
    for i in range(4):
        sender.send(i)
        sender.sync(timeout=PATIENCE)
        until(h, lambda i=i: got == list(range(i + 1)))
        until(h, lambda: site.broker.endpoints["q"].empty)
        site.deaf()
        wait(h, remote, "lost")
        site.hear()


def test_a_rendezvous_that_was_under_way_fails_and_those_that_wait_go_on(h, site, remote, other, monkeypatch):
    pipe = remote.channel("c")
    sender = pipe.sender
    sent = h.spawn(sender.send, "a")
    recver = other.channel("c").recver
    site.deaf()
    wait(h, remote, "lost")
    assert not sent.done
    site.hear()
    assert recver.recv(timeout=PATIENCE) == "a"
    sent.join(timeout=PATIENCE)
    monkeypatch.setitem(ConduitPusher.frames, DATA, lambda pusher, event: drop(pusher))
    taker = h.spawn(recver.recv)
    with pytest.raises(vanilla.ConnectionLost, match="whether the item was taken"):
        sender.send("b", timeout=PATIENCE)
    monkeypatch.setitem(ConduitPusher.frames, DATA, ConduitPusher.data)
    sender.send("c", timeout=PATIENCE)
    assert taker.join(timeout=PATIENCE) == "c"


def test_an_end_that_is_not_in_use_is_claimed_again_at_its_next_use(h, site, remote, other):
    mine, theirs = remote.pipe("p"), other.pipe("p")
    first = h.spawn(mine.send, 1)
    assert theirs.recv(timeout=PATIENCE) == 1
    first.join(timeout=PATIENCE)
    site.deaf()
    wait(h, remote, "lost")
    wait(h, other, "lost")
    site.hear()
    wait(h, remote, "connected")
    remote.ping(timeout=PATIENCE)
    assert "p" not in site.broker.endpoints
    second = h.spawn(mine.send, 2)
    assert theirs.recv(timeout=PATIENCE) == 2
    second.join(timeout=PATIENCE)


# -- all together


def test_many_connections_come_back_after_a_restart(h, site, connect):
    remotes = [connect(backoff=(1, 200)) for _ in range(100)]
    jobs = [remote.push(f"jobs{i % 7}") for i, remote in enumerate(remotes)]
    for each in jobs:
        each.send("a")
    for each in jobs:
        each.sync(timeout=PATIENCE)
    site.end()
    for each in jobs:
        each.send("b")
    site.begin(handshakes=20)
    for each in jobs:
        each.sync(timeout=PATIENCE)
    accepted = sum(site.accounts(f"jobs{i}").accepted for i in range(7))
    assert accepted == 100


def test_options_go_over_a_lost_connection_to_the_same_broker_and_to_another(h, site, remote):
    jobs = remote.push("jobs")
    jobs.send("first", key="a", id="one", priority=3)
    jobs.sync(PATIENCE)
    site.silence()
    for number in range(40):
        jobs.send(number, key=f"key {number}", headers={"n": number // 10})
    jobs.flush()
    site.speak()
    site.cut()
    jobs.send("first, again", id="one")
    jobs.sync(PATIENCE)
    done = remote.pull("jobs", ack=True, prefetch=300)
    found = [done.recv(PATIENCE) for _ in range(41)]
    assert [(d.item, d.key, d.headers) for d in found[1:]] == [
        (number, f"key {number}", {"n": number // 10}) for number in range(40)
    ]
    assert (found[0].key, found[0].id, found[0].priority) == ("a", "one", 3)
    assert site.accounts().duplicates == 1
    for delivery in found:
        delivery.ack()
    site.silence()
    for number in range(40):
        jobs.send(number, id=bytes([number]), priority=1)
    jobs.flush()
    site.end()
    site.begin(capacity=16)
    for number in range(40):
        with done.recv(PATIENCE) as delivery:
            assert (delivery.item, delivery.id, delivery.priority) == (number, bytes([number]), 1)
    jobs.sync(PATIENCE)


# -- what is left of the old connection


@pytest.mark.parametrize("loss", ["cut", "deaf"])
def test_a_timer_of_an_end_that_was_let_go_says_nothing_on_the_next_connection(
    h, site, remote, other, loss, monkeypatch
):
    monkeypatch.setattr("vanilla.client.push.IDLE_MS", 20)
    mine, theirs = remote.queue("items", 5), other.queue("items", 5)
    mine.send(1)
    mine.sender.sync(PATIENCE)
    state = mine.sender._state
    until(h, lambda: state._idle is not None)
    getattr(site, loss)()
    wait(h, remote, "lost")
    assert state.id == 0
    assert state._idle is None
    if loss == "deaf":
        site.hear()
    wait(h, remote, "connected")
    mine.send(2, timeout=PATIENCE)
    until(h, lambda: theirs.recv(timeout=PATIENCE) == 2)


def test_a_rendezvous_that_nobody_waited_for_any_more_goes_on(h, site, remote, other, monkeypatch):
    monkeypatch.setattr("vanilla.client.rendezvous.UNUSED_MS", 20)
    mine, theirs = remote.pipe("items"), other.pipe("items")
    with pytest.raises(vanilla.Timeout):
        mine.send(1, timeout=1)
    state = mine.sender._state
    assert state._unused is not None
    site.deaf()
    wait(h, remote, "lost")
    assert state._unused is None
    site.hear()
    wait(h, remote, "connected")
    wait(h, other, "connected")
    task = h.spawn(theirs.recv)
    mine.send(2, timeout=PATIENCE)
    assert task.join(PATIENCE) == 2


def test_a_question_whose_writing_finds_the_loss_fails(h, site, remote, monkeypatch):
    def write(sock):
        remote._link.out.clear()
        raise ConnectionResetError(104, "reset by peer")

    monkeypatch.setattr(type(remote._link.out), "write", lambda self, sock: write(sock))
    with pytest.raises(vanilla.ConnectionLost):
        remote._link.ask(PING, {}, PATIENCE)


def test_one_loss_after_the_other_takes_no_more_than_one(h, site, remote, monkeypatch):
    site.end()
    site.begin(capacity=1)
    jobs = remote.push("jobs")
    jobs.send(b"")
    jobs.sync(PATIENCE)
    for _ in range(3):
        site.deaf()
        wait(h, remote, "lost")
        while not remote._link.full:
            jobs.send(bytes(1_000), timeout=PATIENCE)
        site.hear()
        wait(h, remote, "connected")
    assert jobs.unconfirmed * 1_000 < 1.5 * OUTPUT_BYTES


def test_options_that_were_settled_later_are_asked_of_the_next_broker_too(h, site, remote):
    remote.declare("jobs", capacity=7)
    jobs = remote.push("jobs")
    remote.push("jobs", capacity=7)
    site.end()
    wait(h, remote, "lost")
    site.begin()
    jobs.send(1)
    jobs.sync(PATIENCE)
    assert site.accounts().terms.capacity == 7


def test_an_answer_that_nobody_wants_any_more_waits_for_no_room(h, site, remote, other):
    router = remote.router("sums")
    other.dealer("sums").call(1)
    request = router.recv(timeout=PATIENCE)
    jobs = remote.push("jobs")
    site.deaf()
    wait(h, remote, "lost")
    while not remote._link.full:
        jobs.send(bytes(10_000), timeout=PATIENCE)
    h.spawn(request.reply, 2).join(PATIENCE)


def test_an_endpoint_of_which_only_calls_are_left_goes_with_them(h, site, remote):
    reply = remote.dealer("sums").call(1, wait=True)
    until(h, lambda: "sums" in site.broker.endpoints)
    site.cut()
    with pytest.raises(vanilla.ConnectionLost):
        reply.recv(timeout=PATIENCE)
    until(h, lambda: not remote._link.channels)


def test_an_error_of_whatever_kind_does_not_end_the_attempts(h, site, remote, monkeypatch):
    site.end()
    wait(h, remote, "lost")
    tried = []

    def dial(*where):
        tried.append(where)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("vanilla.tcp.dial", dial)
        until(h, lambda: len(tried) > 1)
    site.begin()
    wait(h, remote, "connected")


def test_what_is_too_big_for_the_next_broker_fails_alone(h, site, remote):
    large, limit = bytes(500_000), 65_536
    state, jobs, sums = remote.state("value"), remote.push("jobs", capacity=1), remote.dealer("sums")
    reply = sums.call(large, wait=True, idempotent=True)
    jobs.send(1)
    task = h.spawn(jobs.send, large)
    until(h, lambda: jobs._state.senders)
    jobs.sync(PATIENCE)
    site.end()
    wait(h, remote, "lost")
    state.send(large)
    site.begin(frame_bytes=limit)
    with pytest.raises(vanilla.Rejected, match="TOO_BIG"):
        task.join(PATIENCE)
    with pytest.raises(vanilla.Rejected, match="TOO_BIG"):
        reply.recv(timeout=PATIENCE)
    with pytest.raises(Refused, match="TOO_BIG"):
        state.send(1)
    jobs.send(2, timeout=PATIENCE)
    jobs.sync(PATIENCE)


def test_messages_with_options_share_frames_without_a_connection_too(h, site, remote, other, monkeypatch):
    monkeypatch.setattr("vanilla.client.push.BATCH_AGE", 3_600)
    jobs = remote.push("jobs")
    jobs.send(-1)
    jobs.sync(PATIENCE)
    site.deaf()
    wait(h, remote, "lost")
    for number in range(1_000):
        jobs.send(number, key=f"key {number}")
    jobs._state.seal()
    jobs._state._frame()
    assert len(jobs._state.replay.frames) < 10
    site.hear()
    wait(h, remote, "connected")
    wait(h, other, "connected")
    done = other.pull("jobs", ack=True, prefetch=2_000)
    assert done.recv(PATIENCE).item == -1
    for number in range(1_000):
        delivery = done.recv(PATIENCE)
        assert (delivery.item, delivery.key) == (number, f"key {number}")
        delivery.ack()
