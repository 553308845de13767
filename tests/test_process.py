"""Child processes: what they are given, what comes back, and that nothing is left of them."""

from __future__ import annotations

import errno
import gc
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
from descriptors import open_descriptors
from programs import gone, wait_until

import vanilla
from vanilla import libc
from vanilla.process import Child

CPYTHON = platform.python_implementation() == "CPython"

#: Runs until it is ended.
SLEEP = ["sleep", "600"]
#: Says that it runs, and then does not end on SIGTERM.
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do read line || sleep 600; done"]


def status(pid: int | str, name: str) -> str:
    """A field of what the kernel says of a process."""
    (found,) = re.findall(rf"^{name}:\s*(.*)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return found


def everything(recver) -> bytes:
    return b"".join(recver)


def output(child) -> bytes:
    """All that it writes to stdout. It has ended well."""
    said = everything(child.stdout)
    assert child.done.recv().exitcode == 0, everything(child.stderr)
    return said


def sh(h, script, *args, **options):
    return h.process.execv(["/bin/sh", "-c", script, "sh", *args], **options)


def run_python(source, *args, **options):
    """Run a program with a parent's part in a Python of its own, to its end."""
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, args)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as most people run it
    return subprocess.run(command, capture_output=True, check=False, env=env, **options)


@pytest.fixture(params=["pidfd", "thread"])
def either(request, monkeypatch):
    """Both ways to learn of a child's end."""
    if request.param == "thread":

        def pidfd_open(pid):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(libc, "pidfd_open", pidfd_open)


# -- what goes in and comes out


def test_a_program_gets_stdin_and_its_output_comes_back(h):
    child = h.process.execv(["cat"])
    child.stdin.send("höllo\n")
    assert child.stdout.recv_line() == "höllo".encode()
    child.stdin.send(b"two")
    child.stdin.close()
    assert child.stdout.recv() == b"two"
    assert child.done.recv() is child
    assert (child.exitcode, child.exitsignal) == (0, None)
    with pytest.raises(vanilla.Closed):
        child.stdout.recv()


def test_stderr_is_a_stream_of_its_own(h):
    child = sh(h, "echo out; echo err >&2; exit 3")
    assert (everything(child.stdout), everything(child.stderr)) == (b"out\n", b"err\n")
    assert child.done.recv().exitcode == 3


def test_stderr_goes_where_stdout_goes_if_asked_to(h):
    child = sh(h, "echo err >&2; echo out", stderrtoout=True)
    assert child.stderr is None
    assert everything(child.stdout) == b"err\nout\n"
    assert child.done.recv().exitcode == 0


