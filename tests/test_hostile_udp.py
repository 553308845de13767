"""A live broker over UDP, under whatever strangers and rogues send it: those who behave lose nothing and see nothing.

``FUZZ=long`` (``make fuzz``) is minutes of it, with a seed of its own that it prints; ``FUZZ_SEED=N`` takes that one.
What has once failed becomes a vector in ``tests/datagrams``, or a test of its own.
"""

from __future__ import annotations

import os
import random
import re
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import programs
import pytest
from lossy import Proxy
from peers import PATIENCE, until
from vectors import parse_bytes

from vanilla.protocol import packets
from vanilla.protocol.frames import HELLO, pack_control
from vanilla.protocol.packets import DATA, INIT, RETRY, Init, kind_of, parse_retry

LONG = os.environ.get("FUZZ") == "long"
SEED = int(os.environ.get("FUZZ_SEED", 0)) or (random.SystemRandom().getrandbits(32) if LONG else 11)
#: How long it goes on, in seconds of fuzzing; and rounds, whichever is more.
SECONDS = 300 if LONG else 0
ROUNDS = 50
#: What the broker may take more at the end than it had at the beginning.
MORE_MEMORY = 48 << 20
LIMITS = ("--handshakes", "60", "--connections", "400", "--hello-timeout", "500", "--memory", str(64 << 20))

VECTORS = [
    b"".join(parse_bytes(line.partition("#")[0]) for line in path.read_text().splitlines() if line[:6] != "value:")
    for path in sorted(Path(__file__).with_name("datagrams").glob("*.hex"))
]


class Recorder(Proxy):
    """A way that loses nothing, and keeps some of what passed."""

    def __init__(self, h, url):
        super().__init__(h, url, lost=0, doubled=0, late=0)
        self.kept = []

    def _pass(self, data, send, way):
        if way[1] == "to":
            if len(self.kept) < 500:
                self.kept.append(data)
            else:
                self.kept[self.random.randrange(500)] = data
        super()._pass(data, send, way)


