"""asyncio of the standard library, in its two ways: protocols, which are called, and streams, which are awaited."""

from __future__ import annotations

import asyncio
import platform
from typing import Any, Callable

from .net import CHUNK, HOST, Net


class Protocols(Net):
    title = "asyncio, protocols"
    settings = "defaults; data_received writes to a transport, and pauses its own while that is full"

    def version(self) -> str:
        return f"of Python {platform.python_version()}"

    def echo(self, listening: Callable[[int], None]) -> None:
        asyncio.run(serve(Echo, listening))

    def copy(self, source: int, target: int) -> None:
        asyncio.run(pass_on(Source, source, target))

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        if receive:
            raise LookupError("has no task a connection")

        class Keep(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                kept()

        asyncio.run(serve(Keep, listening))


class Buffered(Protocols):
    title = "asyncio, buffered protocols"
    settings = "defaults; buffer_updated writes to a transport what is in the one buffer, of 64 KiB"

    def echo(self, listening: Callable[[int], None]) -> None:
        asyncio.run(serve(BufferedEcho, listening))

    def copy(self, source: int, target: int) -> None:
        asyncio.run(pass_on(BufferedSource, source, target))


class Streams(Protocols):
    title = "asyncio, streams"
    settings = "defaults; a task a connection that reads, writes and drains"

    def echo(self, listening: Callable[[int], None]) -> None:
        asyncio.run(serve_streams(forward, listening))

    def copy(self, source: int, target: int) -> None:
        async def run() -> None:
            reader, other = await asyncio.open_connection(HOST, source)
            _, writer = await asyncio.open_connection(HOST, target)
            await forward(reader, writer)
            other.close()

        asyncio.run(run())

    def keep(self, receive: bool, listening: Callable[[int], None], kept: Callable[[], None]) -> None:
        pairs = []

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            kept()
            await reader.read(CHUNK)

        def keep(*pair: Any) -> None:
            pairs.append(pair)
            kept()

        asyncio.run(serve_streams(wait if receive else keep, listening))


class Flow:
    """The transport is read no more while it is not written to."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Echo(Flow, asyncio.Protocol):
    """Sends back what comes."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(Flow, asyncio.BufferedProtocol):
    """The same, with one buffer for all of them."""

    buffer = memoryview(bytearray(CHUNK))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class Target(asyncio.Protocol):
    """Where a copy goes."""

    def __init__(self) -> None:
        self.source: Any = None
        self.gone = asyncio.get_running_loop().create_future()

    def pause_writing(self) -> None:
        self.source.pause_reading()

    def resume_writing(self) -> None:
        if not self.source.is_closing():
            self.source.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)


class FromSource:
    """Where it comes from."""

    def __init__(self, target: asyncio.WriteTransport) -> None:
        self.target = target

    def connection_made(self, transport: Any) -> None:
        self.target.get_protocol().source = transport  # type: ignore[attr-defined]

    def eof_received(self) -> None:
        self.target.close()


class Source(FromSource, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.target.write(data)


class BufferedSource(FromSource, asyncio.BufferedProtocol):
    def __init__(self, target: asyncio.WriteTransport) -> None:
        super().__init__(target)
        self.buffer = memoryview(bytearray(CHUNK))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.target.write(bytes(self.buffer[:nbytes]))


async def pass_on(reader: Callable[[Any], Any], source: int, target: int) -> None:
    """`Net.copy`."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Target, HOST, target)
    await loop.create_connection(lambda: reader(transport), HOST, source)
    await protocol.gone


async def serve(protocol: Callable[[], asyncio.Protocol], listening: Callable[[int], None]) -> None:
    """Until the end of this process."""
    await forever(await asyncio.get_running_loop().create_server(protocol, HOST, 0, backlog=1024), listening)


async def serve_streams(f: Callable[..., Any], listening: Callable[[int], None]) -> None:
    """Until the end of this process."""
    await forever(await asyncio.start_server(f, HOST, 0, backlog=1024), listening)


async def forever(server: asyncio.Server, listening: Callable[[int], None]) -> None:
    listening(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until it ends."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


NETS = {"asyncio": Protocols(), "asyncio-buffered": Buffered(), "asyncio-streams": Streams()}