def test_large_outputs_on_both_streams(h):
    size = 8 << 20
    child = sh(h, f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait")
    tasks = [h.spawn(everything, stream) for stream in (child.stdout, child.stderr)]
    assert [task.join() for task in tasks] == [bytes(size), bytes(size)]
    assert child.done.recv().exitcode == 0


def test_a_large_input_comes_back(h):
    data = os.urandom(1 << 20) * 8
    child = h.process.execv(["cat"])

    def feed():
        child.stdin.send(data)
        child.stdin.close()

    h.spawn(feed)
    assert output(child) == data


def test_what_a_child_does_not_read_fills_up_and_a_send_times_out(h):
    child = h.process.execv(SLEEP)
    child.stdin.send(bytes(1 << 20))
    with pytest.raises(vanilla.Timeout):
        child.stdin.send(b"more", timeout=1)
    child.terminate()
    with pytest.raises(vanilla.ConnectionLost, match=f"stdin of process {child.pid} .'sleep'.: broken pipe"):
        child.stdin.send(b"more")
    assert child.done.recv().exitsignal == signal.SIGTERM


def test_a_child_that_closes_its_stdin_is_a_lost_connection(h):
    child = sh(h, "exec 0<&-; echo closed; exec sleep 600")
    assert child.stdout.recv_line() == b"closed"
    with pytest.raises(vanilla.ConnectionLost, match="broken pipe"):
        child.stdin.send(b"x")
    child.terminate()
    assert child.done.recv().exitcode is None


def test_a_child_whose_output_nobody_wants_ends_of_sigpipe(h):
    child = h.process.execv(["yes"])
    child.stdout.close()
    assert child.done.recv().exitsignal == signal.SIGPIPE


# -- how it ends


def test_a_signal_ends_it_and_is_told(h, either):
    child = h.process.execv(SLEEP)
    assert (child.exitcode, child.exitsignal) == (None, None)
    with pytest.raises(vanilla.Timeout):
        child.done.recv(0)
    child.terminate()
    assert (child.done.recv().exitcode, child.exitsignal) == (None, signal.SIGTERM)


@pytest.mark.parametrize("code", [0, 1, 126, 255])
def test_its_status_is_told(h, either, code):
    assert sh(h, f"exit {code}").done.recv().exitcode == code


def test_done_is_a_state_that_all_read(h, either):
    child = sh(h, "read line")
    readers = [h.spawn(child.done.recv) for _ in range(3)]
    h.spawn_later(1, child.stdin.close)
    assert h.select([h.channel(), child.done])[1] is child
    assert [reader.join() for reader in readers] == [child] * 3
    assert child.done.recv() is child.done.recv(0) is child
    assert h.select([child.done])[1] is child


def test_nothing_is_sent_to_a_number_that_is_no_longer_the_childs(h, either, monkeypatch):
    child = sh(h, "exit")
    child.done.recv()
    monkeypatch.setattr(os, "kill", None)
    monkeypatch.setattr(libc, "pidfd_send_signal", None)
    child.signal(signal.SIGKILL)
    child.terminate()


def test_a_signal_that_does_not_exist_is_an_error(h, either):
    child = h.process.execv(SLEEP)
    with pytest.raises(OSError, match="Invalid argument"):
        child.signal(4711)
    child.terminate()
    child.done.recv()


def test_a_child_that_has_stopped_has_not_ended(h, either):
    child = h.process.execv(["cat"])
    child.signal(signal.SIGSTOP)
    wait_until(lambda: status(child.pid, "State").startswith("T"))
    with pytest.raises(vanilla.Timeout):
        child.done.recv(5)
    child.signal(signal.SIGCONT)
    child.stdin.send(b"on")
    assert child.stdout.recv() == b"on"
    child.stdin.close()
    assert child.done.recv().exitcode == 0


def test_a_grandchild_that_holds_the_pipe_does_not_hide_the_end(h, either):
    child = sh(h, "sleep 600 & echo $!")
    grandchild = int(child.stdout.recv_line())
    assert child.done.recv().exitcode == 0
    with pytest.raises(vanilla.Timeout):
        child.stdout.recv(1)
    os.kill(grandchild, signal.SIGKILL)
    with pytest.raises(vanilla.Closed):
        child.stdout.recv()


def test_a_child_counts_as_something_that_may_wake_a_task_until_it_has_ended(h, either):
    child = sh(h, "sleep 0.05")
    assert child.done.recv() is child
    with pytest.raises(vanilla.Stop, match="deadlock"):
        h.channel().recv()


def test_a_child_that_somebody_else_has_waited_for_has_ended_nobody_knows_how(h, either, caplog):
    child = sh(h, "exit 3")
    os.waitpid(child.pid, 0)
    assert child.done.recv() is child
    assert (child.exitcode, child.exitsignal) == (None, None)
    assert "somebody else has waited for it" in caplog.text


def test_other_peoples_children_are_left_to_them(h, either):
    with subprocess.Popen(["true"]) as other:
        wait_until(lambda: gone(other.pid))
        assert sh(h, "exit 1").done.recv().exitcode == 1
        assert other.wait() == 0


def test_an_end_that_cannot_be_waited_for_yet_is_waited_for_in_a_thread(h, monkeypatch):
    waitpid, asked = os.waitpid, []

    def not_yet(pid, options):
        asked.append(pid)
        return waitpid(pid, options) if len(asked) > 1 else (0, 0)

    child = sh(h, "exit 4")
    monkeypatch.setattr(os, "waitpid", not_yet)
    assert child.done.recv().exitcode == 4
    assert asked == [child.pid] * 2


# -- what cannot be run


@pytest.fixture
def odd(tmp_path):
    """A folder of what cannot be run."""
    (tmp_path / "folder").mkdir()
    for name, text, mode in [
        ("data", "#!/bin/sh\n", 0o644),
        ("text", "no program", 0o755),
        ("lost", "#!/nonexistent/interpreter\n", 0o755),
    ]:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    return tmp_path


@pytest.mark.trap("exec errors run the parent")
@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("nothing", 127, "No such file or directory"),
        ("data/nothing", 127, "No such file or directory"),
        ("data", 126, "Permission denied"),
        ("folder", 126, "Permission denied"),
        ("text", 126, "Exec format error"),
        ("lost", 127, "No such file or directory: the interpreter of"),
    ],
)
def test_a_program_that_cannot_be_run_is_a_child_that_says_so(h, odd, name, code, why):
    child = h.process.execv([str(odd / name)])
    assert child.stderr.recv_line().startswith(f"vanilla: cannot run '{odd / name}': {why}".encode())
    assert child.done.recv().exitcode == code
    assert everything(child.stdout) + everything(child.stderr) == b""