class Sock:
    """A stranger's socket, which counts; until it has returned a cookie nobody sends it more than it has sent."""

    def __init__(self, there, source):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((source, 0))
        self.there = there
        self.sent = self.got = 0
        self.entered = False
        self.last = {}

    def say(self, data):
        self.sent += len(data)
        try:
            self.sock.sendto(data[:65507], self.there)
        except OSError:
            pass  # its buffer is full, or an ICMP answer

    def hear(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                continue
            self.got += len(data)
            if len(data) >= packets.HEAD_BYTES:
                self.last[data[0]] = data
        if not self.entered:
            assert self.got <= self.sent, "more came than had been sent, and no cookie was returned"


def mutate(chance, data):
    """Other bytes like *data*."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        way = chance.randrange(5)
        if not data:
            break
        at = chance.randrange(len(data))
        if way == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            del data[at:]
        elif way == 2:
            data[at:at] = data[: chance.randrange(40)]
        elif way == 3:
            data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        else:
            data += bytes(chance.randrange(30))
    return bytes(data)


def with_token(data, token):
    return data[:8] + token.to_bytes(8, "big") + data[16:]


class Storm:
    """All who do harm, on a few sockets each."""

    def __init__(self, there, recorder, chance):
        self.there = there
        self.recorder = recorder
        self.chance = chance
        self.strangers = [Sock(there, f"127.0.0.{n % 5 + 1}") for n in range(10)]
        self.rogues = []

    def close(self):
        for sock in self.strangers + self.rogues:
            sock.sock.close()

    def round(self):
        chance = self.chance
        for sock in self.strangers:
            for _ in range(4):
                sock.say(chance.choice(STRANGE)(self))
            sock.hear()
        if len(self.rogues) < 12:
            rogue = Sock(self.there, f"127.0.0.{chance.randrange(1, 6)}")
            rogue.token = chance.getrandbits(64) or 1
            rogue.number = 0
            rogue.session = 0
            rogue.waited = 0
            rogue.way = chance.choice(ROGUE)
            rogue.say(packets.pack_init(Init(1, 0, rogue.token, packets.NO_COOKIE)))
            self.rogues.append(rogue)
        for rogue in list(self.rogues):
            self._go_on(rogue)

    def _go_on(self, rogue):
        """Get a session, and then be what it is."""
        rogue.hear()
        rogue.waited += 1
        if rogue.waited > 60:
            rogue.sock.close()
            self.rogues.remove(rogue)
        elif rogue.session:
            for _ in range(20):
                items = rogue.way(self.chance, rogue.number)
                data = packets.pack_data(rogue.number, rogue.session, items)
                rogue.number += 1
                rogue.say(data if self.chance.random() < 0.9 else with_token(mutate(self.chance, data), rogue.session))
        elif RETRY in rogue.last:
            retry = parse_retry(rogue.last[RETRY])
            rogue.entered, rogue.session = True, retry.server
            rogue.say(packets.pack_init(Init(1, retry.server, rogue.token, retry.cookie)))
            hello = pack_control(HELLO, 0, 0, {"v": 1, "id": self.chance.getrandbits(128).to_bytes(16, "big")})
            stream = packets.pack_stream(0, hello, False)
            if rogue.way in POLITE:
                rogue.say(packets.pack_data(rogue.number, rogue.session, [stream]))
                rogue.number += 1


# -- strangers: of no session


def noise(storm):
    chance = storm.chance
    size = chance.choice((0, 1, 15, 16, 17, 40, 1200, 1201, 9000, 65507))
    return bytes([chance.randrange(6)]) + chance.getrandbits(8 * size or 8).to_bytes(size or 1, "big")


def vector(storm):
    return mutate(storm.chance, storm.chance.choice(VECTORS))


def spoiled(storm):
    """Of a session that is there, but with another token: who has that one may do anything."""
    data = mutate(storm.chance, storm.chance.choice(storm.recorder.kept))
    return with_token(data, storm.chance.getrandbits(64)) if len(data) >= 16 else data


def spliced(storm):
    one, other = storm.chance.choices(storm.recorder.kept, k=2)
    return with_token(one[: storm.chance.randrange(16, 200)] + other[16:], storm.chance.getrandbits(64))


def repeated(storm):
    """As it was, with its token, from an address that is not its own."""
    return storm.chance.choice(storm.recorder.kept)


def first(storm):
    chance = storm.chance
    cookie = chance.choice((packets.NO_COOKIE, chance.getrandbits(128).to_bytes(16, "big")))
    return packets.pack_init(Init(chance.choice((1, 1, 2)), 0, chance.getrandbits(64) or 1, cookie))


def borrowed(storm):
    """A first datagram of another, with the cookie of its address."""
    inits = [data for data in storm.recorder.kept if kind_of(data) == INIT]
    return storm.chance.choice(inits or VECTORS)


def closing(storm):
    return packets.pack_close(packets.Close(storm.chance.randrange(6), storm.chance.getrandbits(64), "go"))


STRANGE = (noise, vector, spoiled, spliced, repeated, first, first, borrowed, closing)

# -- rogues: of a session of their own


def beyond(chance, number):
    return [packets.pack_stream(chance.choice((1 << 40, 5 << 20, packets.MAX_NUMBER - 1200)), b"x" * 50, False)]


def never_sent(chance, number):
    return [packets.pack_ack([(0, chance.choice((1 << 20, 1 << 50)))], 0.0)]


def optimistic(chance, number):
    """All that has been sent as yet, it guesses, at once."""
    return [packets.pack_ack([(0, number // 4)], 0.0), packets.PING_ITEM]


def narrowing(chance, number):
    size = chance.choice((1200, 3000, 65507))
    return [packets.pack_window(max(5_000_000 - 1000 * number, 0), 1 + number % 3, size), packets.PING_ITEM]


def tiny(chance, number):
    """Every second byte."""
    return [packets.pack_stream(100 + 2 * (90 * number + n), b"\xc6", False) for n in range(90)]


def contradicting(chance, number):
    at = chance.randrange(3000)
    return [packets.pack_stream(at, bytes([chance.randrange(256)]) * chance.randrange(1, 900), False)]


def ends(chance, number):
    return [packets.pack_stream(chance.randrange(500), b"xyz", chance.random() < 0.3)]


def challenging(chance, number):
    return [packets.pack_challenge(number)] * 4


def silent(chance, number):
    return [packets.PING_ITEM]


def babbling(chance, number):
    return [packets.pack_stream(1000 * number, chance.getrandbits(8000).to_bytes(1000, "big"), False)]


ROGUE = (beyond, never_sent, optimistic, narrowing, tiny, contradicting, ends, challenging, silent, babbling)
#: Those that say hello before.
POLITE = (optimistic, narrowing, tiny, challenging, silent)


# -- who behaves


class Sums:
    def add(self, one, other):
        return one + other


class Bystander:
    """Sends to itself, and calls, all the time."""

    def __init__(self, h, url, name):
        self.remote = h.client.connect(url, timeout=PATIENCE, reconnect=False)
        self.count = 0
        self._out, self._back = self.remote.push(name), self.remote.pull(name)
        self.remote.serve(name + "-sum", Sums())
        self._sums = self.remote.wrap(name + "-sum")
        self.task = h.spawn(self._live, h)

    def _live(self, h):
        while True:
            items = [[self.count, n, "x" * (n * 37 % 900)] for n in range(40)]
            self._out.send_many(items)
            assert [self._back.recv(timeout=PATIENCE) for _ in items] == items
            assert self._sums.add(self.count, 1).recv(timeout=PATIENCE) == self.count + 1
            self.count += 1
            h.sleep(1)


def rss(pid):
    return int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


@pytest.fixture
def broker():
    """A process that listens at TCP and UDP: (urls, process), and what it logs."""
    argv = [*programs.BROKER, "--listen", "tcp://127.0.0.1:0", "--listen", "udp://127.0.0.1:0", *LIMITS]
    with tempfile.TemporaryFile() as log, programs.started(argv, log) as process:
        urls = [process.stdout.readline().decode().split()[-1] for _ in range(2)]
        yield urls, process, lambda: programs.said(log)


def test_whatever_strangers_and_rogues_send_who_behaves_loses_nothing(h, broker):
    (tcp, udp), process, said = broker
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    with ExitStack() as stack:
        recorder = Recorder(h, udp)
        stack.callback(recorder.close)
        behaved = [Bystander(h, url, f"by{n}") for n, url in enumerate((tcp, udp, recorder.url))]
        for one in behaved:
            stack.callback(one.remote.close)
        until(h, lambda: all(one.count > 3 for one in behaved))
        status = behaved[0].remote.status
        before, descriptors = rss(process.pid), len(os.listdir(f"/proc/{process.pid}/fd"))
        host, port = udp.rpartition("/")[2].split(":")
        storm = Storm((host, int(port)), recorder, chance)
        stack.callback(storm.close)
        end, rounds = time.monotonic() + SECONDS, 0
        while rounds < ROUNDS or time.monotonic() < end:
            storm.round()
            rounds += 1
            h.sleep(2)
            assert not any(one.task.done for one in behaved)
        seen = [one.count for one in behaved]
        assert any(rogue.entered for rogue in storm.rogues)
        storm.close()
        until(h, lambda: all(one.task.done or one.count > was + 3 for one, was in zip(behaved, seen)))
        for one in behaved:
            assert not one.task.done
            assert one.remote.link.recv() == "connected"
        until(h, lambda: status()["broker"]["connections"] == len(behaved), timeout=6 * PATIENCE)
        (listener,) = status()["broker"]["udp_listeners"]
        assert all(listener["bad"].values()), listener
        until(h, lambda: status()["broker"]["udp_listeners"][0]["sessions"] == len(behaved) - 1)
        until(h, lambda: len(os.listdir(f"/proc/{process.pid}/fd")) <= descriptors)
        assert rss(process.pid) < before + MORE_MEMORY
        log = said()
        assert "Traceback" not in log and "internal error" not in log, log
        for one in behaved:
            one.task.cancel()
        print(f"{rounds} rounds, {seen} exchanges, {listener}, {(rss(process.pid) - before) >> 10} KiB more")


def test_a_rogue_of_every_kind_gets_no_further_than_its_own_session(h, broker):
    """One after the other, each long enough to be thrown out, or to have no effect."""
    (_, udp), _, said = broker
    behaved = Bystander(h, udp, "by")
    chance = random.Random(SEED)
    host, port = udp.rpartition("/")[2].split(":")
    for way in ROGUE:
        storm = Storm((host, int(port)), None, chance)
        storm.strangers = []
        storm.round()
        (rogue,) = storm.rogues
        rogue.way = way
        until(h, lambda rogue=rogue, storm=storm: storm._go_on(rogue) or rogue.session)
        for _ in range(15):
            rogue.waited = 0
            storm._go_on(rogue)
            h.sleep(1)
        until(h, lambda rogue=rogue: rogue.hear() or DATA in rogue.last or packets.CLOSE in rogue.last)
        storm.close()
    count = behaved.count
    until(h, lambda: behaved.task.done or behaved.count > count + 3)
    assert not behaved.task.done
    behaved.task.cancel()
    behaved.remote.close()
    assert "Traceback" not in said() and "internal error" not in said(), said()
