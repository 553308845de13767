"""The service manager's protocols: sockets that are passed, states that are told, and the program under a manager."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time

import pytest
from peers import until
from programs import BROKER, PATIENCE, environment, said, started

from vanilla.broker import systemd
from vanilla.broker.broker import Broker
from vanilla.broker.systemd import Manager, take_sockets
from vanilla.protocol.urls import Address

#: Puts descriptors where a manager does, from 3 on, says so with its own process id, and becomes the program.
LAUNCH = """
import fcntl, os, sys
fds, names, *argv = sys.argv[1:]
kept = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds.split(",") if fd]
for place, fd in enumerate(kept, 3):
    os.dup2(fd, place)
    os.close(fd)
os.environ.setdefault("LISTEN_FDS", str(len(kept)))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(argv[0], argv)
"""

#: PyPy 3.9 does not name it.
SO_PASSCRED = getattr(socket, "SO_PASSCRED", 16)


class Fake:
    """A service manager: passes sockets to a broker, and hears what it says."""

    def __init__(self, name):
        self.variable = name.replace("\0", "@", 1)
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(name)
        self.inbox.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        self.inbox.settimeout(PATIENCE)
        self.passed = []

    def socket(self, address="127.0.0.1", kind=socket.SOCK_STREAM, listen=True):
        """A socket to pass; *address* is a path, an abstract name, or an IPv4 host."""
        family = socket.AF_UNIX if address[0] in "/\0" else socket.AF_INET
        sock = socket.socket(family, kind)
        sock.bind(address if family == socket.AF_UNIX else (address, 0))
        if listen:
            sock.listen()
        self.passed.append(sock)
        return sock

    def start(self, log, *args, names="", **variables):
        fds = [sock.fileno() for sock in self.passed]
        argv = [sys.executable, "-c", LAUNCH, ",".join(map(str, fds)), names, *BROKER, *args]
        env = environment(NOTIFY_SOCKET=self.variable, **variables)
        return started(argv, log, pass_fds=fds, env=env)

    def told(self, process=None):
        """The next thing that it was told, by *process* if that is given."""
        data, extra, _, _ = self.inbox.recvmsg(4096, 1024)
        ((_, _, creds),) = extra
        assert process is None or int.from_bytes(creds[:4], sys.byteorder) == process.pid
        return dict(line.split("=", 1) for line in data.decode().split("\n"))

    def told_nothing(self):
        self.inbox.setblocking(False)
        try:
            return not self.inbox.recv(4096)
        except BlockingIOError:
            return True

    def close(self):
        for sock in (self.inbox, *self.passed):
            sock.close()


@pytest.fixture(params=["a path", "an abstract name"])
def fake(request, tmp_path):
    name = f"{tmp_path}/notify" if request.param == "a path" else f"\0vanilla-test-{os.getpid()}-{time.monotonic_ns()}"
    manager = Fake(name)
    yield manager
    manager.close()


@pytest.fixture
def manager(tmp_path):
    manager = Fake(f"{tmp_path}/notify")
    yield manager
    manager.close()


@pytest.fixture
def log():
    with tempfile.TemporaryFile() as file:
        yield file


def tcp_url(sock):
    return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


def test_the_life_of_a_broker_under_a_manager(h, fake, log, tmp_path):
    tcp, path = fake.socket(), f"{tmp_path}/s"
    fake.socket(path)
    with fake.start(log, "--drain", "100", names="one:two") as process:
        ready = fake.told(process)
        assert ready == {"READY": "1", "STATUS": f"listening on {tcp_url(tcp)}, unix://{path}"}
        for url in tcp_url(tcp), f"unix://{path}":
            assert process.stdout.readline().decode() == f"listening on {url}\n"
            with h.client.connect(url) as remote:
                remote.push("jobs").send(1)
        process.send_signal(signal.SIGTERM)
        stopping = fake.told(process)
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 100_000
        assert "100 ms" in stopping["STATUS"]
        assert process.wait(PATIENCE) == 0
        assert fake.told_nothing()
    assert "endpoint 'jobs': left: ready 2" in said(log)
    assert os.path.exists(path), "the file of a socket that was passed is the manager's"
    with socket.socket(socket.AF_UNIX) as later:
        later.connect(path)  # waits there for the next broker


def test_passed_sockets_replace_those_that_it_would_open(h, manager, log):
    manager.socket()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with manager.start(log, "--listen", tcp_url(taken)) as process:
            assert manager.told()["STATUS"] == f"listening on {tcp_url(manager.passed[0])}"
            with h.client.connect(tcp_url(manager.passed[0])) as remote:
                remote.ping()
            process.terminate()
            assert process.wait(PATIENCE) == 0


def test_check_shows_what_was_passed_and_tells_nobody(manager, log):
    manager.socket()
    with manager.start(log, "--check") as process:
        out = process.communicate(timeout=PATIENCE)[0].decode()
    assert process.returncode == 0
    assert re.search(rf'^listen = \["{tcp_url(manager.passed[0])}"\] +# systemd$', out, re.MULTILINE)
    assert manager.told_nothing()


def test_who_is_ready_listens_everywhere(h, manager, log, tmp_path):
    urls = [f"unix://{tmp_path}/{number}" for number in range(5)]
    listen = [arg for url in urls for arg in ("--listen", url)]
    with manager.start(log, *listen) as process:
        assert manager.told(process)["READY"] == "1"
        for url in urls:
            h.client.connect(url).close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert not os.path.exists(f"{tmp_path}/0")


def test_who_cannot_listen_is_never_ready(manager, log):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with manager.start(log, "--listen", tcp_url(taken)) as process:
            assert process.wait(PATIENCE) == 1
    assert manager.told_nothing()


WRONG = {
    "a datagram socket": (lambda m, tmp: m.socket(kind=socket.SOCK_DGRAM, listen=False), "AF_INET, SOCK_DGRAM"),
    "a packet socket": (lambda m, tmp: m.socket(f"{tmp}/p", kind=socket.SOCK_SEQPACKET), "AF_UNIX, SOCK_SEQPACKET"),
    "a connection": (lambda m, tmp: m.passed.extend(socket.socketpair()), "Accept=no"),
    "one that does not listen": (lambda m, tmp: m.socket(listen=False), "Accept=no"),
    "an abstract name": (lambda m, tmp: m.socket(f"\0vanilla-{os.getpid()}-{time.monotonic_ns()}"), "abstract"),
    "a file": (lambda m, tmp: m.passed.append(open(tmp / "file", "w")), "is no socket"),  # noqa: SIM115
    "one that others reach": (lambda m, tmp: m.socket("0.0.0.0"), "other machines can reach"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_socket_of_a_wrong_kind_is_one_clear_line_and_status_1(manager, log, tmp_path, case):
    passing, words = WRONG[case]
    passing(manager, tmp_path)
    names = ":".join(["mine"] * len(manager.passed))
    with manager.start(log, names=names) as process:
        assert process.wait(PATIENCE) == 1
    assert said(log).count("\n") == 1
    assert words in said(log)
    assert case == "one that others reach" or "descriptor 3 (mine)" in said(log)
    assert manager.told_nothing()


def test_insecure_allows_a_passed_socket_that_others_reach(manager, log):
    manager.socket("0.0.0.0")
    with manager.start(log, "--insecure") as process:
        assert manager.told()["READY"] == "1"
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LISTEN_FDS": "x"}, "LISTEN_FDS is 'x', not a number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is '-1', not a number"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDNAMES has 2 names for 1 sockets"),
        ({"LISTEN_FDS": "1000000"}, "Bad file descriptor"),
    ],
    ids=["no number", "negative", "names", "missing"],
)
def test_variables_that_cannot_be_are_refused(manager, log, variables, words):
    with manager.start(log, **variables) as process:
        assert process.wait(PATIENCE) == 1
    assert said(log).count("\n") == 1
    assert words in said(log)


def test_what_is_meant_for_another_process_is_left_alone(manager, log):
    manager.socket()
    with manager.start(log, "--listen", "tcp://127.0.0.1:0", LISTEN_PID="1") as process:
        assert manager.told()["STATUS"] != f"listening on {tcp_url(manager.passed[0])}"
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_no_child_inherits_the_variables():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "LISTEN_PIDFDID": "5", "OTHER": "x"}
    environ.update(NOTIFY_SOCKET="/no/such", WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid()))
    assert take_sockets(environ) == []
    Manager(environ)
    assert environ == {"OTHER": "x"}


def test_a_passed_socket_is_tuned_like_our_own(h):
    with socket.create_server(("127.0.0.1", 0)) as server:
        fd = os.dup(server.fileno())
        os.set_inheritable(fd, True)
        sock, address = systemd._take(fd, "x")
        assert address == Address("tcp", *server.getsockname())
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        with Broker(h) as broker, socket.create_connection(server.getsockname()):
            assert broker.adopt(sock, address) == tcp_url(server)
            until(h, lambda: broker.sessions)
            (session,) = broker.sessions
            assert session.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert session.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_watchdog_gets_signs_of_life_until_the_end(h, manager, log):
    with manager.start(log, "--listen", "tcp://127.0.0.1:0", WATCHDOG_USEC="20000") as process:
        url = process.stdout.readline().decode().split()[-1]
        told = [manager.told(process) for _ in range(5)]
        assert told.count({"WATCHDOG": "1"}) == 4
        remote = h.client.connect(url)
        remote.push("jobs").send(1)
        back = remote.pull("jobs", ack=True)
        held = back.recv(timeout=PATIENCE * 1000)
        process.terminate()
        while "STOPPING" not in manager.told():
            pass
        assert manager.told() == {"WATCHDOG": "1"}, "while it drains, its loop turns"
        process.terminate()
        assert process.wait(PATIENCE) == 1
    assert held.item == 1


@pytest.mark.parametrize("changes", [{}, {"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}])
def test_who_was_not_asked_gives_no_signs_of_life(h, manager, changes):
    environ = {"NOTIFY_SOCKET": manager.variable, **changes}
    if "WATCHDOG_PID" in changes:
        environ["WATCHDOG_USEC"] = "1000"
    told = Manager(environ)
    told.watch(h)
    h.sleep(5)
    assert manager.told_nothing()


def test_a_loop_that_stands_still_gives_no_sign_of_life(h, manager):
    Manager({"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}).watch(h)
    assert manager.told() == {"WATCHDOG": "1"}
    time.sleep(0.01)  # ten intervals in which nothing of the hub runs
    assert manager.told_nothing()


def test_a_reload_is_told_before_and_after_also_if_it_fails(manager):
    told = Manager({"NOTIFY_SOCKET": manager.variable})
    told.ready("listening")
    assert manager.told() == {"READY": "1", "STATUS": "listening"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with pytest.raises(ValueError):
        with told.reloading("reading the files again"):
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            beginning = manager.told()
            assert before <= int(beginning.pop("MONOTONIC_USEC")) <= after
            assert beginning == {"RELOADING": "1", "STATUS": "reading the files again"}
            raise ValueError
    assert manager.told() == {"READY": "1", "STATUS": "listening"}


@pytest.mark.parametrize("name", ["", "/no/such/socket", "vsock:2:1", "@"])
def test_a_manager_that_cannot_be_told_is_no_reason_to_end(h, caplog, name):
    told = Manager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    told.ready("x")
    told.stopping(1, "x")
    with told.reloading("x"):
        pass
    assert bool(caplog.records) == bool(name)


def test_a_manager_whose_queue_is_full_is_waited_for_a_while_and_then_no_more(manager, caplog, monkeypatch):
    told = Manager({"NOTIFY_SOCKET": manager.variable})
    with contextlib.ExitStack() as others:
        sent = 1
        while sent:  # one's own output may be full before the queue is: it is when a fresh socket can send nothing
            other = others.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            other.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x", manager.variable)
                    sent += 1
        told.stopping(1, "x")
        monkeypatch.setattr(systemd, "PATIENCE", 0.01)
        told.ready("x")
    assert [record.args[0] for record in caplog.records] == ["STOPPING=1", "READY=1"]


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_systemds_own_tool_passes_a_socket(h, log, tmp_path):
    path = f"{tmp_path}/s"
    argv = ["systemd-socket-activate", f"--listen={path}", "--fdname=jobs", *BROKER]
    with started(argv, log) as process:
        until(h, lambda: "Listening on" in said(log))  # the file is there before anybody listens
        with h.client.connect(f"unix://{path}", timeout=PATIENCE * 1000) as remote:  # the broker starts only now
            remote.ping()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert os.path.exists(path)


def test_without_a_manager_nothing_is_told_and_nothing_is_logged(log):
    with started([*BROKER, "--listen", "tcp://127.0.0.1:0"], log) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert "manager" not in said(log)