def test_names_are_looked_up_in_the_path_that_the_child_gets(h, odd, tmp_path):
    env = {"PATH": f"/nonexistent:{odd}/data:{odd}"}
    (tmp_path / "program").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "program").chmod(0o755)
    assert output(h.process.execv(["program"], env=env)) == b"found\n"
    for name, code, why in [("data", 126, "Permission denied"), ("nothing", 127, "not found in PATH")]:
        child = h.process.execv([name], env=env)
        assert child.stderr.recv_line().decode() == f"vanilla: cannot run '{name}': {why}"
        assert child.done.recv().exitcode == code


def test_a_program_that_cannot_be_run_ends_so_though_nobody_reads_why(h):
    child = sh(h, "kill -STOP $$; exec /nonexistent")
    child.terminate()
    child.signal(signal.SIGCONT)
    child.done.recv()
    child = h.process.execv(["/nonexistent"])
    child.stderr.close()
    assert child.done.recv().exitcode == 127


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        ([], {}, ValueError),
        ([""], {}, ValueError),
        ("ls -l", {}, TypeError),
        (["ls", 1], {}, TypeError),
        (["ls", "a\0b"], {}, ValueError),
        (["ls"], {"env": {"A": 1}}, TypeError),
        (["ls"], {"env": {"A=B": "1"}}, ValueError),
        (["ls"], {"env": {"": "1"}}, ValueError),
        (["ls"], {"env": {"A": "\0"}}, ValueError),
        (["ls"], {"cwd": 1}, TypeError),
        (["ls"], {"cwd": "\0"}, ValueError),
    ],
)
def test_what_no_system_could_start_is_the_callers_error(h, args, options, error):
    before = open_descriptors()
    with pytest.raises(error):
        h.process.execv(args, **options)
    assert open_descriptors() == before


def test_what_cannot_be_called_is_the_callers_error(h):
    with pytest.raises(TypeError):
        h.process.spawn("f")


PARENT = """
    import atexit, os, sys, vanilla
    class Dropped:
        def __del__(self):
            os.write(journal, b"finalizer\\n")
    def raises():
        raise ValueError("mine")
    journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    os.set_inheritable(journal, True)
    atexit.register(os.write, journal, b"exit handler\\n")
    dropped = Dropped()
    sys.stdout.write("only once")  # stays in the buffer
    h = vanilla.Hub()
    def task():
        try:
            children = [h.process.execv(["nosuch"]), h.process.spawn(raises), h.process.spawn(sys.exit, 3)]
            assert [b"".join(child.stdout) for child in children] == [b""] * 3
            return [child.done.recv().exitcode for child in children]
        finally:
            os.write(journal, b"finally\\n")
    codes = h.spawn(task).join()
    assert codes == [127, 1, 3], codes
    h.stop()
    os.write(journal, b"end\\n")
"""


@pytest.mark.trap("exec errors run the parent")
def test_nothing_of_the_parents_program_runs_in_a_child(tmp_path):
    journal = tmp_path / "journal"
    journal.touch()
    ran = run_python(PARENT, journal)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"only once", b"")
    lines = journal.read_text().splitlines()
    assert lines[:3] == ["finally", "end", "exit handler"]
    assert lines[3:] in (["finalizer"], [])  # nobody promises finalizers at the end of an interpreter


# -- what it is given


def test_it_has_our_environment_unless_given_one(h, monkeypatch):
    monkeypatch.setenv("VANILLA_TEST", "ours")
    assert output(sh(h, 'echo "$VANILLA_TEST"')) == b"ours\n"
    assert output(h.process.execv(["env"], env={"A": "b", b"C": b"\xff"})) == b"A=b\nC=\xff\n"


