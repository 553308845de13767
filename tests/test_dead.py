"""Dead letters: what they tell of their lives, and what can be done with them."""

from __future__ import annotations

import pytest
from peers import PATIENCE, Peer, until

import vanilla
from vanilla.broker.session import describe_peer

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
