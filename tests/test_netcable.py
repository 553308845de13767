"""Two namespaces with a cable between them: what nft is told to drop, it drops, of single packets."""

from __future__ import annotations

import select
import socket
import struct

import pytest
from netcable import OUTSIDE, Cable, unavailable
from programs import wait_until

from vanilla.offload import OFFLOAD, UDP_SEGMENT

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a cable")


@pytest.fixture
def cable():
    with Cable() as cable:
        yield cable


@pytest.fixture
def ends(cable):
    """Sockets of datagrams: a server on the left side, and a client on the right."""
    with cable.left.socket(socket.SOCK_DGRAM) as left, cable.right.socket(socket.SOCK_DGRAM) as right:
        left.bind((cable.left_address, 0))
        left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


class Count:
    """What has arrived at a socket, and what was dropped on the way there."""

    def __init__(self, cable, left):
        self.cable, self.left = cable, left
        self.came = 0
        self.before = cable.dropped

    def all(self, sent):
        """Wait until each of so many datagrams is one of these: how many came."""
        wait_until(lambda: self.look() + self.cable.dropped - self.before == sent)
        return self.came

    def look(self):
        while select.select([self.left], [], [], 0)[0]:
            self.left.recv(65536)
            self.came += 1
        return self.came


def test_a_share_of_the_packets_is_dropped_and_all_when_it_is_cut(cable, ends):
    left, right = ends

    def send(count):
        counted = Count(cable, left)
        for _ in range(count):
            right.sendto(b"x", left.getsockname())
        return counted.all(count)

    cable.drop(0.2)
    assert 700 < send(1000) < 900
    cable.cut()
    assert send(10) == 0
    cable.heal()
    assert send(10) == 10


@pytest.mark.skipif(not OFFLOAD.sends, reason="this kernel does not cut trains (UDP_SEGMENT)")
def test_a_train_is_cut_before_the_cable_and_each_packet_takes_its_chance(cable, ends):
    left, right = ends
    cable.drop(0.5)
    counted = Count(cable, left)
    train, each = bytes(40_000), struct.pack("H", 1000)
    right.sendmsg([train], [(socket.IPPROTO_UDP, UDP_SEGMENT, each)], 0, left.getsockname())
    assert 0 < counted.all(40) < 40


def test_the_right_end_changes_its_address(cable, ends):
    left, right = ends
    for address in (cable.right_address, cable.other_address):
        right.sendto(b"x", left.getsockname())
        assert left.recvfrom(10)[1][0] == address
        cable.move()


def test_a_router_shows_another_address_and_what_is_sent_there_comes_back(cable, ends):
    left, right = ends
    for number in (5, 6):
        cable.route(number)
        right.sendto(b"there", left.getsockname())
        data, address = left.recvfrom(10)
        assert (data, address[0]) == (b"there", OUTSIDE.format(number))
        left.sendto(b"back", address)
        assert right.recv(10) == b"back"
    cable.route(7)
    left.sendto(b"lost", address)
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        right.recv(10)
