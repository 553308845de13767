"""Dead letters: what they tell of their lives, and what can be done with them."""

from __future__ import annotations

import time

import msgpack
import pytest
from peers import PATIENCE, Peer, data, settled, until

import vanilla
from vanilla.broker.session import describe_peer
from vanilla.exception import Refused
from vanilla.protocol.frames import ACK, ADMIN, CREDIT, DATA, DATA_OPTIONS, OPEN, pack_control, pack_head

BAD_UTF8 = b"\xa2\xff\xff"


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=1, max_attempts=2) as broker:
        yield broker


@pytest.fixture
def remote(connect):
    return connect()


def bury(remote, *items, name="jobs"):
    """Let *items* fail until they are dead letters."""
    jobs = remote.push(name)
    jobs.send_many(list(items))
    jobs.sync()
    with remote.pull(name, ack=True) as back:
        for _ in range(2 * len(items)):
            back.recv(timeout=PATIENCE).nack(delay=0)


# -- history


def test_a_dead_letter_tells_where_it_died_and_why(h, broker, remote):
    bury(remote, "poison")
    letter = remote.pull("jobs.dead", ack=True).recv(timeout=PATIENCE)
    assert (letter.item, letter.redelivered, letter.attempts) == ("poison", False, 1)
    dead = letter.dead
    assert (dead.endpoint, dead.reason, dead.attempts) == ("jobs", "MAX_ATTEMPTS", 2)
    assert 0 <= dead.died <= dead.accepted < PATIENCE
    assert dead.last_consumer == f"vanilla/{vanilla.__version__} {describe_peer(remote._link.sock.getsockname())}"


def test_only_dead_letters_have_died(remote):
    remote.push("jobs").send(1)
    back = remote.pull("jobs", ack=True)
    first = back.recv(timeout=PATIENCE)
    assert first.dead is None
    first.nack(delay=0)
    assert back.recv(timeout=PATIENCE).dead is None


def test_a_dead_letter_that_comes_again_keeps_its_history(remote):
    bury(remote, "poison")
    letters = remote.pull("jobs.dead", ack=True)
    letters.recv(timeout=PATIENCE).nack(delay=0)
    again = letters.recv(timeout=PATIENCE)
    assert again.redelivered and again.dead[:3] == ("jobs", "MAX_ATTEMPTS", 2)


def test_who_was_lost_with_a_message_is_its_last_consumer(h, broker, remote):
    remote.push("jobs").send("poison")
    for _ in range(2):
        victim = Peer(h, broker.urls[0])
        victim.open(1, "pull", "jobs")
        victim.credit(1)
        victim.delivery()
        last = describe_peer(victim.sock.getsockname())
        victim.close()
    dead = remote.pull("jobs.dead", ack=True).recv(timeout=PATIENCE).dead
    assert (dead.reason, dead.attempts, dead.last_consumer) == ("MAX_ATTEMPTS", 2, last)


def test_a_consumer_gives_its_reason(h, broker, remote):
    remote.push("jobs").send("odd")
    peer = Peer(h, broker.urls[0])
    peer.open(1, "pull", "jobs")
    peer.credit(1)
    peer.delivery()
    peer.nack(1, 0, 1, dead="NOT_FOR_ME")
    dead = remote.pull("jobs.dead", ack=True).recv(timeout=PATIENCE).dead
    assert (dead.reason, dead.attempts) == ("NOT_FOR_ME", 1)
    peer.close()


def test_what_a_consumer_calls_itself_can_be_printed_and_is_short(h, broker, remote):
    remote.push("jobs").send("odd")
    peer = Peer(h, broker.urls[0])
    (session,) = [each for each in broker.sessions if not each.agent]
    session.agent, session.identity = "evil\x1b[2J\x9b" + "x" * 90, "é" * 200
    peer.open(1, "pull", "jobs")
    peer.credit(1)
    peer.delivery()
    peer.nack(1, 0, 1, dead="X")
    who = remote.pull("jobs.dead", ack=True).recv(timeout=PATIENCE).dead.last_consumer
    assert who.startswith("evil?[2J?xx") and who.isprintable() and len(who) == 200
    peer.close()


