"""The broker's states: what is told to whom, and when."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import PATIENCE, Peer, data, settled, until
from programs import broker as process

import vanilla
from vanilla.broker.value import Holder
from vanilla.deadline import Deadline
from vanilla.protocol.frames import ACK, CLEAR, CLOSE, DATA, ERROR, OPEN, PING, pack_control
from vanilla.selection import EMPTY


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", output_bytes=4096) as broker:
        yield broker


@pytest.fixture
def peers(h, broker):
    made = [Peer(h, broker.urls[0]) for _ in range(2)]
    for peer in made:
        peer.open(1, "state", "s")
        peer.expect(OPEN)
    yield made
    for peer in made:
        peer.close()


def frames(peer):
    """Type and objects of all that is said to it."""
    return [(frame[0], msgpack.unpackb(frame[4])) for frame in settled(peer)]


def test_a_writer_is_confirmed_and_the_others_are_told(h, broker, peers):
    one, two = peers
    one.send(data(1, 0, [1, 2, 3]))
    assert frames(one) == [(ACK, [{"r": [0, 3]}])]
    assert frames(two) == [(DATA, [3])]


def test_one_who_comes_is_told_the_value_and_nothing_if_there_is_none(h, broker, peers):
    one, two = peers
    assert frames(two) == []
    one.send(data(1, 0, ["x"]))
    two.open(2, "state", "s")
    assert [kind for kind, _ in frames(two)].count(DATA) == 2  # on either of its channels
    one.send(pack_control(CLEAR, 1, 1))
    assert frames(one)[-1] == (ACK, [{"r": [1, 1]}])
    assert (CLEAR, [{}]) in frames(two)
    two.open(3, "state", "s")
    assert [kind for kind, _ in frames(two)] == [OPEN]


def test_what_another_wrote_before_ones_own_last_write_was_read_comes_before_its_confirm(h, broker, peers):
    one, two = peers
    one.send(data(1, 0, ["one"]))
    frames(one)
    two.send(data(1, 0, ["two"]))
    frames(two)
    one.send(data(1, 1, ["again"]))
    assert frames(one) == [(DATA, ["two"]), (ACK, [{"r": [1, 1]}])]
    assert frames(two)[-1] == (DATA, ["again"])


def test_numbers_follow_each_other(h, broker, peers):
    one, two = peers
    one.send(data(1, 1, ["x"]))
    assert b"BAD_SEQUENCE" in bytes(one.expect(ERROR)[4])
    two.send(pack_control(CLEAR, 1, 1))
    assert b"BAD_SEQUENCE" in bytes(two.expect(ERROR)[4])


def test_who_does_not_read_costs_one_value_and_is_told_the_last(h, broker):
    writer, slow = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
    for peer in (writer, slow):
        peer.open(1, "state", "s")
        peer.expect(OPEN)
    value = "x" * 100_000
    for number in range(200):
        writer.send(data(1, number, [[number, value]]))
        writer.expect(ACK)
        assert max(session.out.unsent for session in broker.sessions) < 110_000
    last = None
    while last != 199:
        last = msgpack.unpackb(slow.expect(DATA)[4])[0][0]
    writer.close()
    slow.close()


def test_a_state_keeps_its_accounts_and_one_value(h, broker, peers):
    one, _ = peers
    one.send(data(1, 0, [*range(100)]))
    said = one.status()["s"]
    assert (said["kind"], said["ready"], said["bytes"]) == ("state", 0, 1)
    assert said["accepted"] == said["acknowledged"] == 100
    assert said["pushers"] == 2
    assert broker.endpoints["s"].balance == 0


def test_a_state_is_no_queue(h, broker, peers):
    one, _ = peers
    one.open(2, "push", "s")
    assert b"MISMATCH" in bytes(one.expect(ERROR)[4])


def test_a_clear_from_before_ones_own_unconfirmed_write_is_passed_over(h, broker):
    with h.client.connect(broker.urls[0]) as remote:
        pair = remote.state("s")
        state = pair.recver._state
        pair.send("mine")
        state._cleared(None)
        assert state.value == "mine"
        pair.sync(timeout=PATIENCE)
        state._cleared(None)
        assert state.value is EMPTY


def test_who_reads_again_and_again_without_waiting_sees_changes():
    """Its loop gets no turn."""
    with process() as (url, _), vanilla.Hub() as writes, vanilla.Hub() as reads:
        writer, reader = writes.client.connect(url).state("s"), reads.client.connect(url).state("s")
        for value in (1, 2):
            writer.send(value)
            writer.sync(timeout=PATIENCE)
            if value == 1:
                assert reader.recv(timeout=PATIENCE) == 1
        deadline = Deadline(PATIENCE)
        while reader.recv() != 2:
            assert deadline.left()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["send", "clear", "turn"])), max_size=30))
def test_whatever_is_written_by_whom_all_come_to_the_same_value(steps):
    """And each, at every moment, reads what it wrote itself or what somebody else wrote."""
    with vanilla.Hub() as h, h.broker.listen("tcp://127.0.0.1:0") as broker:
        remotes = [h.client.connect(broker.urls[0]) for _ in range(3)]
        states = [remote.state("s") for remote in remotes]
        for number, (who, what) in enumerate(steps):
            if what == "send":
                states[who].send(number)
                assert states[who].recver._state.value == number
            elif what == "clear":
                states[who].clear()
            else:
                h.sleep(0)
        for state in states:
            state.sync()
        for remote in remotes:
            remote.ping()

        def values():
            return {repr(state.recver._state.value) for state in states}

        endpoint = broker.endpoints["s"]
        expected = repr(msgpack.unpackb(endpoint.value)) if endpoint.value is not None else "EMPTY"
        until(h, lambda: values() == {expected})
        for remote in remotes:
            remote.close()


@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_who_writes_and_goes_has_written_and_hears_no_warning(h, broker, caplog, way):
    with h.client.connect(broker.urls[0]) as other, other.state("s") as seen:
        with h.client.connect(broker.urls[0]) as remote:
            if way == "close":
                state = remote.state("s")
                state.send(1)
                state.close()
            elif way == "with":
                with remote.state("s") as state:
                    state.send(1)
            else:
                remote.state("s").send(1)
        assert seen.recv(timeout=PATIENCE) == 1
    assert caplog.text == ""


def attached(h, broker, count, name="s"):
    peer = Peer(h, broker.urls[0])
    for channel in range(1, count + 1):
        peer.open(channel, "state", f"{name}{channel}")
    settled(peer)
    return peer


def test_values_that_go_with_their_last_holder_take_no_memory_whatever_the_order(h):
    """A connection that is reset while its output is written goes at the edge, behind who looks for endpoints."""
    with h.broker.listen("tcp://127.0.0.1:0", memory=64 << 20) as broker:
        for _ in range(3):
            peer = attached(h, broker, 10)
            for channel in range(1, 11):
                peer.open(100 + channel, "state", f"s{channel}")
                peer.send(data(channel, 0, [bytes(100_000)]))
            settled(peer)
            peer.send(pack_control(PING) * 100)
            h.sleep(20)  # answers that are not read: to close is to reset
            peer.send(*[pack_control(CLOSE, 100 + channel) for channel in range(1, 11)])
            peer.close()
            until(h, lambda: not broker.endpoints)
            h.sleep(5)
            broker.memory.weigh()
            assert broker.memory.used < 10_000


def test_values_are_bounded_by_the_brokers_memory(h):
    with h.broker.listen("tcp://127.0.0.1:0", memory=8 << 20) as broker:
        peer = attached(h, broker, 20)
        refused = []
        for channel in range(1, 21):
            peer.send(data(channel, 0, [bytes(1_000_000)]))
            refused += [msgpack.unpackb(frame[4])[0]["code"] for frame in settled(peer) if frame[0] == ERROR]
        assert 10 <= len(refused) <= 14 and set(refused) == {"TOO_MANY"}
        assert broker.memory.used <= broker.memory.limit
        peer.send(data(1, 1, [b"less"]))
        assert ACK in [frame[0] for frame in settled(peer)]
        peer.close()


def test_a_value_that_is_written_often_stirs_its_holders_once_a_tick(h, broker, monkeypatch):
    stirred = []
    stir = Holder.stir
    monkeypatch.setattr(Holder, "stir", lambda holder: stirred.append(holder.session) or stir(holder))
    peer, other = Peer(h, broker.urls[0]), Peer(h, broker.urls[0])
    for each in peer, other:
        each.open(1, "state", "often")
        settled(each)
    stirred.clear()
    peer.send(b"".join(data(1, number, [number]) for number in range(100)))
    assert frames(other)[-1] == (DATA, [99])
    peer.send(data(1, 100, ["again"]))
    assert frames(other)[-1] == (DATA, ["again"])
    assert 2 <= max(map(stirred.count, stirred)) < 110  # its own, for each confirm; of the other one a tick
    assert min(map(stirred.count, stirred)) <= 5
    for each in peer, other:
        each.close()
