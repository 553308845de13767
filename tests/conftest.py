"""What every test is held to: one copy of every class, and no process left behind. And what each may rely on."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

#: The folders that are packages of `vanilla` once installed. Imported by these names they are second copies.
MAPPED = ("protocol", "client", "broker")

#: The benchmarks' programs.
BENCH = Path(__file__).parents[1] / "bench"

#: Helpers of multiprocessing that by design live as long as the process that started them.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

#: What a run behind nohup, or in the background of a script, has ignored.
HUSHED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

#: How long a child that was told to end may take before it counts as left behind, in seconds.
GRACE = 5.0

#: How long a test with the marker `trap` may take, in seconds.
TRAP = 100.0


def second_copies() -> list[str]:
    """The mapped folders that were imported by their bare names."""
    return [name for name in MAPPED if name in sys.modules]


def children() -> set[int]:
    """The process ids of this process's children: of all its threads, with those that ended and were not waited for."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (thread / "children").read_text().split()))
        except OSError:  # the thread has ended
            continue
    return found


def command(pid: int) -> str:
    """What runs as `pid`, for a person to read; empty if it is a zombie or gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def left_behind(before: set[int]) -> list[str]:
    """End the children that are there and were not `before`, and say which they were."""
    deadline = time.monotonic() + GRACE
    while left := {pid: command(pid) for pid in children() - before}:
        left = {pid: text for pid, text in left.items() if not any(helper in text for helper in HELPERS)}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)  # our own child: its number cannot have been given to another
        except ProcessLookupError:
            pass
    return [f"{pid} ({text or 'ended, and nobody waited for it'})" for pid, text in left.items()]


def is_ignored(signum: int) -> bool:
    """As the kernel says: on PyPy `signal.getsignal` does not know what was inherited."""
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (signum - 1) & 1)


@pytest.fixture(autouse=True, scope="session")
def _signals_reach_what_the_tests_start():
    """A process inherits what is ignored, not what has a handler: this one goes on as if it were ignored."""
    ignored = list(filter(is_ignored, HUSHED))
    for signum in ignored:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else lambda *_: None)
    yield
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)


@pytest.fixture(autouse=True, scope="session")
def _no_process_outlives_the_session():
    before = children()
    yield
    left = left_behind(before)
    assert not left, f"the session leaves child processes behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(_no_process_outlives_the_session):
    before = children()
    yield
    left = left_behind(before)
    assert not left, f"this test leaves child processes behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def _a_trap_that_is_back_fails(request):
    """Most of those mistakes were a wait without end: what holds that they do not come back is to fail, not to hang."""
    if request.node.get_closest_marker("trap") is None:
        yield
        return

    def give_up(signum, frame):
        raise TimeoutError(f"it has taken {TRAP:g} s: is the trap back?")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TRAP, TRAP)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _every_class_is_there_once():
    yield
    copies = second_copies()
    assert not copies, f"imported by a bare name: {copies}. Import vanilla.{copies[0]}, or there are two of every class"


@pytest.fixture
def h():
    """A hub, which has ended when its test has."""
    import vanilla  # here, so that the check for second copies comes before

    with vanilla.Hub() as hub:
        yield hub


@pytest.fixture
def connect(h, broker):
    """Makes connections to the test's own broker, which are closed at the end."""
    remotes = []

    def connect(**options):
        remotes.append(h.client.connect(broker.urls[0], **options))
        return remotes[-1]

    yield connect
    for remote in remotes:
        remote.close()


@pytest.fixture
def peer(h, broker):
    """Speaks the wire to the test's own broker, frame by frame."""
    from peers import Peer

    peer = Peer(h, broker.urls[0])
    yield peer
    peer.close()


@pytest.fixture
def near(connect):
    """A caller's connection..."""
    return connect()


@pytest.fixture
def far(connect):
    """...and a server's."""
    return connect()


@pytest.fixture
def name(request):
    """An endpoint of the test's own."""
    return re.sub(r"\W+", ".", request.node.name)[:200]


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """Authorities, certificates and keys, see `certs.Certs`."""
    from certs import Certs

    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def load(monkeypatch):
    """Import modules of bench/ as its programs do, and forget them again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCH) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def pytest_terminal_summary(terminalreporter):
    """What the scenarios of tests/chaos have measured."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    told = [(report.nodeid, text) for report in reports for name, text in report.user_properties if name == "figure"]
    if told:
        terminalreporter.section("figures")
    for nodeid, text in told:
        terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}: {text}")