def test_letters_that_part_keep_their_history(h, remote):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=4) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        peer = Peer(h, broker.urls[0])
        peer.open(1, "pull", "jobs")
        peer.credit(1)
        for number in range(3):  # two and two die; then there is room for one of the last two
            jobs.send_many([2 * number, 2 * number + 1])
            got = []
            while len(got) < 2:
                got += peer.delivery()[3]
            if number < 2:
                peer.nack(1, 2 * number, 2, dead="X")
                until(h, lambda died=2 * number + 2: letters(broker) == died)
        back = remote.pull("jobs.dead", ack=True, prefetch=1)
        held = back.recv(timeout=PATIENCE)
        until(h, lambda: letters(broker) + broker.endpoints["jobs.dead"].flight_n == 4)
        held.ack()
        until(h, lambda: broker.endpoints["jobs.dead"].acknowledged == 1)
        dead = broker.endpoints["jobs.dead"]
        until(h, lambda: dead.room_n > 0)
        peer.nack(1, 4, 2, dead="Y")
        until(h, lambda: dead.accepted > 4)
        found = [held, *(back.recv(timeout=PATIENCE) for _ in range(dead.accepted - 1))]
        assert [(d.dead.reason, d.dead.last_consumer) for d in found[:4]] == [
            ("X", describe_peer(peer.sock.getsockname()))
        ] * 4
        assert {(d.dead.reason, d.dead.last_consumer) for d in found[4:]} == {
            ("Y", describe_peer(peer.sock.getsockname()))
        }
        peer.close()


def test_the_largest_message_with_the_longest_history_can_be_read(h):
    wide = "\N{MUSICAL SYMBOL G CLEF}"
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=4096) as broker, h.client.connect(broker.urls[0]) as remote:
        name = "n" * 250
        item = "x" * (remote.message_limit - 3)
        remote.push(name).send(item)
        peer = Peer(h, broker.urls[0])
        (session,) = [each for each in broker.sessions if not each.agent]
        session.agent = wide * 200
        peer.open(1, "pull", name)
        peer.credit(1)
        peer.delivery()
        peer.nack(1, 0, 1, dead=wide * 100)
        letters = remote.pull(f"{name}.dead", ack=True)
        first = letters.recv(timeout=PATIENCE)
        first.nack(delay=0)
        again = letters.recv(timeout=PATIENCE)
        assert (first.item, again.item, again.redelivered) == (item, item, True)
        assert again.dead[:3] == (name, wide * 100, 1) and again.dead.last_consumer == wide * 200
        again.nack(delay=3_600_000)
        until(h, lambda: broker.endpoints[f"{name}.dead"].delayed_n == 1)
        (shown,) = remote.dead(name).peek()
        assert (shown.item, shown.dead[:3]) == (item, again.dead[:3])
        peer.close()


