"""A client of a vanilla broker in one file: the standard library, msgpack, blocking sockets, nothing of vanilla.

It was written from docs/protocol.md alone, to show how little a client in any language needs. For real work in Python
use `vanilla.client`, which batches, sizes its credit by itself and never blocks the others.

    python examples/minimal_client.py 127.0.0.1:8264 push jobs '{"id": 1}' '{"id": 2}'
    python examples/minimal_client.py 127.0.0.1:8264 pull jobs 2
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

import msgpack

DATA, DATA_OPTIONS, MORE = 0x01, 0x02, 0x10
HELLO, OPEN, CREDIT, WANT, ACK = 0x20, 0x21, 0x22, 0x23, 0x24
CLOSE, ERROR, PING, PONG = 0x27, 0x28, 0x29, 0x2A


class Client:
    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small frames wait for each other
        self.stream = self.socket.makefile("rb")
        self.send(HELLO, 0, 0, msgpack.packb({"v": 1, "id": os.urandom(16), "agent": "minimal/1"}))
        self.receive()  # the broker's HELLO

    def send(self, kind, channel, seq, *objects):
        """One frame. The objects are packed already."""
        size = sum(map(len, objects))
        widths = 0xC6, 21 + size, 0x94, kind, 0xCE, channel, 0xCF, seq, 0xDD, len(objects)
        self.socket.sendall(struct.pack(">BIBBBIBQBI", *widths) + b"".join(objects))

    def receive(self):
        """The next frame: its type without MORE, and its objects. PING is answered, ERROR raised."""
        while True:
            start = self.stream.read(5)
            if len(start) < 5:
                raise ConnectionError("the broker is gone")
            content = self.stream.read(int.from_bytes(start[1:], "big"))
            kind, _, seq, objects = msgpack.unpackb(content, strict_map_key=False)
            if kind == ERROR:
                raise ConnectionError("{code}: {text}".format(**objects[0]))
            if kind != PING:
                return kind & ~MORE, objects
            self.send(PONG, 0, seq, b"\x80")

    def push(self, channel, name, items):
        """Send the items, each in a frame of its own; return when all are confirmed."""
        self.send(OPEN, channel, 0, msgpack.packb({"kind": "push", "name": name}))
        sent = size = confirmed = limit_n = limit_b = 0
        for item in map(msgpack.packb, items):
            asked = False
            while sent >= limit_n or size + len(item) > limit_b:
                if not asked:
                    self.send(WANT, channel, 0, msgpack.packb({"n": 1, "b": len(item)}))
                    asked = True
                kind, objects = self.receive()
                if kind == CREDIT:
                    limit_n, limit_b = max(limit_n, objects[0]["n"]), max(limit_b, objects[0]["b"])
                    asked = False
                elif kind == ACK:
                    confirmed = sum(objects[0]["r"][-2:])
            self.send(DATA, channel, sent, item)
            sent += 1
            size += len(item)
        while confirmed < sent:
            kind, objects = self.receive()
            if kind == ACK:
                confirmed = sum(objects[0]["r"][-2:])
        self.close(channel, 0)

    def pull(self, channel, name, count):
        """Yield so many items; each is acknowledged when the next one is asked for."""
        self.send(OPEN, channel, 0, msgpack.packb({"kind": "pull", "name": name}))
        self.send(CREDIT, channel, 0, msgpack.packb({"n": count, "b": 1 << 62}))
        done = 0
        while done < count:
            kind, objects = self.receive()
            if kind not in (DATA, DATA_OPTIONS):
                continue
            for item in objects[kind == DATA_OPTIONS :]:
                yield item
                self.send(ACK, channel, 0, msgpack.packb({"r": [done, 1]}))
                done += 1
        self.close(channel, done)

    def close(self, channel, seen):
        """Give a channel up. What is still under way is passed over."""
        self.send(CLOSE, channel, seen, b"\x80")
        while self.receive()[0] != CLOSE:
            pass


def main(address, what, name, *rest):
    host, _, port = address.rpartition(":")
    client = Client(host, int(port))
    if what == "push":
        client.push(1, name, map(json.loads, rest))
    else:
        for item in client.pull(1, name, int(rest[0])):
            print(json.dumps(item), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
