"""A client over UDP whose own address goes away: its socket would keep it, and nothing would ever leave again."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from peers import until

from vanilla.broker.admin import describe_udp
from vanilla.broker.session import describe_peer
from vanilla.client.udp import _make
from vanilla.offload import OFFLOAD, prepare
from vanilla.poll import IN
from vanilla.udpsocket import UDPSocket

HERE, THERE = "127.0.0.2", "127.0.0.1"


class Homeless:
    """A socket that cannot send from some addresses.

    :ivar gone: these.
    """

    def __init__(self, sock):
        self._sock = sock
        self.gone = set()
        self.failed = 0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data):
        self._look()
        return self._sock.send(data)

    def sendmsg(self, *args):
        self._look()
        return self._sock.sendmsg(*args)

    def _look(self):
        if self.getsockname()[0] in self.gone:
            self.failed += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture
def broker(h):
    with h.broker.listen("udp://127.0.0.1:0", hello_ms=60_000) as broker:  # nobody says hello here
        yield broker


@pytest.fixture
def listener(broker):
    return broker.listeners[0][0]


@pytest.fixture
def client(h, listener):
    """A session that goes out from `HERE`, where the kernel would choose `THERE`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HERE, 0))
    sock.connect(listener.sock.getsockname())
    homeless = Homeless(sock)
    made = UDPSocket(h, homeless, _make(prepare(sock)))
    h.poll.register(made.fileno(), lambda events: None, IN)
    until(h, lambda: listener.sessions and made.transport.rtt)
    yield made
    h.poll.unregister(made.fileno())
    made.close()


def test_a_client_whose_address_is_gone_goes_on_from_another(h, listener, client):
    (session,) = listener.sessions.values()
    assert session.transport.address[0] == HERE
    fd, descriptors = client.fileno(), len(os.listdir("/proc/self/fd"))
    client._sock.gone.add(HERE)
    client.send(bytes(40_000))  # a train, if the path takes no more at once
    until(h, lambda: session.transport.address[0] == THERE and client.transport.empty)
    assert client._cuts == OFFLOAD.sends
    assert client.getsockname()[0] == THERE
    assert (client.fileno(), len(os.listdir("/proc/self/fd"))) == (fd, descriptors)
    assert not os.get_inheritable(fd)
    assert list(listener.sessions.values()) == [session]
    assert session.transport.counters.moves == 1


def test_status_says_where_a_client_is_now(h, broker, client):
    peers = [session["peer"] for session in describe_udp(broker)]
    assert [peer.split(":")[0] for peer in peers] == [HERE]
    client._sock.gone.add(HERE)
    client.send(b"\x00")
    until(h, lambda: client.getsockname()[0] == THERE)
    until(h, lambda: [session["peer"] for session in describe_udp(broker)] == [describe_peer(client.getsockname())])


def test_a_client_that_has_no_address_at_all_waits_for_one(h, listener, client):
    (session,) = listener.sessions.values()
    client._sock.gone |= {HERE, THERE}
    client.send(b"\x00")
    until(h, lambda: client._sock.failed > 3)  # the transport tries again, and again
    assert client.transport.state == "open"
    client._sock.gone.clear()
    until(h, lambda: client.transport.empty)
    assert list(listener.sessions.values()) == [session]