def test_letters_of_one_history_share_a_frame(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send_many(list(range(100)))
    jobs.sync()
    peer = Peer(h, broker.urls[0])
    peer.open(1, "pull", "jobs")
    peer.credit(1)
    peer.delivery()
    peer.nack(1, 0, 50, dead="X")
    peer.nack(1, 50, 50, dead="Y")
    until(h, lambda: "jobs.dead" in broker.endpoints and broker.endpoints["jobs.dead"].ready_n == 100)
    peer.open(2, "pull", "jobs.dead")
    peer.credit(2)
    frames = [peer.delivery() for _ in range(2)]
    assert [(options["dead"]["reason"], items) for _, _, options, items in frames] == [
        ("X", list(range(50))),
        ("Y", list(range(50, 100))),
    ]
    peer.close()


# -- looking at them, sending them again, dropping them


def letters(broker, name="jobs.dead"):
    return broker.endpoints[name].ready_n if name in broker.endpoints else 0


def balanced(broker):
    for endpoint in broker.endpoints.values():
        assert endpoint.balance == 0
        assert endpoint.ready_n == sum(batch.count for batch in endpoint.ready) + sum(b.count for b in endpoint.back)
        assert endpoint.delayed_n == sum(batch.count for batch in endpoint.delayed)
    return True


def raw(h, broker, *bodies, name="jobs"):
    """Push packed messages as they are."""
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", name)
    peer.expect(CREDIT)
    peer.send(pack_head(DATA, 1, 0, len(bodies), sum(map(len, bodies))) + b"".join(bodies))
    peer.expect(ACK)
    peer.close()


def test_dead_letters_are_counted_by_reason(h, broker, remote):
    bury(remote, 1, 2)
    raw(h, broker, BAD_UTF8)
    with remote.pull("jobs"):
        task = h.spawn(remote.pull("jobs").recv)
        until(h, lambda: letters(broker) == 3)
        task.cancel()
    count = remote.dead("jobs").count()
    assert (count.n, count.reasons) == (3, {"MAX_ATTEMPTS": 2, "UNDECODABLE": 1})
    assert 0 <= count.oldest < PATIENCE
    assert remote.dead("jobs").count(reason="UNDECODABLE")[::2] == (1, {"UNDECODABLE": 1})
    assert remote.dead("jobs").count(reason="jobs") == (0, None, {})


def test_what_is_not_there_holds_nothing_and_is_not_made(broker, remote):
    for found in remote.dead("jobs"), remote.waiting("jobs"):
        assert found.count() == (0, None, {})
        assert (found.peek(), found.purge(), found.replay()) == ([], 0, (0, 0, ""))
    assert not broker.endpoints


def test_to_peek_takes_nothing(h, broker, remote):
    bury(remote, "a", {"b": 1})
    shown = remote.dead("jobs").peek()
    assert [letter.item for letter in shown] == ["a", {"b": 1}]
    assert all(letter.dead[:3] == ("jobs", "MAX_ATTEMPTS", 2) for letter in shown)
    assert all(letter.attempts == 0 and letter.age == letter.dead.died for letter in shown)
    assert letters(broker) == 2 and balanced(broker)
    back = remote.pull("jobs.dead")
    assert sorted([back.recv(timeout=PATIENCE), back.recv(timeout=PATIENCE)], key=str) == ["a", {"b": 1}]


def test_a_peek_begins_and_ends_where_it_is_told(remote):
    jobs = remote.push("jobs")
    jobs.send_many(list(range(10)))
    jobs.send_many(list(range(10, 20)))
    jobs.sync()
    waiting = remote.waiting("jobs")
    assert [[letter.item for letter in waiting.peek(4, first)] for first in (0, 8, 18, 20)] == [
        [0, 1, 2, 3],
        [8, 9, 10, 11],
        [18, 19],
        [],
    ]
    assert waiting.peek(0) == []
    assert waiting.peek(1)[0].dead is None


def test_a_peek_of_much_comes_in_pages(h):
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=4096) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        largest = "x" * (remote.message_limit - 3)
        items = [largest, *range(50), "y" * 3000, "z" * 3000]
        for item in items:
            jobs.send(item)
        jobs.sync()
        assert [letter.item for letter in remote.waiting("jobs").peek(1000)] == items


def test_delayed_messages_are_seen_and_purged_too(h, broker, remote):
    remote.push("jobs").send_many([1, 2])
    back = remote.pull("jobs", ack=True)
    back.recv(timeout=PATIENCE).nack(delay=3_600_000)
    held = back.recv(timeout=PATIENCE)
    until(h, lambda: broker.endpoints["jobs"].delayed_n == 1)
    waiting = remote.waiting("jobs")
    assert [(letter.item, letter.attempts) for letter in waiting.peek()] == [(1, 1)]
    assert waiting.purge() == 1
    endpoint = broker.endpoints["jobs"]
    assert (endpoint.delayed_n, endpoint.flight_n, endpoint.dropped) == (0, 1, 1) and balanced(broker)
    held.ack()
    remote.ping()
    assert endpoint.acknowledged == 1


def test_what_is_purged_is_gone_and_counted(h, broker, remote):
    bury(remote, *range(5))
    until(h, lambda: letters(broker) == 5)
    for _ in range(3):
        remote.ping()  # nothing is under way that would have the broker look after it
    assert remote.dead("jobs").purge() == 5
    until(h, lambda: "jobs.dead" not in broker.endpoints)
    assert remote.status()["broker"]["dropped"] == 5
    assert remote.dead("jobs").purge() == 0


