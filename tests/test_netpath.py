"""The emulated path: it loses, doubles and delays what it is told to, and counts all of it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from netpath import Path, unavailable
from netspace import Namespace
from programs import gone, wait_until

from vanilla.offload import OFFLOAD, UDP_SEGMENT

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a path")

#: What a datagram of 1,000 bytes is as a packet.
PACKET = 1028


@pytest.fixture(scope="module")
def shared():
    with Path() as path:
        yield path


@pytest.fixture
def path(shared):
    shared.set(rate=0.0, delay=0.0, queue=1 << 30, loss=0.0, duplicate=0.0, reorder=0.0, late=0.005, seed=1)
    return shared


@pytest.fixture
def ends(path):
    """A socket on each side, of datagrams: what the left one sends goes to the right one."""
    with path.left.socket(socket.SOCK_DGRAM) as left, path.right.socket(socket.SOCK_DGRAM) as right:
        left.bind((path.left_address, 0))
        right.bind((path.right_address, 0))
        left.connect(right.getsockname())
        right.connect(left.getsockname())
        right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        yield left, right


def send(left, count, size=1000):
    for number in range(count):
        left.send(number.to_bytes(4, "big") + bytes(size - 4))


def numbers(right):
    """The datagrams that are there."""
    found = []
    while True:
        try:
            found.append(int.from_bytes(right.recv(65536, socket.MSG_DONTWAIT)[:4], "big"))
        except BlockingIOError:
            return found


def settled(way, packets):
    """Wait until so many packets have come, and none is under way; what was counted since."""
    wait_until(lambda: way.counters["packets"] >= packets and not way.counters["flying"])
    return way.counters


def test_what_is_sent_arrives_in_order(path, ends):
    left, right = ends
    before = path.there.counters
    send(left, 100)
    after = settled(path.there, before["packets"] + 100)
    assert numbers(right) == list(range(100))
    assert after["bytes"] - before["bytes"] == 100 * PACKET
    assert after["passed"] - before["passed"] == 100
    assert after["missed"] == after["refused"] == 0


def test_a_way_is_never_faster_than_its_delay(path, ends):
    left, right = ends
    path.there.set(delay=0.03)
    path.back.set(delay=0.02)
    begin = time.monotonic()
    left.send(b"there")
    assert right.recv(100) == b"there"
    right.send(b"back")
    assert left.recv(100) == b"back"
    assert time.monotonic() - begin >= 0.05


def test_a_way_is_never_faster_than_its_rate(path, ends):
    left, right = ends
    path.there.set(rate=1e6)
    begin = time.monotonic()
    send(left, 100)
    for number in range(100):
        assert int.from_bytes(right.recv(2000)[:4], "big") == number
    assert time.monotonic() - begin >= 100 * PACKET / 1e6


def test_what_does_not_fit_into_the_queue_is_dropped():
    """One byte a second: none leaves it for now."""
    with Path(rate=1.0, queue=10 * PACKET) as path, path.left.socket(socket.SOCK_DGRAM) as left:
        left.connect((path.right_address, 9))
        send(left, 30)
        wait_until(lambda: path.there.counters["packets"] == 30)
        after = path.there.counters
        assert after["overflows"] == 20
        assert 9 * PACKET < after["queued"] <= 10 * PACKET
        assert after["passed"] == 0


def survivors(**values):
    """Which of 300 datagrams arrive, each with an even chance."""
    with Path(loss=0.5, **values) as path, path.right.socket(socket.SOCK_DGRAM) as right:
        right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        right.bind((path.right_address, 0))
        with path.left.socket(socket.SOCK_DGRAM) as left:
            left.connect(right.getsockname())
            send(left, 300)
        lost = settled(path.there, 300)["lost"]
        found = numbers(right)
        assert len(found) == 300 - lost
        return found


def test_a_share_is_lost_at_random_and_the_same_with_the_same_seed():
    usual, again, seven, sevens = survivors(), survivors(), survivors(seed=7), survivors(seed=7)
    assert usual == again != seven == sevens
    assert 100 < len(usual) < 200


def test_nothing_passes_a_path_that_is_cut_and_all_does_when_it_has_healed(path, ends):
    left, right = ends
    before = path.there.counters
    path.cut()
    send(left, 20)
    assert settled(path.there, before["packets"] + 20)["lost"] - before["lost"] == 20
    path.heal()
    send(left, 10)
    settled(path.there, before["packets"] + 30)
    assert numbers(right) == list(range(10))


def test_packets_come_twice_and_in_another_order_when_they_are_to(path, ends):
    left, right = ends
    before = path.there.counters["packets"]
    path.there.set(reorder=1.0)
    send(left, 50)
    settled(path.there, before + 50)
    found = numbers(right)
    assert found != sorted(found) == list(range(50))
    path.there.set(reorder=0.0, duplicate=1.0)
    send(left, 50)
    settled(path.there, before + 100)
    assert sorted(numbers(right)) == sorted([*range(50), *range(50)])


@pytest.mark.skipif(not OFFLOAD.sends, reason="this kernel does not cut trains (UDP_SEGMENT)")
def test_a_train_is_cut_before_the_path_and_each_packet_takes_its_chance(path, ends):
    left, right = ends
    before = path.there.counters
    path.there.set(loss=0.5)
    train = b"".join(number.to_bytes(4, "big") + bytes(996) for number in range(40))
    left.sendmsg([train], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1000))])
    after = settled(path.there, before["packets"] + 40)
    assert after["packets"] == before["packets"] + 40
    lost = after["lost"] - before["lost"]
    assert 0 < lost < 40
    assert len(numbers(right)) == 40 - lost


def test_tcp_goes_through_with_loss_too(path):
    path.set(loss=0.02, delay=0.001)
    with path.right.socket(socket.SOCK_STREAM) as server, path.left.socket(socket.SOCK_STREAM) as client:
        server.bind((path.right_address, 0))
        server.listen()
        client.connect(server.getsockname())
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        conn, _ = server.accept()
        with conn, conn.makefile("rb") as file:
            assert file.read() == b"x" * 100_000


def test_a_program_runs_inside(path):
    code = f"import socket; socket.socket().bind(({path.left_address!r}, 0))"
    path.left.run([sys.executable, "-c", code])
    assert path.right.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_an_order_that_is_wrong_is_refused_by_name():
    with pytest.raises(Exception, match="a way has no colour"), Path(colour=1.0):
        pass


def test_nothing_is_left_of_a_path_whose_program_was_killed():
    code = "import netpath, time; p = netpath.Path(); print(p.pids, flush=True); time.sleep(1000)"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    popen = {"stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen([sys.executable, "-c", code], **popen) as process:
        pids = [int(pid) for pid in process.stdout.readline().strip(b"[]\n").split(b",")]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(pids) == 3
        wait_until(lambda: all(gone(pid) for pid in pids))


def test_a_namespace_is_closed_twice_without_harm():
    space = Namespace()
    space.close()
    space.close()
