"""aioquic: QUIC in Python, one stream of one connection, by each of its congestion controls."""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, Callable

from gauge import Gauge
from sides.side import installed
from sides.tls import kept

from .flow import Flow, chunks

PROTOCOL = ["bench"]
#: The receiver says so often how much has come, and the sender has so much more under way or waiting at most: aioquic
#: takes whatever it is given.
SAID_BYTES = 64 << 10
AHEAD_BYTES = 1 << 20
_COUNT = struct.Struct(">Q")


class QUIC(Flow):
    package = "aioquic"

    def __init__(self, control: str) -> None:
        self.control = control
        self.title = f"aioquic, {control}"
        self.settings = f"congestion control {control}; encrypted, as QUIC always is"

    def version(self) -> str:
        installed("trustme")
        return super().version()

    def receive(self, host: str, port: int, ready: Callable[[], Gauge]) -> None:
        asyncio.run(self._receive(host, port, ready))

    async def _receive(self, host: str, port: int, ready: Callable[[], Gauge]) -> None:
        import trustme
        from aioquic.asyncio import serve
        from aioquic.quic.configuration import QuicConfiguration

        issued = trustme.CA().issue_cert(host)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        configuration = QuicConfiguration(is_client=False, alpn_protocols=PROTOCOL)
        configuration.load_cert_chain(kept("cert", chain), kept("key", issued.private_key_pem.bytes()))
        taken: asyncio.Future[Gauge] = asyncio.get_running_loop().create_future()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def stream(reader: Any, writer: Any) -> None:
            self._task = asyncio.ensure_future(take(reader, writer, taken))
            self._task.add_done_callback(lambda task: done.done() or done.set_result(task.result()))

        await serve(host, port, configuration=configuration, stream_handler=stream)
        gauge = await asyncio.get_running_loop().run_in_executor(None, ready)
        taken.set_result(gauge)
        await asyncio.wait({done}, timeout=gauge.left)
        if done.done():
            done.result()

    def send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        asyncio.run(self._send(host, port, ready))

    async def _send(self, host: str, port: int, ready: Callable[[], object]) -> None:
        from aioquic.asyncio import connect
        from aioquic.quic.configuration import QuicConfiguration

        configuration = QuicConfiguration(
            alpn_protocols=PROTOCOL, verify_mode=ssl.CERT_NONE, congestion_control_algorithm=self.control
        )
        async with connect(host, port, configuration=configuration) as connection:
            await asyncio.get_running_loop().run_in_executor(None, ready)
            reader, writer = await connection.create_stream()
            sent = confirmed = 0
            for chunk in chunks():
                while sent - confirmed > AHEAD_BYTES:
                    (confirmed,) = _COUNT.unpack(await reader.readexactly(_COUNT.size))
                writer.write(chunk)
                sent += len(chunk)


async def take(reader: Any, writer: Any, taken: asyncio.Future[Gauge]) -> None:
    """All of a stream, as far as there is time."""
    gauge = await taken
    came = said = 0
    while gauge.left:
        data = await reader.read(SAID_BYTES)
        if not data:
            raise EOFError("the sender has ended")
        gauge.feed(data)
        came += len(data)
        if came - said >= SAID_BYTES:
            said = came
            writer.write(_COUNT.pack(came))


FLOWS = {f"aioquic-{control}": QUIC(control) for control in ("reno", "cubic")}