def test_a_purge_may_keep_to_one_reason(h, broker, remote):
    bury(remote, "a", "b")
    raw(h, broker, BAD_UTF8, b"\x01")
    assert remote.pull("jobs").recv(timeout=PATIENCE) == 1
    until(h, lambda: letters(broker) == 3)
    assert remote.dead("jobs").purge(reason="UNDECODABLE") == 1
    assert sorted(letter.item for letter in remote.dead("jobs").peek()) == ["a", "b"]
    assert balanced(broker)


@pytest.mark.parametrize("bad", [BAD_UTF8, b"\x81\x90\x01", b"\x81\x92\x01\x02\x01"])
def test_a_dead_letter_that_nobody_can_decode_is_shown_packed_and_can_be_purged(h, broker, remote, bad):
    raw(h, broker, bad)
    task = h.spawn(remote.pull("jobs").recv)
    until(h, lambda: letters(broker) == 1)
    task.cancel()
    task = h.spawn(remote.pull("jobs.dead").recv)  # it cannot get rid of it: there it stays, delayed
    until(h, lambda: broker.endpoints["jobs.dead"].delayed_n == 1)
    (letter,) = remote.dead("jobs").peek()
    assert (letter.body, letter.dead.reason) == (bad, "UNDECODABLE")
    with pytest.raises(ValueError):
        print(letter.item)
    assert remote.dead("jobs").purge() == 1
    assert (letters(broker), broker.endpoints["jobs.dead"].delayed_n) == (0, 0) and balanced(broker)
    task.cancel()


def test_room_that_a_purge_makes_is_granted(h, remote):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=10) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        full = h.spawn(jobs.send_many, list(range(30)))
        until(h, lambda: "jobs" in broker.endpoints and broker.endpoints["jobs"].ready_n == 10)
        purged = 0
        while not full.done:
            purged += remote.waiting("jobs").purge()
        jobs.sync(timeout=PATIENCE)
        purged += remote.waiting("jobs").purge()
        assert purged == 30


def test_replayed_letters_go_home_and_begin_anew(h, broker, remote):
    bury(remote, "a", "b")
    assert remote.dead("jobs").replay() == (2, 0, "")
    back = remote.pull("jobs", ack=True)
    got = [back.recv(timeout=PATIENCE) for _ in range(2)]
    assert [(d.item, d.redelivered, d.attempts, d.dead) for d in got] == [("a", False, 1, None), ("b", False, 1, None)]
    assert balanced(broker)
    jobs = broker.endpoints["jobs"]
    assert (jobs.accepted, jobs.dead, jobs.flight_n) == (4, 2, 2)
    totals = remote.status()["broker"]
    assert (totals["accepted"], totals["dead"], totals["acknowledged"], totals["dropped"]) == (6, 2, 2, 0)


def test_a_replay_takes_as_many_as_it_is_told(h, broker, remote):
    remote.push("jobs").send_many(list(range(10)))
    peer = Peer(h, broker.urls[0])
    peer.open(1, "pull", "jobs")
    peer.credit(1)
    got = []
    while len(got) < 10:
        got += peer.delivery()[3]
    peer.nack(1, 0, 10, dead="X")
    until(h, lambda: letters(broker) == 10)
    assert remote.dead("jobs").replay(n=4) == (4, 0, "")
    assert [letter.item for letter in remote.dead("jobs").peek()] == [4, 5, 6, 7, 8, 9]
    assert peer.delivery()[3] == [0, 1, 2, 3]
    assert balanced(broker)
    peer.close()


def dead_letters(h, broker, remote, count, name="jobs"):
    """Make *count* of them, one after the other, from 0 on."""
    with remote.pull(name, ack=True) as back:
        jobs = remote.push(name)
        for item in range(count):
            jobs.send(item)
            for _ in range(2):
                back.recv(timeout=PATIENCE).nack(delay=0)
        until(h, lambda: letters(broker, f"{name}.dead") == count)


