"""One suite for a state, wherever the other end is: on the Hub, over a Unix socket, TCP, TLS."""

from __future__ import annotations

import gc

import pytest
from lossy import between
from peers import PATIENCE, let_end, until

import vanilla


class Local:
    remote = False

    def __init__(self, h):
        self.h = h
        self.states = {}

    def __call__(self, name="s"):
        """Two who are attached to one state."""
        state = self.states.setdefault(name, self.h.state())
        return state, state


class Remote:
    remote = True

    def __init__(self, h, url, files, **options):
        self.broker = h.broker.listen(url, **options)
        self.near = h.client.connect(self.broker.urls[0], **files)
        self.far = h.client.connect(self.broker.urls[0], **files)

    def __call__(self, name="s"):
        return self.near.state(name), self.far.state(name)


def remote(kind, h, tmp_path, certs):
    if kind == "lossy":
        kind = between(h)
    if kind == "tls":
        return Remote(h, "tls://127.0.0.1:0", {"ca": certs.ca}, tls_cert=certs.server)
    return Remote(h, f"{kind}://127.0.0.1:0" if kind in ("tcp", "udp") else f"unix://{tmp_path}/broker.sock", {})


def make(h, kind, tmp_path, certs):
    if kind == "local":
        yield Local(h)
        return
    place = remote(kind, h, tmp_path, certs)
    yield place
    place.near.close()
    place.far.close()
    place.broker.close()


@pytest.fixture(params=["local", "unix", "tcp", "udp", "lossy", "tls"])
def place(request, h, tmp_path, certs):
    yield from make(h, request.param, tmp_path, certs)


@pytest.fixture(params=["unix", "tcp", "udp", "lossy", "tls"])
def remote_place(request, h, tmp_path, certs):
    yield from make(h, request.param, tmp_path, certs)


def becomes(h, state, value):
    """Wait until *state* has *value*."""

    def is_it():
        try:
            return state.recv(timeout=0) == value
        except vanilla.Timeout:
            return False

    until(h, is_it)


def is_empty(state):
    try:
        state.recv(timeout=0)
    except vanilla.Timeout:
        return True
    return False


def test_a_recv_waits_for_the_first_value(h, place):
    one, two = place()
    with pytest.raises(vanilla.Timeout):
        two.recv(timeout=20)
    task = h.spawn(two.recv)
    h.sleep(10)
    one.send("first")
    assert task.join(timeout=PATIENCE) == "first"


def test_all_read_the_value_and_none_takes_it_out(h, place):
    one, two = place()
    one.send({"a": [1, None]})
    for state in (one, two, one, two):
        assert state.recv(timeout=PATIENCE) == {"a": [1, None]}


def test_what_one_writes_one_reads_at_once(h, place):
    one, _ = place()
    for value in range(100):
        one.send(value)
        assert one.recv(timeout=0) == value


def test_the_last_value_comes_to_be_read_by_all(h, place):
    one, two = place()
    for value in range(100):
        one.send(value)
    becomes(h, two, 99)
    two.send("other way")
    becomes(h, one, "other way")


def test_the_last_writer_wins_and_all_agree(h, place):
    one, two = place()

    def write(state, who):
        for number in range(200):
            state.send([who, number])
            if number % 7 == 0:
                h.sleep(0)

    tasks = [h.spawn(write, one, "one"), h.spawn(write, two, "two")]
    for task in tasks:
        task.join(timeout=PATIENCE)
    until(h, lambda: one.recv(timeout=0) == two.recv(timeout=0))
    h.sleep(20)
    assert one.recv() == two.recv()
    assert one.recv()[1] == 199


def test_false_values_are_values(h, place):
    one, two = place()
    for value in (None, 0, "", False, b""):
        one.send(value)
        becomes(h, two, value)


def test_clear_empties_it_for_all(h, place):
    one, two = place()
    one.send("value")
    becomes(h, two, "value")
    one.clear()
    assert is_empty(one)
    until(h, lambda: is_empty(two))
    task = h.spawn(two.recv)
    h.sleep(10)
    assert not task.done
    one.send("again")
    assert task.join(timeout=PATIENCE) == "again"


def test_select_finds_the_state_that_has_a_value(h, place):
    (one, two), (_, quiet) = place(), place("quiet")
    h.spawn_later(20, one.send, "now")
    assert h.select([quiet.recver, two.recver], timeout=PATIENCE) == (two.recver, "now")
    assert h.select([quiet, two], timeout=PATIENCE) == (two, "now")
    assert h.select([one.sender], timeout=PATIENCE) == (one.sender, None)