@pytest.mark.trap("an empty env is ignored")
def test_an_empty_environment_is_empty(h):
    assert output(h.process.execv(["env"], env={})) == b""
    assert output(h.process.execv(["/usr/bin/env"], env={})) == b""


def test_it_has_our_working_directory_unless_given_one(h, tmp_path):
    assert os.fsdecode(output(h.process.execv(["pwd"]))) == os.getcwd() + "\n"
    assert os.fsdecode(output(h.process.execv(["pwd"], cwd=tmp_path))) == f"{tmp_path}\n"
    (tmp_path / "program").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "program").chmod(0o755)
    assert output(h.process.execv(["./program"], cwd=tmp_path)) == b"here\n"


def test_a_working_directory_that_is_none_is_told(h, tmp_path):
    child = h.process.execv(["true"], cwd=tmp_path / "nothing")
    assert (
        child.stderr.recv_line().decode()
        == f"vanilla: cannot run 'true' in '{tmp_path}/nothing': No such file or directory"
    )
    assert child.done.recv().exitcode == 126


def list_descriptors():
    print(*sorted(os.listdir("/proc/self/fd")))


@pytest.mark.trap("leaked descriptors")
def test_it_has_three_descriptors_and_none_of_ours(h):
    other = h.process.execv(SLEEP)
    fds = [*os.pipe(), os.dup(2)]
    for fd in fds:
        os.set_inheritable(fd, True)
    try:
        # the fourth is that of the listing
        assert output(h.process.execv(["ls", "/proc/self/fd"])) == b"0\n1\n2\n3\n"
        assert output(h.process.spawn(list_descriptors)) == b"0 1 2 3\n"
    finally:
        for fd in fds:
            os.close(fd)
    other.terminate()
    other.done.recv()


