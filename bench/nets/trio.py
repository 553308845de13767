"""trio: coroutines, and a loop in Python."""

from __future__ import annotations

from typing import Any, Callable

from .net import CHUNK, HOST, Net


class Trio(Net):
    title = "trio"
    package = "trio"
    module = "trio"
    settings = "defaults; a task a connection, receive_some and send_all of its streams"

    def echo(self, listening: Callable[[int], None]) -> None:
        async def serve(stream: Any) -> None:
            while data := await stream.receive_some(CHUNK):
                await stream.send_all(data)

        run(serve, listening)

    def copy(self, source: int, target: int) -> None:
        import trio

        async def start() -> None:
            async with await trio.open_tcp_stream(HOST, source) as a, await trio.open_tcp_stream(HOST, target) as b:
                while data := await a.receive_some(CHUNK):
                    await b.send_all(data)

        trio.run(start)

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        import trio

        streams = []

        async def wait(stream: Any) -> None:
            kept()
            await stream.receive_some(CHUNK)

        async def keep() -> None:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            listening(listener.socket.getsockname()[1])
            while True:
                streams.append(await listener.accept())
                kept()

        if receive:
            run(wait, listening)
        else:
            trio.run(keep)


def run(serve: Callable[[Any], Any], listening: Callable[[int], None]) -> None:
    """A task of *serve* for each connection, until the end of this process."""
    import trio

    async def start() -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        listening(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(serve, listeners)

    trio.run(start)


NETS = {"trio": Trio()}