def test_a_replay_moves_what_there_is_room_for_and_loses_nothing(h):
    with (
        h.broker.listen("tcp://127.0.0.1:0", capacity=8, max_attempts=2) as broker,
        h.client.connect(broker.urls[0]) as remote,
    ):
        dead_letters(h, broker, remote, 6)
        until(h, lambda: "jobs" not in broker.endpoints or not broker.endpoints["jobs"].granted_n)
        peer = Peer(h, broker.urls[0])
        peer.open(1, "push", "jobs")
        peer.want(1, n=4, b=10)
        while peer.fields(CREDIT)["n"] < 4:
            peer.want(1, n=4, b=10)
        granted = broker.endpoints["jobs"].granted_n
        room = 8 - granted
        done = remote.dead("jobs").replay()
        assert done == (room, 6 - room, "'jobs' is full")
        assert [letter.item for letter in remote.dead("jobs").peek()] == list(range(room, 6))
        assert [letter.item for letter in remote.waiting("jobs").peek()] == list(range(room))
        assert balanced(broker)
        peer.close()
        until(h, lambda: not broker.endpoints["jobs"].granted_n)
        assert remote.dead("jobs").replay() == (6 - room, 0, "")
        assert [letter.item for letter in remote.waiting("jobs").peek()] == list(range(6))


def test_a_replay_keeps_to_the_room_in_bytes_but_for_its_last_message(h, broker, remote):
    bury(remote, "a" * 100, "b" * 100, "c" * 100)
    remote.push("jobs").send("x")
    until(h, lambda: "jobs" in broker.endpoints and broker.endpoints["jobs"].ready_n == 1)
    jobs = broker.endpoints["jobs"]
    jobs.capacity_b = jobs.granted_b + jobs.ready_b + 103
    assert remote.dead("jobs").replay()[:2] == (2, 1)
    assert [letter.item[0] for letter in remote.dead("jobs").peek()] == ["c"]
    assert balanced(broker)


def test_letters_go_to_another_queue_if_that_is_said(h, broker, remote):
    bury(remote, "a", "b")
    assert remote.dead("jobs").replay(n=1, to="again") == (1, 0, "")
    assert remote.pull("again").recv(timeout=PATIENCE) == "a"
    until(h, lambda: "jobs" not in broker.endpoints)
    with pytest.raises(Refused, match="MISMATCH"):
        remote.dead("jobs").replay(to="jobs.dead")
    assert letters(broker) == 1


