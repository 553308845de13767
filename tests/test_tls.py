"""``h.tls``: connections whose other side is known, and errors that say what is wrong with it."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from peers import PATIENCE, until

import vanilla
from vanilla import listener
from vanilla.certificates import client_context, server_context
from vanilla.tlssocket import TLSSocket

BIG = b"0123456789abcdef" * (1 << 18)  # 4 MiB: more than a socket takes at once


def test_a_stream_of_tls(h, certs):
    with h.tls.listen(cert=certs.cert, key=certs.key) as server:

        @server.consume
        def echo(conn):
            for data in conn.recver:
                conn.send([b"Echo: ", data])

        with h.tls.connect(server.port, "localhost", PATIENCE, certs.ca) as conn:
            conn.send("hello")
            assert conn.recv_n(11, PATIENCE) == b"Echo: hello"
            assert conn.peer == ("localhost", server.port)


def test_a_server_may_speak_first(h, certs):
    with h.tls.listen(cert=certs.server) as server:
        server.consume(lambda conn: [conn.send(BIG), conn.close()])
        with h.tls.connect(server.port, ca=certs.ca) as conn:
            assert conn.recv_n(len(BIG), PATIENCE) == BIG
            with pytest.raises(vanilla.Closed):
                conn.recv(PATIENCE)


def test_contexts_may_stand_for_files(h, certs):
    with h.tls.listen(context=server_context(certs.server)) as server:
        with h.tls.connect(server.port, context=client_context(certs.ca)) as conn:
            assert conn.peer


@pytest.mark.parametrize(
    ("server", "client", "text"),
    [
        ("server", {}, "certificate is not accepted"),  # the system knows nothing of this authority
        ("server", {"ca": "stranger_ca"}, "certificate is not accepted"),
        ("stranger", {"ca": "ca"}, "certificate is not accepted"),
        ("elsewhere", {"ca": "ca"}, "certificate is not valid for '127.0.0.1'"),
        ("expired", {"ca": "ca"}, "certificate has expired"),
    ],
)
def test_a_client_does_not_accept_the_wrong_server(h, certs, server, client, text):
    with h.tls.listen(cert=getattr(certs, server)) as server:
        with pytest.raises(vanilla.ConnectionLost) as caught:
            h.tls.connect(
                server.port, timeout=PATIENCE, **{key: getattr(certs, value) for key, value in client.items()}
            )
        assert str(caught.value).startswith(f"tls://127.0.0.1:{server.port}: the peer's certificate is not accepted")
        assert text in str(caught.value)
        with pytest.raises(vanilla.Timeout):
            server.recv(timeout=0)


def test_without_verification_anybody_is_taken(h, certs):
    with h.tls.listen(cert=certs.stranger) as server, h.tls.connect(server.port, verify=False) as conn:
        assert conn.peer


def test_a_server_that_speaks_no_tls_is_told_apart(h):
    with h.tcp.listen() as server:
        server.consume(lambda conn: conn.send(b"\xc6 or anything else"))
        with pytest.raises(
            vanilla.ConnectionLost, match=r"^tls://.* does not speak TLS; is it a plain tcp:// on the other side\?"
        ):
            h.tls.connect(server.port, timeout=PATIENCE)


def test_a_server_that_hangs_up_in_the_handshake_is_a_lost_connection(h):
    with h.tcp.listen() as server:
        server.consume(lambda conn: [conn.recv(), conn.close()])
        with pytest.raises(vanilla.ConnectionLost, match="in the middle of the TLS handshake"):
            h.tls.connect(server.port, timeout=PATIENCE)


def test_a_server_that_says_nothing_costs_the_timeout_and_no_descriptor(h):
    with h.tcp.listen() as server:
        before = set(h.poll.layers)
        with pytest.raises(vanilla.Timeout, match="TLS handshake with tls://"):
            h.tls.connect(server.port, timeout=20)
        assert set(h.poll.layers) == before


@pytest.mark.trap("blocking TLS handshake")
def test_a_handshake_that_the_peer_does_not_answer_does_not_block_the_hub(h):
    heard = threading.Event()

    def say_nothing(listening):
        conn, _ = listening.accept()
        with conn:
            heard.wait(10)  # a connect that blocks is to end, too

    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = threading.Thread(target=say_nothing, args=(listening,))
        silent.start()
        task = h.spawn(h.tls.connect, listening.getsockname()[1])
        for _ in range(5):
            h.sleep(1)
        assert not task.done
        heard.set()
        with pytest.raises(vanilla.ConnectionLost):
            task.join(PATIENCE)
        silent.join()


def test_nobody_there_is_a_lost_connection_that_names_the_url(h):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(vanilla.ConnectionLost, match=f"^tls://127.0.0.1:{port}: connection refused"):
            h.tls.connect(port)


def test_a_client_that_fails_is_logged_and_keeps_no_other_out(h, certs, caplog):
    caplog.set_level(logging.INFO, "vanilla")
    with h.tls.listen(cert=certs.server, client_ca=certs.ca) as server, socket.socket() as silent:
        silent.connect(("127.0.0.1", server.port))
        with h.tcp.connect(server.port) as plain:
            plain.send(b"GET / HTTP/1.1")
            with pytest.raises(vanilla.Closed):
                plain.recv(PATIENCE)
        with h.tls.connect(server.port, ca=certs.ca, cert=certs.client) as conn:
            conn.send(b"hello")
            other = server.recv(PATIENCE)
            assert other.recv(PATIENCE) == b"hello"
            other.close()
        assert "no connection from" in caplog.text and "does not speak TLS" in caplog.text


def test_more_handshakes_than_connections_fit_lose_none(h, certs):
    count = listener.AHEAD + 6
    context = client_context(certs.ca)
    with h.tls.listen(cert=certs.server) as server:
        tasks = [h.spawn(h.tls.connect, server.port, context=context) for _ in range(count)]
        until(h, lambda: len(server._state.buffer) == listener.AHEAD)
        h.sleep(20)  # the handshakes that are under way end, and find no room
        others = [server.recv(PATIENCE) for _ in range(count)]
        conns = [task.join(PATIENCE) for task in tasks]
        for i, conn in enumerate(conns):
            conn.send(str(i))
        assert sorted(int(other.recv(PATIENCE)) for other in others) == list(range(count))
        for conn in conns + others:
            conn.close()


def test_a_server_that_is_closed_receives_no_handshake_any_more(h, certs):
    with h.tcp.listen() as relay, h.tls.listen(cert=certs.server) as server:
        task = h.spawn(h.tls.connect, relay.port, context=client_context(certs.ca))
        near, far = relay.recv(PATIENCE), h.tcp.connect(server.port)
        h.sleep(1)
        server.close()
        far.send(near.recv(PATIENCE))
        near.send(far.recv(PATIENCE))
        far.send(near.recv(PATIENCE))
        with task.join(PATIENCE) as conn, pytest.raises((vanilla.Closed, vanilla.ConnectionLost)):
            while True:  # the server's goodbye, or the cut
                near.send(far.recv(PATIENCE))
        conn.close()


def test_a_goodbye_for_which_there_is_no_room_yet_is_said_later(h, certs, monkeypatch):
    calls, real = [], TLSSocket.shutdown

    def shutdown(sock, how):
        calls.append(sock)
        if len(calls) == 1:
            raise BlockingIOError
        real(sock, how)

    with h.tls.listen(cert=certs.server) as server, h.tls.connect(server.port, ca=certs.ca) as conn:
        other = server.recv(PATIENCE)
        monkeypatch.setattr(TLSSocket, "shutdown", shutdown)
        other.send(b"x")
        other.sender.close()
        assert conn.recv(PATIENCE) == b"x"
        with pytest.raises(vanilla.Closed):
            conn.recv(PATIENCE)
        assert calls[:2] == [calls[0]] * 2
        conn.send(b"y")
        assert other.recv(PATIENCE) == b"y"
        other.close()
