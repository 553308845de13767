"""The process between the two ends of a `netpath.Path`: it passes IP packets from one TUN device to another.

    python forwarder.py LEFT RIGHT

LEFT and RIGHT are ``NAMESPACE,ADDRESS``: the file of a network namespace and the address of the device that is made
there. It says ``{}`` when it is ready, and then takes orders from stdin, a JSON list a line, each answered by a line:

    ["set", WAY, {...}]   null; WAY is 0 from left to right, 1 back, and the rest is as of `Way`
    ["counters"]          what the two ways have done so far

It ends with its stdin. The kernel of this machine may have no netem, and this shapes TCP, UDP and all else alike:
packets leave a TUN device as they would leave a network card that does nothing for them, at most `MTU` bytes each,
also those of a program that has sent a train of datagrams at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import socket
import struct
import sys
import time
from heapq import heappop, heappush
from typing import Any

from netspace import enter

MTU = 1500
#: Packets read of a device before the other has its turn.
BATCH = 64
#: Seconds between two looks at what is due, at least: packets that are due within are passed on together.
GRAIN = 0.0002
#: Packets that the kernel holds while this process does something else.
HELD = 10_000
DEVICE = b"path"

#: As linux/if_tun.h, linux/sockios.h and linux/if.h have them.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFTXQLEN, SIOCSIFFLAGS = 0x8916, 0x891C, 0x8922, 0x8943, 0x8914
IFF_UP = 1


class Way:
    """One direction. What `vary` changes holds for packets that come from then on.

    :ivar rate: bytes a second, 0 for any.
    :ivar delay: seconds.
    :ivar queue: bytes that wait at the bottleneck; what does not fit is dropped.
    :ivar loss: the probability for a packet to be lost, before it comes to the queue; likewise *duplicate*, *reorder*.
    :ivar late: a packet that is reordered, and the second of two, come up to so many seconds later.
    :ivar source, target: descriptors.
    """

    def __init__(self, source: int, target: int, seed: int) -> None:
        self.source, self.target = source, target
        self.random = random.Random(seed)
        self.rate = self.delay = self.loss = self.duplicate = self.reorder = 0.0
        self.queue = float("inf")
        self.late = 0.005
        self.packets = self.bytes = self.lost = self.overflows = self.passed = self.refused = 0
        #: When the last packet in the queue will have left it.
        self._free = 0.0
        #: (when it arrives, its number, the packet)
        self.flying: list[tuple[float, int, bytes]] = []

    def vary(self, **values: float) -> None:
        if "seed" in values:
            self.random.seed(values.pop("seed"))
        for name, value in values.items():
            if name not in ("rate", "delay", "queue", "loss", "duplicate", "reorder", "late"):
                raise ValueError(f"a way has no {name}")
            setattr(self, name, value)

    def counters(self, now: float) -> dict[str, float]:
        names = "packets", "bytes", "lost", "overflows", "passed", "refused"
        counted = {name: getattr(self, name) for name in names}
        return {**counted, "queued": max(self._free - now, 0.0) * self.rate, "flying": len(self.flying)}

    def take(self, now: float) -> None:
        """Read what has come from the device."""
        for _ in range(BATCH):
            try:
                packet = os.read(self.source, 2048)
            except BlockingIOError:
                return
            self._carry(packet, now)

    def _carry(self, packet: bytes, now: float) -> None:
        size = len(packet)
        self.packets += 1
        self.bytes += size
        chance = self.random.random
        if self.loss and chance() < self.loss:
            self.lost += 1
            return
        arrives = now
        if self.rate:
            waits = max(self._free - now, 0.0)
            if waits * self.rate + size > self.queue:
                self.overflows += 1
                return
            arrives = self._free = now + waits + size / self.rate
        arrives += self.delay
        if self.reorder and chance() < self.reorder:
            arrives += chance() * self.late
        heappush(self.flying, (arrives, self.packets, packet))
        if self.duplicate and chance() < self.duplicate:
            heappush(self.flying, (arrives + chance() * self.late, self.packets, packet))

    def give(self, now: float) -> None:
        """Write what is due to the other device."""
        flying = self.flying
        while flying and flying[0][0] <= now:
            packet = heappop(flying)[2]
            try:
                os.write(self.target, packet)
                self.passed += 1
            except OSError:  # the device is down, or its kernel has no room
                self.refused += 1


class Device:
    """A TUN device in the namespace *file*."""

    def __init__(self, file: str, address: str) -> None:
        enter(file)
        for name in "all", "default":  # no packets that nobody has sent
            try:
                with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as setting:
                    setting.write("1")
            except OSError:  # this kernel has no IPv6, or none of ours to set
                pass
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", DEVICE, IFF_TUN | IFF_NO_PI))
        #: Of this namespace, whichever we are in later.
        self._counted = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for order, value in (
                (SIOCSIFADDR, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address))),
                (SIOCSIFNETMASK, struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton("255.255.255.0"))),
                (SIOCSIFMTU, struct.pack("i", MTU)),
                (SIOCSIFTXQLEN, struct.pack("i", HELD)),
                (SIOCSIFFLAGS, struct.pack("h", IFF_UP)),
            ):
                fcntl.ioctl(sock, order, struct.pack("16s24s", DEVICE, value))
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))

    @property
    def missed(self) -> int:
        """Packets that the kernel has dropped because we did not come to read them."""
        text = os.pread(self._counted, 1 << 16, 0).decode()
        (line,) = (line for line in text.splitlines() if line.strip().startswith(DEVICE.decode() + ":"))
        return int(line.split(":")[1].split()[11])


def obey(order: list[Any], ways: list[Way], devices: list[Device]) -> Any:
    what, *about = order
    if what == "set":
        ways[about[0]].vary(**about[1])
        return None
    now = time.monotonic()
    return [{**way.counters(now), "missed": device.missed} for way, device in zip(ways, devices)]


def forward(ways: list[Way], devices: list[Device]) -> None:
    """Until stdin ends."""
    said = b""
    sources = {way.source: way for way in ways}
    while True:
        now = time.monotonic()
        due = min((way.flying[0][0] for way in ways if way.flying), default=now + 3600)
        for fd in select.select([0, *sources], [], [], max(due - now, GRAIN))[0]:
            if fd in sources:
                sources[fd].take(time.monotonic())
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, said = (said + data).split(b"\n")
            for line in lines:
                print(json.dumps(obey(json.loads(line), ways, devices)), flush=True)
        now = time.monotonic()
        for way in ways:
            way.give(now)


def main(*ends: str) -> None:
    try:
        os.nice(-10)  # it stands for cables, which are never busy with something else
    except OSError:
        pass
    devices = [Device(*end.split(",")) for end in ends]
    left, right = (device.fd for device in devices)
    print("{}", flush=True)
    forward([Way(left, right, 1), Way(right, left, 2)], devices)


if __name__ == "__main__":
    main(*sys.argv[1:])