CLOSED = """
    import os, sys, vanilla
    journal = os.open(sys.argv[1], os.O_WRONLY)
    with vanilla.Hub() as h:
        closed = [int(fd) for fd in sys.argv[2]]
        for fd in closed:
            os.close(fd)
        for stderrtoout in False, True:
            child = h.process.execv(["sh", "-c", "cat; echo err >&2"], stderrtoout=stderrtoout)
            child.stdin.send("in ")
            child.stdin.close()
            os.write(journal, b"".join(child.stdout))
            if not stderrtoout:
                os.write(journal, b"".join(child.stderr))
            assert child.done.recv().exitcode == 0
        for fd in closed:  # ours are not used for anything else
            try:
                os.fstat(fd)
                os.write(journal, b"%d is open" % fd)
            except OSError:
                pass
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_our_own_three_descriptors_may_be_closed(tmp_path, closed):
    journal = tmp_path / "journal"
    journal.touch()
    run_python(CLOSED, journal, closed)
    assert journal.read_text() == "in err\nin err\n"


def test_it_has_no_signal_mask_and_no_signal_that_python_ignores(h):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        child = h.process.execv(["cat"])
        child.stdin.send(b"x")
        child.stdout.recv()
        assert int(status(child.pid, "SigBlk"), 16) == 0
        ignored = {
            signum for signum in signal.valid_signals() if int(status(child.pid, "SigIgn"), 16) >> signum - 1 & 1
        }
        assert ignored == {signal.SIGHUP}  # as for all programs under nohup
        child.terminate()
        assert child.done.recv().exitsignal == signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


# -- spawn


def test_a_function_runs_in_a_fork(h):
    parent = os.getpid()

    def f(*args):
        print(os.getppid() == parent, args, input())
        print("oh", file=sys.stderr)

    child = h.process.spawn(f, 1, "two")
    child.stdin.send("line\n")
    assert everything(child.stdout) == b"True (1, 'two') line\n"
    assert everything(child.stderr) == b"oh\n"
    assert child.done.recv().exitcode == 0


def test_what_a_function_prints_comes_by_lines_and_what_is_left_at_its_end(h):
    def f():
        print("line")
        input()
        sys.stdout.write("rest")

    child = h.process.spawn(f)
    assert child.stdout.recv_line() == b"line"
    child.stdin.send("\n")
    assert output(child) == b"rest"


def test_a_function_that_raises_ends_with_1_and_its_traceback(h):
    def fail():
        raise ValueError("this")

    child = h.process.spawn(fail)
    trace = everything(child.stderr).decode()
    assert re.fullmatch(
        r'Traceback .*\n  File ".*test_process.py", line \d+, in fail\n.*\nValueError: this\n', trace, re.S
    )
    assert trace.count("  File ") == 1
    assert child.done.recv().exitcode == 1


@pytest.mark.parametrize(
    ("code", "exitcode", "said"), [(None, 0, b""), (0, 0, b""), (7, 7, b""), (-1, 255, b""), ("why", 1, b"why\n")]
)
def test_a_function_that_exits_ends_with_its_code(h, code, exitcode, said):
    child = h.process.spawn(sys.exit, code, stderrtoout=True)
    assert everything(child.stdout) == said
    assert child.done.recv().exitcode == exitcode


def test_a_function_whose_output_nobody_reads_ends_all_the_same(h):
    def f():
        input()
        print("x" * (1 << 20))

    child = h.process.spawn(f)
    child.stdout.close()
    child.stdin.send("\n")
    assert b"BrokenPipeError" in everything(child.stderr)
    assert child.done.recv().exitcode == 1


def test_a_function_may_make_a_hub_and_children_of_its_own(h):
    def f():
        with vanilla.Hub() as mine:
            sender, recver = mine.pipe()
            mine.spawn(sender.send, "hub")
            print(recver.recv())
            child = mine.process.spawn(print, "grandchild")
            print(child.stdout.recv().decode(), child.done.recv().exitcode)

    for child in h.process.spawn(f), h.spawn(h.process.spawn, f).join():
        assert output(child) == b"hub\ngrandchild\n 0\n"


def test_our_hub_and_children_are_not_to_be_used_in_a_fork(h):
    other = h.process.execv(SLEEP)

    def f():
        for use in h.sleep, other.terminate, lambda: h.process.execv(["true"]):
            with pytest.raises(vanilla.Forked):
                use()

    assert output(h.process.spawn(f)) == b""
    assert output(h.spawn(h.process.spawn, f).join()) == b""
    assert other.exitcode is None
    other.terminate()
    assert other.done.recv().exitsignal == signal.SIGTERM


def test_no_handler_of_ours_runs_in_a_fork(h):
    def f():
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        os.kill(os.getpid(), signal.SIGUSR1)

    subscribed = h.signal.subscribe(signal.SIGUSR2)
    before = [signal.signal(signum, lambda *_: None) for signum in (signal.SIGUSR1, signal.SIGINT)]
    try:
        assert h.process.spawn(f).done.recv().exitsignal == signal.SIGUSR1
    finally:
        for signum, handler in zip((signal.SIGUSR1, signal.SIGINT), before):
            signal.signal(signum, handler)
    assert h.process.spawn(os.kill, 0, 0).done.recv().exitcode == 0
    subscribed.close()


def test_no_finalizer_of_our_garbage_runs_in_a_fork(h):
    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if os.getpid() != ours:
                os.write(1, b"finalized")

    ours = os.getpid()
    gc.disable()
    try:
        Garbage()
        assert output(h.process.spawn(gc.collect)) == b""
        assert not gc.isenabled()
        gc.enable()
        assert output(h.process.spawn(lambda: print(gc.isenabled()))) == b"True\n"
        assert gc.isenabled()
    finally:
        gc.enable()


# -- where and how many


def test_in_tasks_and_many_at_once(h, either):
    before = open_descriptors()

    def one(number):
        child = sh(h, 'read line; echo "$1 $line"', str(number))
        child.stdin.send("x\n")
        said = child.stdout.recv_line()
        return child.done.recv().exitcode, said

    tasks = [h.spawn(one, number) for number in range(100)]
    assert [task.join() for task in tasks] == [(0, b"%d x" % number) for number in range(100)]
    del tasks
    assert open_descriptors() - before <= 0


def test_on_a_hub_in_another_thread(either):
    def other():
        with vanilla.Hub() as h:
            child = h.process.execv(["cat"])
            child.stdin.send(b"x")
            assert child.stdout.recv() == b"x"
            child.terminate()
            assert child.done.recv().exitsignal == signal.SIGTERM
            return output(h.process.spawn(print, "fork"))

    with vanilla.Hub() as h:
        assert [h.thread.call(other).recv() for _ in range(3)] == [b"fork\n"] * 3
        calls = [h.thread.call(other) for _ in range(8)]
        assert [call.recv() for call in calls] == [b"fork\n"] * 8


def test_another_thread_and_a_stopped_hub_are_told(h):
    with pytest.raises(RuntimeError, match="another thread"):
        h.thread.call(h.process.execv, ["true"]).recv()
    process = h.process
    h.stop()
    with pytest.raises(vanilla.Stop):
        process.execv(["true"])


@pytest.mark.trap("leaked descriptors")
@pytest.mark.parametrize("kind", ["execv", "spawn", "failing"])
def test_nothing_is_left_of_hundreds(h, either, kind):
    start = {
        "execv": lambda: h.process.execv(["true"]),
        "spawn": lambda: h.process.spawn(int),
        "failing": lambda: h.process.execv(["/nonexistent"]),
    }[kind]
    start().done.recv()
    before, threads = open_descriptors(), threading.active_count()
    live = h.poll.live
    for _ in range(100):
        start().done.recv()
    assert open_descriptors() == before
    assert h.poll.live == live
    assert not h.process.running
    wait_until(lambda: threading.active_count() <= threads)


@pytest.mark.skipif(not CPYTHON, reason="PyPy drops what is garbage whenever it likes")
def test_a_child_that_has_ended_and_is_dropped_closes_its_ends_at_once(h, either):
    before = open_descriptors()
    gc.disable()
    try:
        child = sh(h, "exit")
        done = child.done
        dropped = weakref.ref(child)
        del child
        assert done.recv() is dropped()
        assert done.recv().done.recv().exitcode == 0
        del done
        assert dropped() is None
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_child_that_is_dropped_goes_on_and_is_waited_for(h, either, tmp_path):
    pid = sh(h, 'read line; echo on > "$1"', tmp_path / "file").pid
    gc.collect()
    (child,) = h.process.running
    assert child.pid == pid
    child.stdin.send("\n")
    del child
    while Path(f"/proc/{pid}").exists():
        h.sleep(1)
    assert (tmp_path / "file").read_text() == "on\n"


# -- when there is no room


def test_without_descriptors_it_says_so_and_nothing_is_left(h, either):
    h.process.execv(["true"]).done.recv()
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    fill = [os.dup(2) for _ in range(used - before)]  # so that there are no gaps
    failures = []
    started = False
    for room in range(16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, hard))
        try:
            h.process.execv(["true"]).done.recv()
            started = True
        except OSError as error:
            failures.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not h.process.running
        assert open_descriptors() == before + len(fill)
    for fd in fill:
        os.close(fd)
    assert started
    (failure,) = set(failures)
    assert failure.endswith("cannot start 'true': this process has too many open files (ulimit -n)")


def test_without_processes_it_says_so_and_nothing_is_left(h, monkeypatch):
    def fork():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = open_descriptors()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(OSError, match="cannot start 'true': the limit of processes") as raised:
        h.process.execv(["true"])
    assert raised.value.errno == errno.EAGAIN
    assert open_descriptors() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert gc.isenabled()
    assert not h.process.running


@pytest.mark.parametrize("error", [(OSError, errno.EMFILE, "x"), (OSError, errno.ENOMEM, "x"), (KeyboardInterrupt,)])
def test_a_child_whose_end_could_not_be_known_is_ended_at_once(h, monkeypatch, error):
    def pidfd_open(pid):
        raise error[0](*error[1:])

    before = open_descriptors()
    monkeypatch.setattr(libc, "pidfd_open", pidfd_open)
    with pytest.raises(error[0]):
        h.process.execv(SLEEP)
    assert open_descriptors() == before
    assert not h.process.running


def test_a_ctrl_c_during_the_fork_leaves_a_child_that_the_hub_knows(h, monkeypatch):
    fork = os.fork

    def interrupted():
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        pid = fork()
        if pid:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return pid

    monkeypatch.setattr(os, "fork", interrupted)
    with pytest.raises(KeyboardInterrupt):
        h.process.execv(["cat"])
    (child,) = h.process.running
    child.stdin.send(b"fine")
    assert child.stdout.recv() == b"fine"
    child.terminate()
    assert child.done.recv().exitsignal == signal.SIGTERM


# -- the end of the parent


def test_the_hubs_end_terminates_those_that_run_and_waits_for_none(either):
    before = open_descriptors()
    with vanilla.Hub() as h:
        children = [h.process.execv(SLEEP) for _ in range(3)]
        children.append(h.process.execv(STUBBORN))
        assert children[-1].stdout.recv_line() == b"ready"
    assert children[-1].exitcode is children[-1].exitsignal is None
    wait_until(lambda: [child.exitsignal for child in children[:3]] == [signal.SIGTERM] * 3)
    assert not gone(children[-1].pid)
    children[-1].signal(signal.SIGKILL)
    wait_until(lambda: children[-1].exitsignal == signal.SIGKILL)
    children.clear()
    wait_until(lambda: open_descriptors() <= before)


def test_a_child_that_ended_unnoticed_is_waited_for_at_the_hubs_end(either):
    before = open_descriptors()
    with vanilla.Hub() as h:
        children = [h.process.execv(["true"])]
        wait_until(lambda: gone(children[0].pid))
    wait_until(lambda: children[0].exitcode == 0)
    children.clear()
    del h
    wait_until(lambda: open_descriptors() <= before)


KILLED = """
    import os, sys, time, vanilla
    h = vanilla.Hub()
    children = [h.process.execv(["sleep", "600"]), h.process.spawn(time.sleep, 600)]
    print(*(child.pid for child in children), flush=True)
    h.sleep(600_000)