def test_a_pipe_into_it_keeps_the_last(h, place):
    one, two = place()
    source = h.channel(10)
    source.recver.pipe(one.sender)
    for value in range(5):
        source.send(value)
    becomes(h, two, 4)


def test_a_closed_state_says_so(h, place):
    one, _ = place()
    one.close()
    one.close()
    with pytest.raises(vanilla.Closed):
        one.send(1)
    with pytest.raises(vanilla.Closed):
        one.recv()


def test_closing_wakes_who_waits(h, place):
    _, two = place()
    task = h.spawn(two.recv)
    h.sleep(10)
    two.close()
    with pytest.raises(vanilla.Closed):
        task.join(timeout=PATIENCE)


# -- where local and remote differ


def test_closing_a_remote_state_detaches_this_handle_only(h, remote_place):
    one, two = remote_place()
    one.send("stays")
    becomes(h, two, "stays")
    one.close()
    two.send("goes on")
    assert two.recv() == "goes on"


def test_dropping_one_end_of_a_remote_state_leaves_the_other(h, remote_place):
    one, two = remote_place()
    sender = one.sender
    recver = two.recver
    del one, two
    gc.collect()
    sender.send("value")
    becomes(h, recver, "value")
    del sender
    gc.collect()
    until(h, lambda: len(remote_place.broker.endpoints["s"].pushers) == 1)
    assert recver.recv() == "value"


def test_a_remote_value_stays_while_anybody_is_attached(h, remote_place):
    one, two = remote_place()
    one.send("stays")
    becomes(h, two, "stays")
    one.close()
    assert remote_place.near.state("s").recv(timeout=PATIENCE) == "stays"
    two.close()
    gc.collect()
    until(h, lambda: "s" not in remote_place.broker.endpoints)
    with pytest.raises(vanilla.Timeout):
        remote_place.near.state("s").recv(timeout=20)


def test_tuples_are_read_as_lists_by_their_writer_too(h, remote_place):
    one, two = remote_place()
    value = (1, [2])
    one.send(value)
    assert one.recv() == [1, [2]]
    value[1].append(3)
    assert one.recv() == [1, [2]]
    becomes(h, two, [1, [2]])


def test_what_cannot_be_sent_changes_nothing(h, remote_place):
    one, _ = remote_place()
    one.send("value")
    big = b"x" * (1 << 20)
    for bad, error in ({1}, TypeError), (ValueError("x"), TypeError), (1 << 70, ValueError), (big, ValueError):
        with pytest.raises(error):
            one.send(bad)
    assert one.recv() == "value"
    one.sync(timeout=PATIENCE)


def test_changes_tell_the_value_and_each_last_change(h, remote_place):
    one, two = remote_place()
    one.send(1)
    becomes(h, two, 1)
    changes = two.changes()
    assert changes.recv(timeout=PATIENCE) == 1
    with pytest.raises(vanilla.Timeout):
        changes.recv(timeout=20)
    one.send(2)
    assert changes.recv(timeout=PATIENCE) == 2
    for value in range(3, 50):
        one.send(value)
        h.sleep(0)
    becomes(h, two, 49)
    assert changes.recv(timeout=PATIENCE) == 49


def test_changes_keep_the_state_attached_until_they_are_dropped(h, remote_place):
    changes = remote_place.far.state("s").changes()
    gc.collect()
    remote_place.near.state("s").send(1)
    assert changes.recv(timeout=PATIENCE) == 1
    del changes
    gc.collect()
    until(h, lambda: "s" not in remote_place.broker.endpoints)


def test_sync_waits_until_the_broker_has_it(h, remote_place):
    one, _ = remote_place()
    for value in range(1000):
        one.send(value)
    one.sync(timeout=PATIENCE)
    assert remote_place.broker.endpoints["s"].value == b"\xcd\x03\xe7"
    with pytest.raises(vanilla.Timeout):
        one.send("more")
        one.sync(timeout=0)


def test_when_the_broker_goes_everybody_hears_it(h, remote_place):
    one, two = remote_place()
    one.send(1)
    changes = two.changes()
    assert changes.recv(timeout=PATIENCE) == 1
    waits = [h.spawn(changes.recv), h.spawn(remote_place.near.state("empty").recv)]
    h.sleep(10)
    let_end(remote_place.near, remote_place.far)
    remote_place.broker.close()
    for task in waits:
        with pytest.raises(vanilla.ConnectionLost):
            task.join(timeout=PATIENCE)
    with pytest.raises(vanilla.ConnectionLost):
        two.recv()
    with pytest.raises(vanilla.ConnectionLost):
        one.send(2)
        h.sleep(10)
        one.send(3)
