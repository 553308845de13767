"""A TLS connection that whoever reads and writes without waiting uses as a socket.

OpenSSL does no I/O here. What comes is written to a memory BIO, and what is to be sent is read from one. (An SSLSocket
would read and write itself, with two system calls for each record of 16 KiB, but its `unwrap` cannot say "I am done"
without reading, which on a connection that is closed in one direction only destroys what the peer still sends.) All
connections of a hub share one pair of BIOs, an `Exchange`, because a BIO keeps the memory of the largest thing that
was ever in it.

`TLSSocket` has the methods of a socket, and raises BlockingIOError where a socket would have to wait. To do so it takes
the place of a `poll.Layer`: the hub's poll asks it what to wait for. Invariants:

1. Between two calls the exchange is empty. What a call did not use up is kept in ``_raw`` (came, not decrypted),
   ``_plain`` (decrypted, not asked for) and ``_cipher`` (encrypted, not sent).
2. ``_owed`` bytes at the front of what is to be sent are encrypted already and part of ``_cipher``. They do not count
   as sent, so the caller sends them again, first, as it does with what a socket did not take. (OpenSSL demands the
   same of who calls SSL_write.) So a caller's account of what is unsent is right, and one that waits for room waits
   for the right thing.
3. While there is something in ``_raw``, ``_plain`` or the SSL object that can be read, and the handler wants to read,
   the descriptor stands in ``poll.again``: the kernel does not report these bytes any more.
4. Nothing is encrypted, and nothing decrypted is handed out, before the handshake is done, and with it every
   verification. The handshake is done by whichever call comes; until then the handler is called for what it wants
   whenever the handshake may go on.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .certificates import spell, subject
from .outbox import Buffer
from .poll import GONE, IN, OUT, Handler

if TYPE_CHECKING:
    from .core import Hub

#: Bytes that one read takes from the kernel.
CHUNK = 65536
#: A record's content (RFC 8446, 5.1), and how much is encrypted before it is given to the kernel.
RECORD = 16384
BATCH = 4 * RECORD
#: What a ClientHello may take. OpenSSL would allocate what its head announces, up to 128 KiB. What else comes in a
#: handshake it limits itself: to 100 KiB, for certificates.
HELLO_BYTES = 8 << 10
#: A record's head and the head of the ClientHello in it (RFC 8446, 4 and 5.1): 16 03 vv LL LL | 01 NN NN NN
HELLO_HEAD = 9
HANDSHAKE, ALERT, CLIENT_HELLO = 0x16, 0x15, 0x01

IS_PYPY = sys.implementation.name == "pypy"

#: What OpenSSL says of a peer, in words that say what to do.
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate, and here it needs one",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of us (cert and key)",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer ended the handshake: it wants a certificate of us, or other ciphers",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer takes no version of TLS that we do (1.2 and later)",
    "UNSUPPORTED_PROTOCOL": "the peer offers no version of TLS that we take (1.2 and later)",
}


class TLSError(OSError):
    """The handshake failed, or what came later was no TLS of the peer that it was made with. Nothing can follow."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTO, text)


class Unverified(TLSError):
    """The peer's certificate is not accepted."""


class NotTLS(TLSError):
    """The peer speaks something else from its first byte on."""


class Exchange:
    """What all TLS connections of a hub use, one after the other, and leave empty (invariant 1)."""

    __slots__ = ("incoming", "outgoing", "scratch")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.scratch = memoryview(bytearray(CHUNK))

    def begin(self, raw: bytes) -> None:
        """Start with *raw*. What a ctrl-C has left here is dropped: that connection will miss it, and end."""
        if self.incoming.pending:
            self.incoming.read()
        if self.outgoing.pending:
            self.outgoing.read()
        if raw:
            self.incoming.write(raw)