"""


def test_children_end_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and not any(gone(pid) for pid in pids)
        parent.kill()
    for pid in pids:
        wait_until(lambda pid=pid: gone(pid))


def test_a_child_whose_parent_ended_before_it_could_ask_to_be_told_ends(h, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    child = sh(h, "echo ran")
    assert everything(child.stdout) == b""
    assert child.done.recv().exitcode == 126


def test_a_child_that_may_not_be_ended_keeps_none_of_the_others_from_it(monkeypatch, caplog):
    h = vanilla.Hub()
    children = [h.process.execv(SLEEP) for _ in range(3)]
    terminate, refused = Child.terminate, []

    def refuse_one(child):
        if not refused:
            refused.append(child)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        terminate(child)

    monkeypatch.setattr(Child, "terminate", refuse_one)
    h.stop()
    assert "cannot end" in caplog.text
    others = [child for child in children if child not in refused]
    assert len(others) == 2
    for child in others:
        wait_until(lambda pid=child.pid: gone(pid))
    os.kill(refused[0].pid, signal.SIGKILL)
    wait_until(lambda: gone(refused[0].pid))


def test_a_ctrl_c_while_a_child_is_waited_for_does_not_lose_how_it_ended(h):
    """Injected at each line of the code that waits, one child each."""
    place = lines = 0

    def tracer(frame, event, arg):
        nonlocal lines
        if frame.f_code.co_name not in ("_reap", "_wait_for"):
            return None
        if event == "line":
            lines += 1
            if lines == place:
                raise KeyboardInterrupt
        return tracer

    while lines == place:
        place, lines = place + 1, 0
        watch = h.process.execv(["sh", "-c", "exit 7"]).watch
        libc.wait_for_end(watch.pid)
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            watch._reap()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert watch._reap()
        assert os.WEXITSTATUS(watch.status) == 7
    assert place > 3


def test_a_signal_handler_may_end_a_child_that_is_just_waited_for():
    ran = run_python(
        """
        import os, signal, vanilla
        h = vanilla.Hub()
        child = h.process.execv(["true"])
        signal.signal(signal.SIGUSR2, lambda signum, frame: child.terminate())
        waitpid = os.waitpid

        def interrupted(*args):
            os.kill(os.getpid(), signal.SIGUSR2)
            return waitpid(*args)

        os.waitpid = interrupted
        signal.alarm(20)
        assert child.done.recv().exitcode == 0
        """
    )
    assert ran.returncode == 0, ran.stderr


def test_a_handler_that_raises_while_signals_are_blocked_leaves_none_of_them_blocked(h, monkeypatch):
    pthread_sigmask = signal.pthread_sigmask

    def interrupted(how, mask):
        before = pthread_sigmask(how, mask)
        if how == signal.SIG_BLOCK and mask:  # it calls handlers when that is done
            monkeypatch.undo()
            raise KeyboardInterrupt
        return before

    mask = pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        h.process.execv(["true"])
    left = pthread_sigmask(signal.SIG_SETMASK, mask)
    assert left == mask
    assert gc.isenabled()