def test_messages_move_too_if_it_is_said_where_to(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send_many([1, 2, 3])
    jobs.sync()
    assert remote.waiting("jobs").replay() == (0, 3, "some came to 'jobs' from no other endpoint: say where to")
    assert remote.waiting("jobs").replay(to="more") == (3, 0, "")
    assert [letter.item for letter in remote.waiting("more").peek()] == [1, 2, 3]
    assert balanced(broker)


def test_a_letter_whose_reason_differs_stays(h, broker, remote):
    bury(remote, "a")
    raw(h, broker, BAD_UTF8)
    task = h.spawn(remote.pull("jobs").recv)
    until(h, lambda: letters(broker) == 2)
    task.cancel()
    assert remote.dead("jobs").replay(reason="MAX_ATTEMPTS") == (1, 0, "")
    assert remote.dead("jobs").count().reasons == {"UNDECODABLE": 1}


def test_a_letter_of_a_queue_goes_home_only_as_long_as_that_is_there(h, broker, remote):
    sender, recver = remote.queue("line", 5)
    sender.send("odd")
    peer = Peer(h, broker.urls[0])
    peer.send(pack_control(OPEN, 1, 0, {"kind": "recv", "name": "line", "as": "queue", "capacity": 5}))
    peer.credit(1)
    peer.delivery()
    peer.nack(1, 0, 1, dead="ODD")
    until(h, lambda: letters(broker, "line.dead") == 1)
    assert remote.dead("line").replay() == (1, 0, "")
    assert peer.delivery()[3] == ["odd"]
    peer.nack(1, 1, 1, dead="ODD")
    until(h, lambda: letters(broker, "line.dead") == 1)
    peer.close()
    sender.close()
    until(h, lambda: "line" not in broker.endpoints)
    assert remote.dead("line").replay() == (0, 1, "'line' is gone, and was no work queue: say where to")
    assert "line" not in broker.endpoints
    assert remote.dead("line").replay(to="work") == (1, 0, "")
    recver.close()


def test_letters_stay_where_their_home_has_become_something_else(h, broker, remote):
    bury(remote, "a")
    until(h, lambda: "jobs" not in broker.endpoints)
    dealer = remote.dealer("jobs")
    call = dealer.call("x", wait=True)
    until(h, lambda: "jobs" in broker.endpoints)
    assert remote.dead("jobs").replay() == (0, 1, "'jobs' is a service: say where to")
    assert letters(broker) == 1
    call.close()


def test_a_letter_with_options_does_not_go_where_messages_have_none(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send("bad", key="a", headers={"b": 1})
    jobs.close()
    with remote.pull("jobs", ack=True) as back:
        for _ in range(2):
            back.recv(timeout=PATIENCE).nack(delay=0)
    until(h, lambda: "jobs" not in broker.endpoints)
    queue = remote.queue("jobs", 10)
    queue.send("good")
    assert queue.recv(timeout=PATIENCE) == "good"
    replay = remote.dead("jobs").replay()
    assert (replay.moved, replay.left) == (0, 1)
    assert "messages have no options" in replay.why


def test_the_time_to_live_of_an_endpoint_holds_for_dead_letters_and_for_what_is_replayed(h, broker, remote):
    remote.declare("jobs", ttl=60_000)
    remote.declare("jobs.dead", ttl=30)
    bury(remote, "poison")
    until(h, lambda: broker.endpoints["jobs.dead"].drops == {"expired": 1})
    remote.declare("others", ttl=30, dead="others.dead")
    with remote.push("more") as more:
        more.send(1)
        more.sync(PATIENCE)
    assert remote.waiting("more").replay(to="others").moved == 1
    until(h, lambda: broker.endpoints["others"].dead == 1)


def test_letters_stay_where_there_may_be_no_more_endpoints(h):
    with (
        h.broker.listen("tcp://127.0.0.1:0", endpoints=2, max_attempts=2) as broker,
        h.client.connect(broker.urls[0]) as remote,
    ):
        bury(remote, "a")
        until(h, lambda: "jobs" not in broker.endpoints)
        remote.push("other").send(1)
        until(h, lambda: "other" in broker.endpoints)
        assert remote.dead("jobs").replay() == (0, 1, "there are 2 endpoints already")
        assert remote.dead("jobs").count().n == 1


def test_nothing_is_replayed_while_the_broker_ends(h, broker, remote):
    bury(remote, "a")
    broker.draining = True
    with pytest.raises(Refused, match="GOING_AWAY"):
        remote.dead("jobs").replay()
    broker.draining = False
    assert letters(broker) == 1


@pytest.mark.parametrize("open", ["dealer", "state", "broadcast", "pipe"])
@pytest.mark.parametrize("order", ["count", "peek", "purge", "replay"])
def test_what_holds_no_messages_is_told_apart(h, broker, remote, open, order):
    end = getattr(remote, open)("it")
    task = h.spawn(
        {"dealer": lambda: end.call(1, wait=True).recv(), "broadcast": lambda: end.subscribe().recv()}.get(
            open, lambda: (end.recver if open == "pipe" else end).recv()
        )
    )
    until(h, lambda: "it" in broker.endpoints)
    with pytest.raises(Refused, match=r"MISMATCH: 'it' is a .*: nothing waits there"):
        getattr(remote.waiting("it"), order)()
    task.cancel()


def test_an_endpoint_of_dead_letters_shows_all_of_it_and_an_endpoint_its_own(h, broker, remote):
    remote.declare("jobs", dead="morgue")
    remote.declare("mail", dead="morgue")
    bury(remote, "a", name="jobs")
    bury(remote, "b", "c", name="mail")
    remote.push("morgue").send("d")
    until(h, lambda: letters(broker, "morgue") == 4)
    assert [letter.item for letter in remote.dead("jobs").peek()] == ["a"]
    assert sorted(letter.item for letter in remote.dead("morgue").peek()) == ["a", "b", "c", "d"]
    assert remote.dead("jobs").purge() == 1
    assert remote.dead("morgue").replay()[:2] == (2, 1)
    assert [letter.item for letter in remote.waiting("mail").peek()] == ["b", "c"]
    assert [letter.item for letter in remote.dead("morgue").peek()] == ["d"]


def test_what_others_push_to_the_dead_letters_is_there_too(h, broker, remote):
    remote.push("jobs.dead").send("d")
    until(h, lambda: letters(broker) == 1)
    assert [letter.item for letter in remote.dead("jobs").peek()] == ["d"]
    assert remote.dead("jobs").peek(reason="MAX_ATTEMPTS") == []


def test_what_was_purged_is_told_apart_from_other_drops(broker, remote):
    jobs = remote.push("jobs")
    jobs.send_many([1, 2])
    jobs.sync()
    assert remote.waiting("jobs").purge() == 2
    assert broker.endpoints["jobs"].drops == {"purged": 2} and balanced(broker)


def test_who_let_a_lease_lapse_is_the_last_consumer(h, broker, remote):
    remote.push("jobs").send("slow")
    back = remote.pull("jobs", ack=True, lease=1)
    for _ in range(2):
        back.recv(timeout=PATIENCE)
    dead = remote.pull("jobs.dead", ack=True).recv(timeout=PATIENCE).dead
    assert (dead.reason, dead.attempts) == ("MAX_ATTEMPTS", 2)
    assert dead.last_consumer.startswith(f"vanilla/{vanilla.__version__} ")


def test_of_many_reasons_the_most_frequent_are_named(h, broker, remote):
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=4096) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        jobs.send_many(list(range(40)))
        jobs.sync()
        peer = Peer(h, broker.urls[0])
        peer.open(1, "pull", "jobs")
        peer.credit(1)
        got = []
        while len(got) < 40:
            got += peer.delivery()[3]
        peer.nack(1, 0, 20, dead="often")
        for number in range(20, 40):
            peer.nack(1, number, 1, dead=f"{number}" + "é" * 98)
        until(h, lambda: letters(broker) == 40)
        count = remote.dead("jobs").count()
        assert count.n == 40 and count.reasons["often"] == 20 and len(count.reasons) == 4
        assert [letter.item for letter in remote.dead("jobs").peek(40)] == list(range(40))
        peer.close()


def test_a_flood_of_peeks_is_answered_as_it_is_read(h, broker, remote):
    """Answers are far longer than what asks for them: unread, they must not gather."""
    jobs = remote.push("jobs")
    for _ in range(20):
        jobs.send(b"x" * 50_000)
    jobs.sync()
    peer = Peer(h, broker.urls[0])
    order = {"do": "peek", "name": "jobs"}
    peer.send(b"".join(pack_control(ADMIN, 0, number, order) for number in range(60)))
    (session,) = [session for session in broker.sessions if not session.agent]
    until(h, lambda: session.full and session.out.blocked)
    for _ in range(50):
        remote.ping()
    assert session.out.unsent < 2 * broker.options.output_bytes
    assert [peer.expect(ADMIN)[2] for _ in range(60)] == list(range(60))
    peer.close()


def test_who_purged_and_replayed_is_logged(h, broker, remote, caplog):
    bury(remote, "a", "b")
    remote.dead("jobs").replay(n=1)
    remote.dead("jobs").purge()
    me = f"vanilla/{vanilla.__version__} {describe_peer(remote._link.sock.getsockname())}"
    said = [record.getMessage() for record in caplog.records]
    assert f"endpoint 'jobs.dead': 1 messages were replayed by {me}" in said
    assert f"endpoint 'jobs.dead': 1 messages were purged by {me}" in said


@pytest.mark.parametrize(
    "order",
    [
        lambda waiting: waiting.peek(5, first=-1),
        lambda waiting: waiting.peek(5, first="x"),
        lambda waiting: waiting.peek("x"),
        lambda waiting: waiting.peek(-1),
        lambda waiting: waiting.peek(2**70),
        lambda waiting: waiting.count(reason=5),
        lambda waiting: waiting.purge(reason="x" * 100_000),
        lambda waiting: waiting.replay(n=-1),
        lambda waiting: waiting.replay(to=5),
        lambda waiting: waiting.replay(to="a\nb"),
    ],
)
def test_an_order_that_cannot_be_meant_is_the_callers_error_and_not_the_connections(h, near, order):
    with pytest.raises(ValueError):
        order(near.waiting("jobs"))
    assert near.waiting("jobs").count().n == 0


def test_what_is_left_of_a_delayed_frame_stays_delayed(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send_many([1, 2, 3], delay=3_600_000)
    jobs.sync(timeout=PATIENCE)
    assert remote.waiting("jobs").replay(n=1, to="other").moved == 1
    endpoint = broker.endpoints["jobs"]
    assert (endpoint.delayed_n, endpoint.ready_n, endpoint.balance) == (2, 0, 0)
    assert remote.pull("other").recv(timeout=PATIENCE) == 1
    assert remote.waiting("jobs").replay(to="other").moved == 2
    assert (endpoint.delayed_n, endpoint.delayed_b, endpoint.balance) == (0, 0, 0)


def test_dead_letters_do_not_go_to_where_they_died(broker, remote):
    with pytest.raises(Refused, match=r"BAD_OPTION.*itself"):
        remote.declare("round", dead="round")
    assert "round" not in broker.endpoints


def told(channel, seq, options, items):
    """Messages with options."""
    body = b"".join(map(msgpack.packb, [options, *items]))
    return pack_head(DATA_OPTIONS, channel, seq, len(items) + 1, len(body)) + body


@pytest.fixture
def full_grave(h, broker):
    """A place for dead letters that has room for none."""
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "grave", options={"capacity": 1})
    peer.want(1, n=1, b=9)
    peer.expect(CREDIT)
    peer.send(data(1, 0, ["full"]))
    settled(peer)
    yield peer
    peer.close()


def test_a_message_of_a_key_goes_though_one_before_it_is_overdue_and_has_no_place(h, broker, full_grave):
    producer, consumer = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
    producer.open(1, "push", "jobs", options={"dead": "grave"})
    producer.expect(CREDIT)
    consumer.open(1, "pull", "jobs")
    consumer.credit(1, 2)
    settled(consumer)
    producer.send(
        told(1, 0, {"keys": ["a"], "ttl": 30}, ["overdue"]),
        told(1, 1, {"keys": ["a"]}, ["good"]),
        told(1, 2, {"ttl": 20}, ["overdue, too"]),
    )
    for _ in range(2):
        consumer.delivery()
    consumer.close_channel(1, 0)
    settled(consumer)
    h.sleep(25)
    time.sleep(0.01)  # the first is overdue, and nobody has looked since
    consumer.open(1, "pull", "jobs")
    consumer.credit(1)
    assert consumer.delivery()[-1] == ["good"]
    assert broker.endpoints["jobs"].balance == 0
    producer.close()
    consumer.close()


def test_a_dead_letter_that_had_to_wait_for_its_place_has_a_true_history(h, full_grave, broker, caplog):
    producer, consumer = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
    producer.open(1, "push", "jobs", options={"dead": "grave", "backoff": 0})
    producer.expect(CREDIT)
    producer.send(told(1, 0, {"ttl": 1}, ["m0"]), told(1, 1, {"ttl": 1, "priority": 3}, ["m1"]))
    settled(producer)
    h.sleep(100)
    assert caplog.text.count("no place for") == 1  # and not again each time that they come round
    full_grave.close()  # it would have the room that is free
    consumer.open(1, "pull", "grave")
    consumer.credit(1)
    assert consumer.delivery()[-1] == ["full"]
    consumer.ack(1, 0, 1)
    for number in 1, 2:
        death = consumer.delivery()[2]["dead"]
        assert (death["reason"], death["attempts"]) == ("EXPIRED", 0)
        consumer.ack(1, number, 1)
    producer.close()
    consumer.close()
