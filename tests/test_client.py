"""The client: what push and pull promise beyond the contract suite, and what happens when the broker goes."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import textwrap
import time

import msgpack
import pytest
from descriptors import open_descriptors
from peers import PATIENCE, Peer, data, until

import vanilla
from vanilla.broker.endpoint import LONE_FIRST_MESSAGES
from vanilla.client.lot import MOST
from vanilla.exception import Refused
from vanilla.outbox import Outbox
from vanilla.protocol.frames import CREDIT, OPEN


@pytest.fixture
def broker(h):
    with h.broker.listen("tcp://127.0.0.1:0", backoff_ms=10) as broker:
        yield broker


@pytest.fixture
def remote(h, broker):
    with h.client.connect(broker.urls[0]) as remote:
        yield remote


@pytest.fixture
def single(h, broker):
    """A connection that is lost when it is lost."""
    with h.client.connect(broker.urls[0], reconnect=False) as remote:
        yield remote


def accounts(broker, name="jobs"):
    endpoint = broker.endpoints[name]
    assert endpoint.balance == 0
    return endpoint


# -- connecting


def test_no_broker_is_connection_lost_with_the_address(h, broker):
    url = broker.urls[0]
    broker.close()
    with pytest.raises(vanilla.ConnectionLost, match=re.escape(url)):
        h.client.connect(url)


def test_a_timeout_that_is_no_time_is_refused_wherever_the_client_takes_one(h, broker, remote):
    nan, url = float("nan"), broker.urls[0]
    jobs = remote.push("jobs")
    jobs.send(1)
    for wait in (
        lambda: h.client.connect(url, timeout=nan),
        lambda: h.client.connect(url, linger=nan),
        lambda: jobs.sync(nan),
        lambda: remote.ping(nan),
        lambda: remote.status(nan),
        lambda: remote.close(linger=nan),
    ):
        with pytest.raises(ValueError, match="number of ms"):
            wait()
    jobs.sync(timeout=PATIENCE)
    assert remote.status(timeout=PATIENCE)["broker"]["connections"] == 1


def test_a_negative_linger_waits_for_ever(h, broker):
    remote = h.client.connect(broker.urls[0], linger=-1)
    jobs = remote.push("jobs")
    jobs.send(1)
    remote.close()
    assert jobs.unconfirmed == 0


def test_no_unix_socket_is_connection_lost(h, tmp_path):
    with pytest.raises(vanilla.ConnectionLost, match=r"none\.sock"):
        h.client.connect(f"unix://{tmp_path}/none.sock")


@pytest.mark.parametrize(
    "url", ["", "localhost:1", "http://localhost:1", "tcp://localhost", "tcp://:1", "unix://", "tcp://h:99999"]
)
def test_a_url_that_is_none_is_a_value_error(h, url):
    with pytest.raises(ValueError, match="://"):
        h.client.connect(url)


def test_a_server_that_never_answers_is_a_timeout(h):
    server = h.tcp.listen()
    with pytest.raises(vanilla.Timeout, match="no answer"):
        h.client.connect(f"tcp://127.0.0.1:{server.port}", timeout=50)


def test_a_server_that_is_no_broker_is_connection_lost(h):
    server = h.tcp.listen()
    h.spawn(lambda: server.recv().send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(vanilla.ConnectionLost, match="broke the protocol"):
        h.client.connect(f"tcp://127.0.0.1:{server.port}", timeout=PATIENCE)


def test_a_name_is_looked_up(h, broker):
    h.client.connect(broker.urls[0].replace("127.0.0.1", "localhost")).close()


def test_failed_connections_leave_no_descriptor(h, broker):
    url = broker.urls[0]
    broker.close()
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(vanilla.ConnectionLost):
            h.client.connect(url)
    assert open_descriptors() <= before


def test_closed_connections_leave_no_descriptor(h, broker):
    h.client.connect(broker.urls[0]).close()
    until(h, lambda: not broker.sessions)
    before = open_descriptors()
    for _ in range(20):
        h.client.connect(broker.urls[0]).close()
    until(h, lambda: not broker.sessions)
    assert open_descriptors() <= before


def test_link_and_events_tell_what_happens(h, broker):
    remote = h.client.connect(broker.urls[0], reconnect=False)
    assert remote.link.recv() == "connected"
    assert remote.events.recv().kind == "connected"
    h.spawn(broker.drain, 0)
    assert remote.events.recv(timeout=PATIENCE).kind == "going_away"
    assert remote.events.recv(timeout=PATIENCE).kind == "lost"
    assert remote.link.recv() == "lost"
    assert "is gone" in repr(remote) or "ended" in repr(remote)


def test_closing_is_told_too(h, remote):
    remote.close()
    assert remote.link.recv() == "closed"
    assert [remote.events.recv().kind for _ in range(2)] == ["connected", "closed"]


def test_events_that_nobody_reads_are_bounded(h, remote):
    for i in range(2_000):
        remote._notify("error", str(i))
    texts = [remote.events.recv().text for _ in range(1_000)]
    assert texts[0] == "1000"
    assert texts[-1] == "1999"


def test_ping_is_a_time_in_ms(remote):
    assert 0 < remote.ping() < PATIENCE


def test_status_is_paged_over_many_endpoints(h, remote):
    senders = [remote.push(f"queue {i:03}") for i in range(250)]
    senders[7].send(1)
    senders[7].sync()
    status = remote.status()
    assert [endpoint["name"] for endpoint in status["endpoints"]] == [f"queue {i:03}" for i in range(250)]
    assert status["endpoints"][7]["ready"] == 1
    assert status["broker"]["connections"] == 1


# -- pushing


def test_sync_waits_until_all_is_confirmed(h, broker, remote):
    jobs = remote.push("jobs")
    for i in range(1_000):
        jobs.send(i)
    assert jobs.unconfirmed > 0
    jobs.sync(timeout=PATIENCE)
    assert jobs.unconfirmed == 0
    assert accounts(broker).accepted == 1_000


def test_sync_may_time_out_and_be_tried_again(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send(1)
    with pytest.raises(vanilla.Timeout):
        jobs.sync(timeout=0)
    jobs.sync(timeout=PATIENCE)


def test_many_tasks_may_sync(h, remote):
    jobs = remote.push("jobs")
    for task in [h.spawn(lambda i=i: (jobs.send(i), jobs.sync())) for i in range(50)]:
        task.join(timeout=PATIENCE)
    assert jobs.unconfirmed == 0


def test_senders_of_one_endpoint_share_a_channel(h, broker, remote):
    one, two = remote.push("jobs"), remote.push("jobs")
    one.send(1)
    two.send(2)
    one.sync(timeout=PATIENCE)
    assert len(accounts(broker).pushers) == 1
    one.close()
    two.send(3)
    two.sync(timeout=PATIENCE)
    two.close()
    until(h, lambda: not accounts(broker).pushers)
    again = remote.push("jobs")
    again.send(4)
    again.sync(timeout=PATIENCE)
    assert accounts(broker).accepted == 4


def test_what_cannot_be_packed_takes_nothing_else_with_it(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    jobs.send(b"good 1")
    jobs.send({"good": 2})
    for bad, error in (
        (object(), TypeError),
        ({1, 2}, TypeError),
        (2**64, ValueError),
        ("\ud800", ValueError),
        (nest(65), ValueError),
    ):
        with pytest.raises(error):
            jobs.send(bad)
    jobs.send(b"good 3")
    assert [back.recv(timeout=PATIENCE) for _ in range(3)] == [b"good 1", {"good": 2}, b"good 3"]


def nest(depth):
    item = []
    for _ in range(depth - 1):
        item = [item]
    return item


def test_the_deepest_message_that_is_allowed_gets_through(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    jobs.send([nest(63), "x" * 100])
    assert back.recv(timeout=PATIENCE) == [nest(63), "x" * 100]


def test_bytes_are_immutable_but_bytearrays_are_taken_as_they_are_now(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    buffer = bytearray(b"before")
    jobs.send(b"first")
    jobs.send(buffer)
    buffer[:] = b"after!"
    assert [back.recv(timeout=PATIENCE) for _ in range(2)] == [b"first", b"before"]


def test_small_and_large_and_mixed_items_keep_their_order(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    items = [
        b"a",
        {"b": 1},
        b"c" * 40_000,
        b"d",
        "e" * 70_000,
        b"f" * 200_000,
        [b"g" * 65_536],
        b"h",
        b"i" * 31_999,
        b"j" * 65_531,
    ]
    task = h.spawn(lambda: [jobs.send(item) for item in items * 5])
    assert [back.recv(timeout=PATIENCE) for _ in range(50)] == items * 5
    task.join()


def test_datetimes_travel(h, remote):
    from datetime import datetime, timezone

    jobs, back = remote.push("jobs"), remote.pull("jobs")
    now = datetime.now(timezone.utc)
    jobs.send(now)
    assert back.recv(timeout=PATIENCE) == now


def test_a_message_over_the_limit_is_refused_here_and_the_connection_goes_on(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    limit = broker.options.frame_bytes - 21
    with pytest.raises(ValueError, match="too big"):
        jobs.send(b"x" * (limit - 4))
    jobs.send(b"y" * (limit - 5))
    assert len(back.recv(timeout=PATIENCE)) == limit - 5


def test_the_broker_may_have_a_small_limit(h):
    with h.broker.listen("tcp://127.0.0.1:0", frame_bytes=4096) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs, back = remote.push("jobs"), remote.pull("jobs")
        items = [bytes([i % 256]) * (i * 7 % 4000) for i in range(1_000)]
        task = h.spawn(lambda: [jobs.send(item) for item in items])
        assert [back.recv(timeout=PATIENCE) for _ in items] == items
        task.join()


def test_a_bad_name_is_refused_here(remote):
    for name in ("", "x" * 256, "a\tb", "\ud800", 5, None):
        with pytest.raises(ValueError, match="name"):
            remote.push(name)
        with pytest.raises(ValueError, match="name"):
            remote.pull(name)


def test_what_the_broker_refuses_is_raised_at_the_next_call(h):
    with h.broker.listen("tcp://127.0.0.1:0", channels=1) as broker, h.client.connect(broker.urls[0]) as remote:
        first = remote.push("a")
        first.sync()
        refused = remote.pull("b")
        with pytest.raises(Refused, match="at most 1 channels"):
            refused.recv(timeout=PATIENCE)
        pushed = remote.push("c")
        with pytest.raises(Refused, match="TOO_MANY"):
            pushed.send(1, timeout=PATIENCE)
        remote.ping()


def test_flush_sends_what_waits_for_its_batch(h, broker, remote):
    jobs = remote.push("jobs")
    h.sleep(10)
    jobs.send(b"leaves at once")
    jobs.send(b"waits")
    jobs.flush()
    with h.client.connect(broker.urls[0]) as other:
        back = other.pull("jobs")
        assert [back.recv(timeout=PATIENCE) for _ in range(2)] == [b"leaves at once", b"waits"]


def test_the_first_send_after_a_pause_leaves_at_once(h, broker):
    """Without a turn of the loop: the producer may compute for a minute next."""
    peer_side = h.tcp.listen()
    connected = h.spawn(h.client.connect, f"tcp://127.0.0.1:{peer_side.port}")
    conn = peer_side.recv()
    conn.recver.recv_n(26, timeout=PATIENCE)
    from vanilla.protocol.frames import HELLO, pack_control

    conn.send(pack_control(HELLO, 0, 0, {"v": 1, "id": b"b" * 16, "frame": 1 << 20}))
    remote = connected.join(timeout=PATIENCE)
    jobs = remote.push("jobs")
    h.sleep(5)
    conn.send(pack_control(OPEN, 1, 0) + pack_control(CREDIT, 1, 0, {"n": 100, "b": 100_000, "epoch": 0}))
    h.sleep(5)
    sock = remote._link.sock
    before = sent_bytes(sock)
    jobs.send(b"now")
    assert sent_bytes(sock) > before
    before = sent_bytes(sock)
    jobs.send(b"with the next batch")
    assert sent_bytes(sock) == before
    remote.close(linger=0)


def sent_bytes(sock):
    """How much a TCP socket has sent, as the kernel tells."""
    import socket
    import struct

    info = sock.getsockopt(socket.IPPROTO_TCP, 11, 232)
    return struct.unpack_from("Q", info, 200)[0]  # tcpi_bytes_sent


def test_unused_credit_goes_back_when_idle(h, broker, remote, monkeypatch):
    from vanilla.client import push

    monkeypatch.setattr(push, "IDLE_MS", 20)
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    for i in range(5_000):
        jobs.send(i)
        back.recv(timeout=PATIENCE)
    assert accounts(broker).granted_n > 2 * LONE_FIRST_MESSAGES
    # As to a new producer that has begun to send.
    until(h, lambda: accounts(broker).granted_n <= 2 * LONE_FIRST_MESSAGES)
    jobs.send("goes on")
    assert back.recv(timeout=PATIENCE) == "goes on"


def test_leaving_with_waits_for_confirms(h, broker):
    with h.client.connect(broker.urls[0]) as remote, remote.push("jobs") as jobs:
        for i in range(100):
            jobs.send(i)
    assert accounts(broker).accepted == 100


def test_closing_says_what_is_left_when_the_broker_does_not_confirm(h, caplog):
    server = h.tcp.listen()
    connected = h.spawn(h.client.connect, f"tcp://127.0.0.1:{server.port}", linger=50)
    conn = server.recv()
    from vanilla.protocol.frames import HELLO, pack_control

    conn.send(pack_control(HELLO, 0, 0, {"v": 1, "id": b"b" * 16, "frame": 1 << 20}))
    remote = connected.join(timeout=PATIENCE)
    jobs = remote.push("jobs")
    conn.send(pack_control(CREDIT, 1, 0, {"n": 100, "b": 100_000, "epoch": 0}))
    jobs.send(1, timeout=PATIENCE)
    jobs.send(2)
    remote.close()
    assert "unconfirmed messages to 'jobs': 2 (" in caplog.text


def run(code, *args):
    """Run a Python program; (exit status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def in_thread(h, f, *args):
    """Run *f* in a thread, while the hub, and the broker in it, go on."""
    return h.thread.call(f, *args).recv(timeout=60_000)


def test_the_interpreters_exit_sends_and_confirms_what_is_left(h, broker):
    code = """
        import sys, vanilla
        jobs = vanilla.Hub().client.connect(sys.argv[1]).push("jobs")
        for i in range(1000):
            jobs.send(b"%d" % i)
    """
    status, out, err = in_thread(h, run, code, broker.urls[0])
    assert (status, out, err) == (0, "", "")
    assert accounts(broker).accepted == 1_000


def test_an_uncaught_exception_still_sends_what_was_taken(h, broker):
    code = """
        import sys, vanilla
        jobs = vanilla.Hub().client.connect(sys.argv[1]).push("jobs")
        jobs.send(1)
        jobs.send(2)
        raise SystemExit(3)
    """
    assert in_thread(h, run, code, broker.urls[0])[0] == 3
    assert accounts(broker).accepted == 2


def test_tasks_that_wait_on_one_end_all_go_on_beside_an_idle_producer(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=20) as broker, h.client.connect(broker.urls[0]) as remote:
        idle = Peer(h, broker.urls[0])
        idle.open(1, "push", "jobs")
        idle.want(1, n=16, b=1000)
        idle.expect(CREDIT)
        jobs, back = remote.push("jobs"), remote.pull("jobs")
        for task in [h.spawn(jobs.send, i) for i in range(30)]:
            h.spawn(back.recv)
            task.join(timeout=PATIENCE)
        idle.close()


def test_a_large_send_that_timed_out_does_not_silence_the_next(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity_bytes=1 << 20) as broker:
        with h.client.connect(broker.urls[0]) as remote, h.client.connect(broker.urls[0]) as other:
            filler, jobs, back = other.push("jobs"), remote.push("jobs"), remote.pull("jobs")
            with pytest.raises(vanilla.Timeout):
                while True:
                    filler.send(b"x" * 50_000, timeout=50)
            with pytest.raises(vanilla.Timeout):
                jobs.send(b"x" * 700_000, timeout=20)
            jobs.send(b"small", timeout=PATIENCE)
            while back.recv(timeout=PATIENCE) != b"small":
                pass
            jobs.send(b"x" * 700_000, timeout=PATIENCE)


def test_when_the_first_of_those_who_wait_gives_up_the_next_goes_on(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity_bytes=300_000) as broker:
        with h.client.connect(broker.urls[0]) as remote, h.client.connect(broker.urls[0]) as other:
            filler, jobs = other.push("jobs"), remote.push("jobs")
            for _ in range(4):
                filler.send(b"x" * 50_000)
            filler.sync(timeout=PATIENCE)
            large = h.spawn(jobs.send, b"x" * 290_000, 100)
            small = h.spawn(jobs.send, b"small")
            with pytest.raises(vanilla.Timeout):
                large.join(timeout=PATIENCE)
            small.join(timeout=PATIENCE)


def test_select_without_waiting_finds_room_that_it_asked_for(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=4) as broker, h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")

        def ready():
            try:
                return h.select([jobs], timeout=0) == (jobs, None)
            except vanilla.Timeout:
                return False

        until(h, ready)


def test_closing_the_state_of_a_connection_disturbs_nothing(h, broker):
    remote = h.client.connect(broker.urls[0])
    remote.link.close()
    remote.close()


# -- pulling


def test_closing_a_connection_is_no_failed_attempt(h, broker, remote):
    remote.push("jobs").send("patient")
    for _ in range(6):
        with h.client.connect(broker.urls[0]) as other, pytest.raises(vanilla.Timeout):
            back = other.pull("jobs")
            with pytest.raises(vanilla.Timeout):
                back.recv(timeout=0)
            until(h, lambda: accounts(broker).flight_n == 1)
            raise vanilla.Timeout
        until(h, lambda: accounts(broker).ready_n == 1)
    delivery = remote.pull("jobs", ack=True).recv(timeout=PATIENCE)
    assert (delivery.item, delivery.redelivered, delivery.attempts) == ("patient", False, 1)


def test_a_dropped_end_is_closed_without_another_reason_to_wake(h, broker):
    code = """
        import gc, sys, vanilla
        h = vanilla.Hub()
        remote = h.client.connect(sys.argv[1])
        back = remote.pull("jobs", prefetch=5)
        back.recv()
        del back
        gc.collect()
        print("dropped", flush=True)
        h.sleep(3_600_000)
    """
    with h.client.connect(broker.urls[0]) as remote:
        jobs = remote.push("jobs")
        for i in range(5):
            jobs.send(i)
        jobs.sync(timeout=PATIENCE)
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), broker.urls[0]], stdout=subprocess.PIPE, text=True
        )
        try:
            assert in_thread(h, child.stdout.readline) == "dropped\n"
            until(h, lambda: accounts(broker).ready_n == 4)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def test_plain_recv_acknowledges_what_was_handed_out(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    for i in range(10):
        jobs.send(i)
    for _ in range(7):
        back.recv(timeout=PATIENCE)
    until(h, lambda: accounts(broker).acknowledged == 7)


def test_nothing_is_asked_for_until_somebody_receives(h, broker, remote):
    jobs = remote.push("jobs")
    back = remote.pull("jobs")
    jobs.send(1)
    jobs.sync()
    h.sleep(20)
    assert accounts(broker).ready_n == 1
    back.recv(timeout=PATIENCE)


def test_what_arrives_after_a_timeout_goes_back(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    with pytest.raises(vanilla.Timeout):
        back.recv(timeout=10)
    jobs.send("for somebody")
    jobs.sync(timeout=PATIENCE)
    until(h, lambda: accounts(broker).flight_n == 1)
    until(h, lambda: accounts(broker).ready_n == 1)
    other = remote.pull("jobs", ack=True)
    delivery = other.recv(timeout=PATIENCE)
    assert (delivery.item, delivery.redelivered, delivery.attempts) == ("for somebody", False, 1)
    delivery.ack()


def test_prefetched_items_go_back_in_order_when_the_end_is_closed(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", prefetch=10)
    for i in range(20):
        jobs.send(i)
    assert back.recv(timeout=PATIENCE) == 0
    until(h, lambda: accounts(broker).flight_n >= 9)
    back.close()
    until(h, lambda: accounts(broker).flight_n == 0)
    other = remote.pull("jobs", ack=True)
    deliveries = [other.recv(timeout=PATIENCE) for _ in range(19)]
    assert [delivery.item for delivery in deliveries] == list(range(1, 20))
    assert not any(delivery.redelivered for delivery in deliveries)


def test_a_fixed_prefetch_is_what_is_asked_for(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", prefetch=3, ack=True)
    for i in range(10):
        jobs.send(i)
    back.recv(timeout=PATIENCE)
    until(h, lambda: accounts(broker).flight_n >= 3)
    assert accounts(broker).flight_n <= 4


def test_slow_consumers_do_not_hoard(h, broker, remote):
    jobs = remote.push("jobs")
    for i in range(100):
        jobs.send(i)
    slow, done = remote.pull("jobs"), []

    def work():
        for _ in range(3):
            done.append(slow.recv())
            h.sleep(50)
            assert accounts(broker).flight_n <= 2
        slow.close()

    h.spawn(work).join(timeout=PATIENCE)
    assert done == [0, 1, 2]


def test_a_fast_consumer_gets_ever_larger_windows(h, broker, remote):
    jobs = remote.push("jobs")
    task = h.spawn(lambda: [jobs.send(b"x") for _ in range(50_000)])
    back = remote.pull("jobs")
    for _ in range(50_000):
        back.recv(timeout=PATIENCE)
    task.join()
    assert back._state.window.size > 100


def test_window_bounds_what_is_unsettled(h, broker, remote):
    jobs = remote.push("jobs")
    for i in range(50):
        jobs.send(b"%02d" % i + b"x" * 998)
    back = remote.pull("jobs", ack=True, window=10_000, prefetch=40)
    held = [back.recv(timeout=PATIENCE) for _ in range(10)]
    with pytest.raises(vanilla.Timeout):
        back.recv(timeout=50)
    assert accounts(broker).flight_n == 10
    for delivery in held:
        delivery.ack()
    for _ in range(40):
        back.recv(timeout=PATIENCE).ack()
    until(h, lambda: accounts(broker).acknowledged == 50)


def test_byte_windows_never_run_out_over_time(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True, window=3_000)
    task = h.spawn(lambda: [jobs.send(b"x" * (i % 700)) for i in range(3_000)])
    for i in range(3_000):
        with back.recv(timeout=PATIENCE) as delivery:
            assert len(delivery.item) == i % 700
    task.join()
    until(h, lambda: back._state.done_b == back._state.arrived_b)


def test_a_delivery_is_acknowledged_or_refused_by_with(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True)
    jobs.send("job")
    with pytest.raises(ZeroDivisionError), back.recv(timeout=PATIENCE) as delivery:
        raise ZeroDivisionError
    assert delivery.settled
    with back.recv(timeout=PATIENCE) as again:
        assert (again.item, again.redelivered, again.attempts) == ("job", True, 2)
    until(h, lambda: accounts(broker).acknowledged == 1)
    again.ack()
    again.nack()
    assert again.settled


def test_deliveries_may_be_settled_in_any_order(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True)
    for i in range(100):
        jobs.send(i)
    deliveries = [back.recv(timeout=PATIENCE) for _ in range(100)]
    for delivery in deliveries[::2]:
        delivery.ack()
    for delivery in reversed(deliveries[1::2]):
        delivery.nack(delay=0)
    rest = [back.recv(timeout=PATIENCE) for _ in range(50)]
    assert sorted(delivery.item for delivery in rest) == list(range(1, 100, 2))
    assert all(delivery.redelivered for delivery in rest)
    for delivery in rest:
        delivery.ack()
    until(h, lambda: accounts(broker).acknowledged == 100)


@pytest.mark.parametrize("order", [reversed, lambda held: held[1::2] + held[::2]], ids=["backwards", "every other"])
def test_deliveries_of_many_frames_are_settled_as_they_are_acknowledged(h, broker, remote, order):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True, prefetch=100)
    for i in range(100):
        jobs.send(b"x" * i)
        if not i % 7:
            jobs.flush()  # a frame
    held = [back.recv(timeout=PATIENCE) for _ in range(100)]
    for delivery in order(held):
        assert not delivery.settled
        delivery.ack()
        assert delivery.settled
    until(h, lambda: accounts(broker).acknowledged == 100)
    assert back._state.done_b == back._state.arrived_b


def test_however_many_deliveries_come_at_a_call_a_lot_is_small(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True, prefetch=2_000)
    jobs.send_many(range(2_000))
    jobs.sync()
    held = back.recv_many(2_000, timeout=PATIENCE)
    while len(held) < 2_000:
        held += back.recv_many(2_000, timeout=PATIENCE)
    lots = [delivery._lot for delivery in held]
    assert max(map(lots.count, set(lots))) <= MOST
    for delivery in held:
        delivery.ack()


def test_acknowledgements_leave_while_their_consumer_never_waits(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True, prefetch=10)
    for i in range(10):
        jobs.send(i)
    held = [back.recv(timeout=PATIENCE) for _ in range(10)]
    out = back._state.link.out
    back._state.due = float("inf")
    held[0].ack()
    assert not out
    written = []
    back._state.link.flush = lambda: written.append(out.unsent)
    held[1].ack()
    assert not out
    back._state.due = 0.0  # the first of them is old
    held[2].ack()
    assert written == [out.unsent] and out
    assert back._state.due > 0
    del back._state.link.flush
    until(h, lambda: accounts(broker).acknowledged == 3)


def test_of_a_load_that_is_half_acknowledged_the_rest_says_that_the_broker_is_gone(h, broker, remote):
    jobs = remote.push("jobs")
    other = h.client.connect(broker.urls[0], reconnect=False)
    back = other.pull("jobs", ack=True, prefetch=100)
    jobs.send_many(range(10))
    held = [back.recv(timeout=PATIENCE) for _ in range(10)]
    assert held[0]._lot is held[9]._lot
    back._state.due = float("inf")
    held[0].ack()
    other._link.lost("found by a write")
    for delivery in held[1:]:
        with pytest.raises(vanilla.ConnectionLost):
            delivery.ack()
        assert delivery.settled


def test_what_is_acknowledged_as_its_recver_closes_is_not_delivered_again(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True, prefetch=100)
    jobs.send_many(range(10))
    held = [back.recv(timeout=PATIENCE) for _ in range(10)]
    back._state.due = float("inf")
    held[7].ack()
    held[3].ack()
    back.close()
    with pytest.raises(vanilla.Closed):
        held[4].ack()
    again = remote.pull("jobs", ack=True)
    assert [again.recv(timeout=PATIENCE).item for _ in range(8)] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert accounts(broker).acknowledged == 2


def test_a_delay_must_not_be_negative(h, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=True)
    jobs.send(1)
    delivery = back.recv(timeout=PATIENCE)
    with pytest.raises(ValueError, match="0 ms"):
        delivery.nack(delay=-1)
    delivery.ack()


def test_unsettled_deliveries_of_a_lost_consumer_go_to_another(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send("job")
    other = h.client.connect(broker.urls[0], reconnect=False)
    back = other.pull("jobs", ack=True)
    held = back.recv(timeout=PATIENCE)
    other._link.sock.shutdown(2)
    delivery = remote.pull("jobs", ack=True).recv(timeout=PATIENCE)
    assert (delivery.item, delivery.redelivered, delivery.attempts) == ("job", True, 2)
    with pytest.raises(vanilla.ConnectionLost):
        held.ack()


def test_consume_acknowledges_after_the_work_is_done(h, broker, remote):
    jobs = remote.push("jobs")
    started, go = h.channel(1), h.channel()

    def work(item):
        started.send(item)
        go.recv()

    remote.pull("jobs").consume(work)
    jobs.send("job")
    started.recv(timeout=PATIENCE)
    h.sleep(20)
    assert accounts(broker).acknowledged == 0
    go.send(None)
    until(h, lambda: accounts(broker).acknowledged == 1)


def test_consume_redelivers_what_raised_and_gives_up_after_five(h, broker, remote, caplog):
    jobs, seen = remote.push("jobs"), []

    def work(item):
        seen.append(item)
        if item == "poison":
            raise ValueError("cannot")

    remote.pull("jobs").consume(work)
    jobs.send("poison")
    jobs.send("fine")
    assert remote.pull("jobs.dead").recv(timeout=PATIENCE) == "poison"
    assert sorted(seen) == ["fine"] + ["poison"] * 5


def test_a_consumed_end_belongs_to_its_consumer(h, remote):
    back = remote.pull("jobs")
    back.consume(print)
    with pytest.raises(vanilla.Busy):
        back.recv()
    with pytest.raises(vanilla.Busy):
        h.select([back])
    with pytest.raises(vanilla.Busy):
        back.consume(print)


def test_a_cancelled_consumer_gives_its_item_back(h, broker, remote):
    jobs, started = remote.push("jobs"), h.channel(1)

    def work(item):
        started.send(item)
        h.sleep(60_000)

    task = remote.pull("jobs").consume(work)
    jobs.send("job")
    started.recv(timeout=PATIENCE)
    task.cancel()
    delivery = remote.pull("jobs", ack=True).recv(timeout=PATIENCE)
    assert (delivery.item, delivery.redelivered) == ("job", True)


def test_what_another_thread_never_closed_is_told_at_exit(broker):
    program = """
        import threading, vanilla
        def work():
            global jobs
            jobs = vanilla.Hub().client.connect(URL).push("jobs")
            for number in range(5000):
                jobs.send({"id": number})
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    program = textwrap.dedent(program).replace("URL", repr(broker.urls[0]))
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    until(broker.hub, lambda: process.poll() is not None)
    with process.stderr as stderr:
        assert "never closed by its thread; unconfirmed messages: " in stderr.read()


def test_a_receive_after_close_tells_the_broker_nothing(h, broker, remote):
    jobs = remote.push("jobs")
    jobs.send_many(range(50))
    jobs.sync()
    back = remote.pull("jobs", prefetch=20)
    for number in back:
        if number == 1:
            back.close()
    with pytest.raises(vanilla.Closed):
        back.recv()
    remote.ping(PATIENCE)
    assert accounts(broker).acknowledged == 2
    assert remote.pull("jobs").recv(timeout=PATIENCE) == 2


def test_what_one_end_has_not_loaded_survives_that_another_end_reads(h, broker, remote):
    first, second = remote.pull("first", prefetch=1000), remote.pull("second")
    items = [f"item {number}" for number in range(1000)]
    with h.client.connect(broker.urls[0]) as other:
        other.push("first").send_many(items)
        found = [first.recv(timeout=PATIENCE)]
        other.push("second").send("x" * 50_000)
        assert second.recv(timeout=PATIENCE)
        found += [first.recv(timeout=PATIENCE) for _ in items[1:]]
    assert found == items


def test_closers_run_when_the_read_is_over_that_ended_their_channel(h, broker, single):
    jobs, link = single.push("jobs"), single._link
    seen = []
    jobs.onclose(lambda: seen.append(link._reading))
    broker.close()
    until(h, lambda: seen)
    assert seen == [False]


def test_nothing_is_taken_once_a_write_has_found_the_broker_gone(h, broker, single):
    jobs = single.push("jobs")
    jobs.send(b"first")
    jobs.sync()
    h.sleep(10)
    single._link.sock.shutdown(socket.SHUT_WR)  # the next write is EPIPE
    sent = 0
    with pytest.raises(vanilla.ConnectionLost):
        while True:
            jobs.send(b"item")
            sent += 1
    assert jobs.unconfirmed == sent == 1


def test_an_end_on_which_a_task_waits_cannot_be_consumed(h, broker, remote):
    back = remote.pull("jobs")
    task = h.spawn(back.recv)
    h.sleep(10)
    with pytest.raises(vanilla.exception.Busy, match="in use already"):
        back.consume(print)
    remote.push("jobs").send("plain")
    assert task.join() == "plain"


def test_an_end_that_has_received_before_may_be_consumed(h, broker, remote):
    back = remote.pull("jobs")
    remote.push("jobs").send(1)
    assert back.recv(timeout=PATIENCE) == 1
    got = []
    task = back.consume(got.append)
    remote.push("jobs").send(2)
    until(h, lambda: accounts(broker).acknowledged == 2)
    assert got == [2]
    task.cancel()


BAD_UTF8 = b"\xa2\xff\xff"
LIST_AS_KEY = b"\x81\x90\x01"
FAR_FUTURE = b"\xc7\x0c\xff" + b"\0\0\0\0" + (1 << 62).to_bytes(8, "big")


@pytest.mark.parametrize("ack", [False, True])
@pytest.mark.parametrize("bad", [BAD_UTF8, LIST_AS_KEY, FAR_FUTURE])
def test_what_python_cannot_decode_spoils_nothing_else(h, broker, remote, bad, ack):
    from vanilla.protocol.frames import DATA, pack_head

    back = remote.pull("jobs", ack=ack)
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.expect(CREDIT)
    body = bad + b"\x01" + bad + bad + b"\x02\x03" + bad
    peer.send(pack_head(DATA, 1, 0, 7, len(body)) + body)
    got = []
    for _ in range(3):
        item = back.recv(timeout=PATIENCE)
        got.append(item.item if ack else item)
        if ack:
            item.ack()
    assert got == [1, 2, 3]
    until(h, lambda: accounts(broker).acknowledged == 3)
    peer.send(data(1, 7, ["goes on"]))
    item = back.recv(timeout=PATIENCE)
    assert (item.item if ack else item) == "goes on"
    until(h, lambda: accounts(broker).dead == 4)
    assert accounts(broker, "jobs.dead").ready_n == 4
    peer.close()


@pytest.mark.parametrize("ack", [False, True])
def test_recv_many_passes_over_what_cannot_be_decoded(h, broker, remote, ack):
    from vanilla.protocol.frames import DATA, pack_head

    back = remote.pull("jobs", ack=ack, prefetch=200)
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.expect(CREDIT)
    bodies = [BAD_UTF8 if number in (20, 21, 99) else bytes([number]) for number in range(100)]
    peer.send(pack_head(DATA, 1, 0, 100, sum(map(len, bodies))) + b"".join(bodies))
    got = []
    while len(got) < 97:
        got += back.recv_many(100_000, timeout=PATIENCE)
    if ack:
        [delivery.ack() for delivery in got]
        got = [delivery.item for delivery in got]
    assert got == [number for number in range(99) if number not in (20, 21)]
    until(h, lambda: (accounts(broker).acknowledged, accounts(broker).dead) == (97, 3))
    peer.close()


@pytest.mark.parametrize("ack", [False, True])
def test_what_a_lost_connection_takes_back_is_not_handed_out_by_recv_many(h, broker, remote, monkeypatch, ack):
    """It writes what is to be acknowledged before it decodes more: so it hears of the loss in time."""
    jobs, back = remote.push("jobs"), remote.pull("jobs", ack=ack, prefetch=50)
    jobs.send_many(range(30))

    def take():
        item = back.recv(timeout=PATIENCE)
        if ack:
            item.ack()
            return item.item
        return item

    assert take() == 0
    state, write = back._state, Outbox.write
    until(h, lambda: state.arrived == 30 and accounts(broker).acknowledged == 1)

    def broken(self, sock):
        if self is not remote._link.out:
            return write(self, sock)
        monkeypatch.setattr(Outbox, "write", write)
        raise ConnectionResetError

    state.due = float("inf")
    while state.buffer:
        take()
    state.due = 0.0  # as if that had taken more than a millisecond: to acknowledge these cannot wait
    assert state.loaded < 30
    monkeypatch.setattr(Outbox, "write", broken)
    got = []
    while len(got) < 29:
        got += back.recv_many(100_000, timeout=PATIENCE)
    assert [each.item if ack else each for each in got] == list(range(1, 30))
    with pytest.raises(vanilla.Timeout):
        back.recv(timeout=0)


def test_only_undecodable_messages_do_not_stall_a_receiver(h, broker, remote):
    from vanilla.protocol.frames import DATA, pack_head

    back = remote.pull("jobs")
    task = h.spawn(back.recv)
    peer = Peer(h, broker.urls[0])
    peer.open(1, "push", "jobs")
    peer.expect(CREDIT)
    for seq in range(5):
        peer.send(pack_head(DATA, 1, seq, 1, 3) + BAD_UTF8)
    peer.send(data(1, 5, ["good"]))
    assert task.join(timeout=PATIENCE) == "good"
    peer.close()


def test_odd_map_keys_are_fine(h, broker, remote):
    jobs, back = remote.push("jobs"), remote.pull("jobs")
    jobs.send({1: "a", b"b": 2, None: 3, 1.5: 4})
    assert back.recv(timeout=PATIENCE) == {1: "a", b"b": 2, None: 3, 1.5: 4}


def test_options_of_a_pull_are_checked(remote):
    with pytest.raises(ValueError, match="prefetch"):
        remote.pull("jobs", prefetch=-1)
    with pytest.raises(ValueError, match="window"):
        remote.pull("jobs", window=0)


# -- the broker goes


def test_everything_blocked_gets_connection_lost_at_once(h, broker):
    remote = h.client.connect(broker.urls[0], reconnect=False)
    jobs, back, full = remote.push("jobs"), remote.pull("empty"), remote.push("full")
    full._state.quota.limit_n = 0
    jobs.send(1)
    jobs.sync(timeout=PATIENCE)
    until(h, lambda: jobs._state.quota.left_n > 0)

    def lost(f, *args):
        with pytest.raises(vanilla.ConnectionLost, match=r"127\.0\.0\.1"):
            f(*args)

    def iterate():
        for _ in back:
            pass

    broker._unhook()  # the broker falls silent
    tasks = [
        h.spawn(lost, f, *args)
        for f, args in [
            (back.recv, ()),
            (iterate, ()),
            (h.select, ([back],)),
            (jobs.sync, ()),
            (remote.status, ()),
            (remote.ping, ()),
        ]
    ]
    jobs.send(2)
    h.sleep(20)
    assert not any(task.done for task in tasks[:3])
    for session in list(broker.sessions):
        session.drop("test")
    for task in tasks:
        task.join(timeout=PATIENCE)
    for f in (lambda: jobs.send(3), back.recv, lambda: remote.push("x"), lambda: remote.pull("x"), remote.status):
        with pytest.raises(vanilla.ConnectionLost):
            f()
    assert jobs.unconfirmed == 1
    jobs.close()
    remote.close()


def test_a_sender_blocked_on_a_full_queue_gets_connection_lost(h):
    with h.broker.listen("tcp://127.0.0.1:0", capacity=2) as broker:
        remote = h.client.connect(broker.urls[0], reconnect=False)
        jobs = remote.push("jobs")
        jobs.send(1)
        jobs.send(2)
        tasks = [h.spawn(jobs.send, 3), h.spawn(h.select, [jobs])]
        h.sleep(20)
        assert not any(task.done for task in tasks)
        broker.close()
        for task in tasks:
            with pytest.raises(vanilla.ConnectionLost):
                task.join(timeout=PATIENCE)


def test_prefetched_items_of_a_lost_connection_are_not_handed_out(h, broker, remote):
    """They are the broker's again, and go to others."""
    jobs = remote.push("jobs")
    other = h.client.connect(broker.urls[0], reconnect=False)
    back = other.pull("jobs", prefetch=10)
    for i in range(10):
        jobs.send(i)
    back.recv(timeout=PATIENCE)
    until(h, lambda: accounts(broker).flight_n == 9)
    other._link.sock.shutdown(2)
    h.sleep(20)
    with pytest.raises(vanilla.ConnectionLost):
        back.recv()


def test_a_broker_that_is_found_gone_while_items_are_loaded_is_connection_lost(h, broker, remote):
    jobs = remote.push("jobs")
    other = h.client.connect(broker.urls[0], reconnect=False)
    back = other.pull("jobs", prefetch=10)
    for i in range(10):
        jobs.send(i)
    back.recv(timeout=PATIENCE)
    until(h, lambda: back._state.arrived == 10)
    other._link.flush = lambda: other._link.lost("found by a write")
    back._state.due = 0.0  # so the next load writes acknowledgements
    with pytest.raises(vanilla.ConnectionLost, match="found by a write"):
        for _ in range(10):
            back.recv(timeout=0)


# -- fork


def test_a_forked_child_gets_a_clear_error_and_harms_nothing(h, broker):
    code = """
        import os, sys, vanilla
        h = vanilla.Hub()
        remote = h.client.connect(sys.argv[1])
        jobs, back = remote.push("jobs"), remote.pull("jobs")
        jobs.send(b"from the parent")
        jobs.send(b"still in the buffer")
        pid = os.fork()
        if not pid:
            said = []
            calls = lambda: jobs.send(b"lost"), back.recv, jobs.sync, lambda: remote.push("x"), lambda: h.sleep(1)
            for f in calls:
                try:
                    f()
                except vanilla.Forked as error:
                    said.append(str(os.getppid()) in str(error))
            print(said, flush=True)
            sys.exit(0)
        os.waitpid(pid, 0)
        jobs.sync(timeout=5000)
        print([back.recv(timeout=5000) for _ in range(2)])
    """
    status, out, err = in_thread(h, run, code, broker.urls[0])
    assert (status, err) == (0, "")
    assert out.splitlines() == [str([True] * 5), "[b'from the parent', b'still in the buffer']"]
    until(h, lambda: broker.totals.accepted == 2)


def test_a_child_may_connect_anew(h, broker):
    code = """
        import os, sys, vanilla
        h = vanilla.Hub()
        h.client.connect(sys.argv[1]).push("jobs").send(1)
        pid = os.fork()
        if not pid:
            with vanilla.Hub() as h, h.client.connect(sys.argv[1]) as remote:
                remote.push("jobs").send(2)
            sys.exit(0)
        os.waitpid(pid, 0)
    """
    status, out, err = in_thread(h, run, code, broker.urls[0])
    assert (status, out, err) == (0, "", "")
    assert accounts(broker).accepted == 2


def test_the_wire_is_what_msgpack_reads(h, broker, remote):
    """What a client sends can be read with two calls of any msgpack library."""
    server = h.tcp.listen()
    h.spawn(lambda: h.client.connect(f"tcp://127.0.0.1:{server.port}", timeout=500))
    frame = server.recv().recver.recv(timeout=PATIENCE)
    kind, channel, seq, (fields,) = msgpack.unpackb(msgpack.unpackb(frame))
    assert (kind, channel, seq, fields["v"]) == (0x20, 0, 0, 1)


@pytest.mark.parametrize("way", ["sent", "gave up"])
def test_an_idle_producer_of_a_small_queue_leaves_its_room_to_others(h, broker, monkeypatch, way):
    from vanilla.client import push

    monkeypatch.setattr(push, "IDLE_MS", 20)
    with h.client.connect(broker.urls[0]) as one, h.client.connect(broker.urls[0]) as other:
        one.declare("small", capacity=1)
        idle, busy, back = one.push("small"), other.push("small"), other.pull("small")
        (idle if way == "sent" else busy).send("a")
        if way == "gave up":
            with pytest.raises(vanilla.Timeout):
                idle.send("b", timeout=20)
        assert back.recv(timeout=PATIENCE) == "a"
        h.sleep(100)
        for number in range(3):
            busy.send(number, timeout=PATIENCE)
            assert back.recv(timeout=PATIENCE) == number
        told = []
        put = one._link.put
        one._link.put = lambda *frame: told.append(frame) or put(*frame)
        h.sleep(200)
        assert len(told) < 3  # nor do the two send each other the same credit again and again


def test_a_sender_that_is_asked_for_with_options_while_the_last_one_is_closed_works(h, broker, remote):
    first = remote.push("jobs")
    first.send(0)
    first.sync()
    task = h.spawn(lambda: remote.push("jobs", capacity=100_000).send(1))
    h.sleep(0)
    first.close()
    task.join(timeout=PATIENCE)
    assert remote.pull("jobs").recv_many(2, timeout=PATIENCE)[0] == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda remote: remote.pull("a", window=1e6),
        lambda remote: remote.pull("a", prefetch=2.5),
        lambda remote: remote.pull("a", prefetch=float("nan")),
        lambda remote: remote.router("a", window=1e6),
        lambda remote: remote.router("a", prefetch="2"),
        lambda remote: remote.queue("a", 10.0),
        lambda remote: remote.queue("a", 1 << 63),
        lambda remote: remote.queue("a", 10**30),
        lambda remote: remote.channel("a", 2.5),
        lambda remote: remote.channel("a", -2),
        lambda remote: remote.broadcast("a").subscribe(size=1e3),
        lambda remote: remote.broadcast("a").subscribe(window=0),
    ],
)
def test_a_number_of_the_wrong_kind_is_refused_here_and_costs_nothing_else(remote, ask):
    with pytest.raises((TypeError, ValueError), match=r"whole number|at least"):
        ask(remote)
    assert not remote._link.channels
    remote.ping()


def test_a_channel_of_true_holds_one(h, remote):
    """A bool is an int in Python, and none on the wire."""
    near = remote.channel("a", True)
    near.send(1)
    assert near.recv(timeout=PATIENCE) == 1


def test_a_select_goes_on_over_a_lost_connection_and_behind_it(h, broker):
    with h.client.connect(broker.urls[0], backoff=(100, 100)) as remote, h.client.connect(broker.urls[0]) as other:
        jobs, local, got = remote.pull("jobs"), h.queue(100), []
        other.push("jobs").send("job")
        remote._link.sock.shutdown(socket.SHUT_RDWR)
        until(h, lambda: remote._link.down)
        for number in range(3):
            local.send(number)
        while len(got) < 4:
            got.append(h.select([local.recver, jobs], PATIENCE)[1])
            if not remote._link.down and len(got) == 3:
                break
        while "job" not in got:
            got.append(h.select([local.recver, jobs], PATIENCE)[1])
        assert sorted(map(str, got)) == ["0", "1", "2", "job"]


def test_who_polls_while_there_is_no_connection_lets_the_loop_make_the_next(h, broker, monkeypatch):
    with h.client.connect(broker.urls[0], backoff=(1, 1)) as remote:
        state, jobs, sender = remote.state("s"), remote.pull("jobs"), remote.push("jobs")
        for poll in (
            lambda: jobs.recv(timeout=0),
            lambda: sender.sync(timeout=0),
            lambda: state.recv(timeout=0),
        ):
            was = remote._link.sock
            was.shutdown(socket.SHUT_RDWR)
            until(h, lambda was=was: remote._link.sock is not was)  # it may have the next one already
            deadline = time.monotonic() + PATIENCE / 1000
            while remote._link.down and time.monotonic() < deadline:
                with contextlib.suppress(vanilla.Timeout):
                    poll()
            assert not remote._link.down


def test_an_item_that_comes_to_a_select_while_another_of_its_ends_has_no_connection_is_not_lost(h, broker):
    url = broker.urls[0]
    with (
        h.client.connect(url) as up,
        h.client.connect(url, backoff=(60_000, 60_000)) as down,
        h.client.connect(url) as feeder,
    ):
        state, jobs = down.state("s").recver, up.pull("jobs")
        down._link.sock.shutdown(socket.SHUT_RDWR)
        until(h, lambda: down._link.down)

        def load():  # turns of the loop of over a millisecond
            while True:
                time.sleep(0.002)
                h.sleep(0)

        def feed():
            sender = feeder.push("jobs")
            for number in range(10):
                sender.send(number)
                h.sleep(3)

        tasks, got = [h.spawn(load), h.spawn(feed)], []
        while len(got) < 10:
            got.append(h.select([jobs, state], PATIENCE)[1])
        assert got == [*range(10)]
        for task in tasks:
            task.cancel()
