"""Ours: `vanilla.Hub`."""

from __future__ import annotations

from typing import Any, Callable

from .net import Net


class Vanilla(Net):
    title = "vanilla"
    package = "vanilla-broker"
    module = "vanilla.tcp"
    settings = "defaults; a task a connection that receives and sends"

    def echo(self, listening: Callable[[int], None]) -> None:
        import vanilla

        with vanilla.Hub() as h:

            def serve(conn: Any) -> None:
                for data in conn.recver:
                    conn.send(data)

            server = h.tcp.listen()
            listening(server.port)
            server.consume(serve).join()

    def copy(self, source: int, target: int) -> None:
        import vanilla

        with vanilla.Hub() as h:
            sender = h.tcp.connect(target).sender
            for data in h.tcp.connect(source).recver:
                sender.send(data)
            h.select([sender])  # it is all written

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        import vanilla

        with vanilla.Hub() as h:

            def wait(conn: Any) -> None:
                kept()
                conn.recv()

            server = h.tcp.listen()
            listening(server.port)
            if receive:
                server.consume(wait).join()
            conns = []
            for conn in server:
                conns.append(conn)
                kept()


class Piped(Vanilla):
    title = "vanilla, pipe"
    settings = "defaults; `recver.pipe(sender)`"

    def copy(self, source: int, target: int) -> None:
        import vanilla

        with vanilla.Hub() as h:
            done = h.queue(1)
            upstream, downstream = h.tcp.connect(source), h.tcp.connect(target)
            downstream.recver.onclose(done.sender.close)
            upstream.recver.pipe(downstream.sender)
            try:
                downstream.recv()  # the end: its peer has all, and closes
            except vanilla.Closed:
                pass


NETS = {"vanilla": Vanilla(), "vanilla-pipe": Piped()}
