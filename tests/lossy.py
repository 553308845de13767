"""A proxy for datagrams that loses, doubles and reorders some of them, in the test's own hub."""

from __future__ import annotations

import random
import socket
from contextlib import contextmanager

from vanilla.poll import IN


def bound(port=0):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in socket.SO_RCVBUF, socket.SO_SNDBUF:
        sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    sock.bind(("127.0.0.1", port))
    return sock


class Proxy:
    """Stands at a port of its own before the one at *url*.

    :param lost, doubled, late: shares of the datagrams, each way. A late one leaves behind the next.
    :ivar cut: nothing passes.
    :ivar passed: datagrams that came; those that were lost are among them.
    :ivar longest: bytes of the longest one.
    """

    def __init__(self, hub, url, lost=0.05, doubled=0.02, late=0.05, seed=1):
        self.hub = hub
        host, port = url.rpartition("//")[2].split(":")
        self.target = host, int(port)
        self.shares = lost, doubled, late
        self.random = random.Random(seed)
        self.cut = False
        self.passed = self.lost = self.longest = 0
        self.front = bound()
        self.url = f"udp://127.0.0.1:{self.front.getsockname()[1]}"
        #: By the client's address.
        self.backs = {}
        self.held = {}
        hub.poll.register(self.front.fileno(), self._from_clients, IN, background=True)

    def _from_clients(self, events):
        while True:
            try:
                data, client = self.front.recvfrom(65536)
            except (BlockingIOError, OSError):
                return
            back = self.backs.get(client)
            if back is None:
                back = self.backs[client] = self._back(client)
            self._pass(data, lambda data, back=back: back.sendto(data, self.target), (client, "to"))

    def _back(self, client):
        back = bound()

        def from_broker(events):
            while True:
                try:
                    data = back.recv(65536)
                except (BlockingIOError, OSError):
                    return
                self._pass(data, lambda data: self.front.sendto(data, client), (client, "from"))

        self.hub.poll.register(back.fileno(), from_broker, IN, background=True)
        return back

    def _pass(self, data, send, way):
        lost, doubled, late = self.shares
        chance = self.random.random()
        self.passed += 1
        self.longest = max(self.longest, len(data))
        if self.cut or chance < lost:
            self.lost += 1
            return
        if chance < lost + late and way not in self.held:
            self.held[way] = data
            return
        held = self.held.pop(way, None)
        for datagram in [data] + [data] * (chance > 1 - doubled) + [held] * (held is not None):
            try:
                send(datagram)
            except OSError:
                pass

    @contextmanager
    def away(self):
        """For a while nobody is at its port: the kernel refuses what comes."""
        address = self.front.getsockname()
        self.hub.poll.unregister(self.front.fileno())
        self.front.close()
        yield
        self.front = bound(address[1])
        self.hub.poll.register(self.front.fileno(), self._from_clients, IN, background=True)

    def move(self):
        """Let the clients come from other ports from now on, as behind a NAT that has forgotten them."""
        for client, back in list(self.backs.items()):
            self.hub.poll.unregister(back.fileno())
            back.close()
            self.backs[client] = self._back(client)

    def close(self):
        for sock in [self.front, *self.backs.values()]:
            if sock.fileno() >= 0:
                self.hub.poll.unregister(sock.fileno())
                sock.close()


def between(h, **shares):
    """Have all connections that *h* makes to udp:// go through proxies from now on. Returns the scheme."""
    connect, proxies = h.client.connect, {}

    def through(*urls, **options):
        for url in urls:
            if url not in proxies:
                proxies[url] = Proxy(h, url, seed=len(proxies), **shares)
        return connect(*(proxies[url].url for url in urls), **options)

    h.client.connect = through
    return "udp"