class TLSSocket:
    """A TLS connection with the methods of a non-blocking socket that sessions, links, streams and `Outbox` use.

    What a send did not take has to be sent again first, with whatever follows it.

    :param sock: connected and non-blocking; it becomes this object's.
    :param host: whom the peer's certificate has to name. None: we are the server.
    :ivar identity: whom the peer's certificate names (`certificates.subject`), once the handshake is done; "" if it
        showed none or was not asked to.
    """

    __slots__ = (
        "_asked",
        "_cipher",
        "_context",
        "_ending",
        "_exchange",
        "_handler",
        "_host",
        "_met",
        "_owed",
        "_plain",
        "_raw",
        "_sock",
        "_tls",
        "_wanted",
        "hub",
        "identity",
        "ready",
    )

    def __init__(self, hub: Hub, sock: socket.socket, context: ssl.SSLContext, host: str | None = None) -> None:
        self.hub = hub
        self.identity = ""
        #: The handshake is done.
        self.ready = False
        self._sock = sock
        self._context = context
        self._host = host
        self._exchange = hub.tls.exchange
        #: A server makes it when the first bytes have come: who connects and says nothing costs none.
        self._tls: ssl.SSLObject | None = None
        self._raw: bytes = b""
        self._plain: Buffer = b""
        self._cipher: Buffer = b""
        self._owed = 0
        #: The first bytes of the peer have come, and were those of TLS.
        self._met = False
        #: `shutdown` was called, and the kernel has not been told yet.
        self._ending = False
        #: What the handler wants, and what the kernel was asked for.
        self._wanted = self._asked = 0
        self._handler: Handler | None = None
        hub.poll.layers[sock.fileno()] = self
        if host is not None:
            self._tls = self._make()

    def _make(self) -> ssl.SSLObject:
        exchange = self._exchange
        return self._context.wrap_bio(exchange.incoming, exchange.outgoing, self._host is None, self._host)

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    # -- the handshake

    def handshake(self) -> None:
        """Go on with the handshake.

        :raises BlockingIOError: it needs something of the peer.
        :raises TLSError: it has failed.
        """
        if self.ready:
            return
        if self._tls is None:
            self._tls = self._meet()
        self._exchange.begin(self._take_raw())
        try:
            self._shake(self._tls)
        finally:
            self._leave()
        self.ready = True
        der = self._tls.getpeercert(True)
        if der and self._context.verify_mode != ssl.CERT_NONE:  # what was shown, was verified
            self.identity = subject(self._tls.getpeercert() or {}, der)

    def _meet(self) -> ssl.SSLObject:
        """Wait for a client's first record before OpenSSL allocates 40 KiB for it."""
        while len(self._raw) < self._need():
            self._raw += bytes(self._receive())
            self._check_first(self._raw)
        self._met = True
        return self._make()

    def _need(self) -> int:
        """How long the first record is, as far as one can tell."""
        if len(self._raw) < HELLO_HEAD:
            return HELLO_HEAD
        if self._raw[5] != CLIENT_HELLO or int.from_bytes(self._raw[6:9], "big") > HELLO_BYTES:
            raise TLSError("what the peer began with is no ClientHello of TLS, or far too long")
        return 5 + int.from_bytes(self._raw[3:5], "big")

    def _check_first(self, raw: Buffer) -> None:
        if raw[0] != HANDSHAKE and (self._host is None or raw[0] != ALERT):
            raise NotTLS("the peer does not speak TLS")

    def _shake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                raise self._failed(error) from None
            self._push()
            raw = self._receive()
            if not self._met:
                self._check_first(raw)
            self._met = True
            self._exchange.incoming.write(raw)

    def _failed(self, error: ssl.SSLError) -> TLSError:
        """Send the alert that OpenSSL has written, and say what happened."""
        try:
            self._push()
        except OSError:
            pass  # it is a courtesy
        if IS_PYPY:  # it leaves the error in OpenSSL's queue, for whose call comes next; a new SSL object empties that
            self._make()
        if isinstance(error, ssl.SSLCertVerificationError):
            return Unverified(f"the peer's certificate is not accepted: {error.verify_message}")
        return TLSError(f"TLS: {REASONS.get(error.reason, '') or spell(error)}")

    # -- reading

    def recv(self, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.recvmsg_into([memoryview(data)])[0]])

    def recv_into(self, buffer: memoryview) -> int:
        return self.recvmsg_into([buffer])[0]

    def recvmsg_into(self, buffers: list[memoryview]) -> tuple[int]:
        """Fill *buffers* as far as it goes: how many bytes, 0 at the end, in a tuple.

        :raises ConnectionResetError: the connection has ended, but its end was not announced: somebody may have cut it.
        """
        self.handshake()
        assert self._tls is not None
        self._exchange.begin(self._take_raw())
        try:
            return (self._fill(self._tls, buffers),)
        finally:
            self._leave()

    def _fill(self, tls: ssl.SSLObject, buffers: list[memoryview]) -> int:
        total = 0
        more = True
        for buffer in buffers:
            while len(buffer):
                got = self._take_plain(buffer)
                try:
                    got = got or int(tls.read(len(buffer), buffer))  # type: ignore[arg-type]
                except ssl.SSLWantReadError:
                    if not more or not (more := self._feed(total)):
                        return total
                    continue
                except ssl.SSLZeroReturnError:  # the peer's goodbye, after ours
                    return total
                except ssl.SSLError as error:
                    if total:
                        return total  # it says the same again
                    raise self._failed(error) from None
                if not got:
                    return total
                buffer = buffer[got:]
                total += got
        if tls.pending():  # the rest of a record
            self._plain = tls.read(tls.pending())
        return total

    def _feed(self, total: int) -> bool:
        """Get more from the kernel: is there some? *total* bytes were read already, which are not to be lost."""
        try:
            raw = self._receive()
        except OSError:
            if total:
                return False
            raise
        self._exchange.incoming.write(raw)
        return True

    def _receive(self) -> memoryview:
        """What the kernel has: valid until the next call."""
        scratch = self._exchange.scratch
        size = self._sock.recv_into(scratch)
        if not size:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was cut off, without the goodbye of TLS")
        return scratch[:size]

    def _take_raw(self) -> bytes:
        raw, self._raw = self._raw, b""
        return raw

    def _take_plain(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self._plain))
        if size:
            buffer[:size] = self._plain[:size]
            self._plain = memoryview(self._plain)[size:] if size < len(self._plain) else b""
        return size

    def _leave(self) -> None:
        """The end of each call that has used the exchange (invariants 1 and 3)."""
        if self._exchange.incoming.pending:
            self._raw = self._exchange.incoming.read()
        if self._exchange.outgoing.pending:
            try:
                self._push()
            except OSError:
                pass  # what it was will show at the next call
        self._mind()

    # -- writing

    def send(self, data: Buffer) -> int:
        return self.sendmsg([data])

    def sendmsg(self, buffers: list[Any]) -> int:
        """Send *buffers* as far as it goes: how many bytes. Small ones share records, large ones are not copied."""
        self.handshake()
        assert self._tls is not None
        self._exchange.begin(b"")
        done = 0
        try:
            self._push()
            done, self._owed = self._owed, 0
            for batch in _batches(buffers, done):
                self._owed = self._encrypt(self._tls, batch)
                self._push()
                done += self._owed
                self._owed = 0
        except BlockingIOError:
            if not done:
                raise
        finally:
            self._mind()
        return done

    def _encrypt(self, tls: ssl.SSLObject, parts: list[Buffer]) -> int:
        size = 0
        for part in parts:
            try:
                size += tls.write(part)  # type: ignore[arg-type]
            except ssl.SSLError as error:
                raise self._failed(error) from None
        return size

    def _push(self) -> None:
        """Give the kernel what is encrypted.

        :raises BlockingIOError: it did not take all of it.
        """
        outgoing = self._exchange.outgoing
        if outgoing.pending:
            self._cipher = b"".join((self._cipher, outgoing.read())) if self._cipher else outgoing.read()
        while self._cipher:
            sent = self._sock.send(self._cipher)
            self._cipher = memoryview(self._cipher)[sent:] if sent < len(self._cipher) else b""

    # -- readiness: what a `poll.Layer` does

    def ask(self, events: int) -> int:
        self._wanted = events
        if events & IN and (self._raw or self._plain):
            self.hub.poll.again.add(self._sock.fileno())
        self._asked = self._kernel()
        return self._asked

    def between(self, handler: Handler) -> Handler:
        self._handler = handler
        return self._fire

    def _kernel(self) -> int:
        """What has to happen for what is wanted to go on."""
        if not self._wanted:
            return 0
        events = self._wanted if self.ready else IN
        return events | OUT if self._cipher else events

    def _mind(self) -> None:
        """Something may have changed of what there is to wait for."""
        fd = self._sock.fileno()
        if not self._wanted or fd < 0:
            return
        asked = self._kernel()
        if asked != self._asked:
            self._asked = asked
            self.hub.poll.ask_kernel(fd, asked)
        if self._wanted & IN and (self._raw or self._plain):
            self.hub.poll.again.add(fd)

    def _fire(self, events: int) -> None:
        wanted = self._wanted
        if events & OUT and self._cipher:
            self._flush()
        told = events & (wanted | GONE) if self.ready else wanted | events & GONE
        if told and self._handler is not None:
            self._handler(told)

    def _flush(self) -> None:
        """There is room again: for what no caller will send once more, such as the last words."""
        self._exchange.begin(b"")
        try:
            self._push()
            self._tell_end()
        except OSError:
            pass  # who reads or writes next hears of it
        self._mind()

    # -- the end

    def shutdown(self, how: int) -> None:
        """Say that no more will be sent (*how* is SHUT_WR). The other direction goes on.

        :raises BlockingIOError: there is no room for these words yet. They leave when there is, if somebody waits for
            anything here; else call again.
        """
        if not self._ending and self.ready:
            assert self._tls is not None
            self._exchange.begin(b"")
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it would like to hear the same of the peer, or it has broken before
        self._ending = True
        try:
            self._push()
            self._tell_end()
        finally:
            self._mind()

    def _tell_end(self) -> None:
        if self._ending and not self._cipher:
            self._ending = False
            self._sock.shutdown(socket.SHUT_WR)

    def plain(self) -> socket.socket:
        """Give up TLS, and this object: the bare socket, for last words to who does not speak it. Register it anew."""
        self._let_go()
        return self._sock

    def close(self) -> None:
        """Close at once, with a goodbye if there is room for it. Twice does nothing."""
        fd = self._sock.fileno()
        if fd < 0:
            return
        if self.ready and not self._ending and not self._cipher and not self.hub.forked:  # there, it is the parent's
            try:
                self.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        self._let_go()
        self._sock.close()

    def _let_go(self) -> None:
        fd = self._sock.fileno()
        self.hub.poll.layers.pop(fd, None)
        self.hub.poll.again.discard(fd)
        self._handler = None  # it refers to who refers to us: SSL objects are not left to the garbage collector


def _batches(buffers: list[Any], skip: int) -> Iterator[list[Buffer]]:
    """*buffers* without their first *skip* bytes, as lists of records."""
    batch: list[Buffer] = []
    size = 0
    for record in _records(buffers, skip):
        batch.append(record)
        size += len(record)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _records(buffers: list[Any], skip: int) -> Iterator[Buffer]:
    """What goes into a record each: what is large is cut, what is small is joined."""
    small: list[Buffer] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer)[skip:]
        skip = max(skip - len(buffer), 0)
        while len(view):
            part = view[: RECORD - size]
            view = view[len(part) :]
            small.append(part)
            size += len(part)
            if size == RECORD:
                yield part if len(small) == 1 else b"".join(small)
                small, size = [], 0
    if small:
        yield small[0] if len(small) == 1 else b"".join(small)
