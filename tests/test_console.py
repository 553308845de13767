"""A console inside: what a session says, what it leaves alone, and how it ends."""

from __future__ import annotations

import gc
import os
import stat
import sys

import pytest
from descriptors import open_descriptors

import vanilla
from vanilla.console import LIMIT, MOST

PATIENCE = 60_000


class Session:
    """One client."""

    def __init__(self, h, path):
        self.conn = h.unix.connect(path, PATIENCE)
        self.banner = self.read()

    def read(self, *prompts):
        """All up to the next prompt, without that."""
        said = b""
        prompts = prompts or (b">>> ",)
        while not said.endswith(prompts):
            said += self.conn.recv(PATIENCE)
        return said.decode()[:-4]

    def say(self, line, *prompts):
        self.conn.send(line + "\n")
        return self.read(*prompts)

    def rest(self):
        """All that comes until the end."""
        return b"".join(self.conn.recver).decode()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "console")


@pytest.fixture
def server(h, path):
    return h.console.listen(path, {"answer": 42})


@pytest.fixture
def session(h, path, server):
    return Session(h, path)


def test_the_socket_is_for_this_user_only_and_goes_with_the_server(server, path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert server.path == path
    server.close()
    assert not os.path.exists(path)


def test_it_says_who_it_is(session):
    assert f"process {os.getpid()}" in session.banner


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("1 + 1", "2\n"),
        ("'a'", "'a'\n"),
        ("None", ""),
        ("x = 5", ""),
        ("1; None; 2", "1\n2\n"),
        ("x = 5; x", "5\n"),
        ("h", "<vanilla.core.Hub object"),
        ("answer", "42\n"),
        ("", ""),
        ("# nothing", ""),
        ("print('a', 1, sep='-', end='!')", "a-1!"),
        ("'\N{SNOWMAN}'", "'\N{SNOWMAN}'\n"),
        ("'\\udc80'", "'\\udc80'\n"),
        ("__name__", "'__console__'\n"),
        ("exit", "exit() or ctrl-D ends this session\n"),
        ("help(len)", "len("),
        ("help('json.dumps')", "json"),
        ("help()", "help(thing)"),
        ("h.sleep(1)", ""),
    ],
)
def test_a_line_and_its_answer(session, line, answer):
    said = session.say(line)
    assert said == answer if answer.endswith(("\n", "!")) or not answer else answer in said


def test_names_stay_and_the_last_value_has_one(session):
    session.say("x = answer")
    assert session.say("x + 1") == "43\n"
    assert session.say("_ * 2") == "86\n"
    session.say("None")
    assert session.say("_") == "86\n"


def test_sessions_do_not_share_names(h, path, session):
    session.say("x = 1")
    assert "NameError" in Session(h, path).say("x")


def test_a_block_ends_with_an_empty_line(session):
    more = b"... "
    assert session.say("def f(x):", more) == ""
    assert session.say("    return x * 2", more) == ""
    assert session.say("") == ""
    assert session.say("f(4)") == "8\n"
    assert session.say("[1,", more) == ""
    assert session.say("2]") == "[1, 2]\n"


def test_source_is_compiled_as_that_of_any_program(session):
    assert "NameError" in session.say("def f(x: undefined): pass\n")


def test_carriage_returns_do_not_matter(session):
    assert session.say("1 + 1\r") == "2\n"


@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("input()", "RuntimeError: input() would hold up the program, and read what is meant for it"),
        ("raise BaseException('this')", "BaseException: this"),
        ("raise StopIteration", "StopIteration"),
        ("t = h.spawn(h.sleep); t.cancel(); t.join()", "vanilla.exception.Cancelled: task"),
        (
            "ch = h.channel(); ch.close(); ch.recv()",
            "vanilla.exception.Closed: cannot receive: this channel was closed",
        ),
        ("h.stop()", "RuntimeError: a task cannot stop its own hub"),
        ("'\0'", "null byte"),
    ],
)
def test_an_error_is_shown_and_the_session_goes_on(session, line, last, caplog):
    shown = session.say(line)
    assert last in shown.strip().splitlines()[-1]
    assert "_do" not in shown
    assert session.say("1") == "1\n"
    assert not caplog.records


def test_the_traceback_has_what_was_called(session):
    session.say("def f(): raise ValueError('this')\n")
    shown = session.say("f()")
    assert shown.startswith("Traceback") and ", in f\n" in shown and shown.endswith("ValueError: this\n")


def test_nothing_of_the_program_is_replaced(session, capsys):
    import builtins

    before = sys.stdout, sys.stderr, sys.displayhook, builtins.print, builtins.help, builtins.exit
    had = "_" in vars(builtins)
    assert session.say("import sys; 5; sys.stdout.write('there\\n'); print('at', file=sys.stderr)") == "5\n6\n"
    assert (sys.stdout, sys.stderr, sys.displayhook, builtins.print, builtins.help, builtins.exit) == before
    assert ("_" in vars(builtins)) == had
    assert capsys.readouterr() == ("there\n", "at\n")


def test_a_statement_that_waits_does_not_hold_up_the_hub(h, server, path):
    ch = h.channel()
    one, two = Session(h, path), Session(h, path)
    one.conn.send("import vanilla; h.answer = h.channel(); h.answer.recv()\n")
    while not hasattr(h, "answer"):
        h.sleep(1)
    assert two.say("h.answer.send('from the other')") == ""
    assert one.read() == "'from the other'\n"
    assert ch


# -- the end of a session


@pytest.mark.parametrize("line", ["exit()", "quit(3)", "raise SystemExit", "import sys; sys.exit(1)", "\x04"])
def test_exit_ends_the_session_and_nothing_else(h, path, session, line, caplog):
    stdin = sys.stdin
    session.conn.send(line + "\n")
    assert session.rest() == ""
    assert not stdin.closed
    assert Session(h, path).say("1") == "1\n"
    assert not caplog.records


def test_the_end_of_the_input_ends_the_session_and_what_is_unfinished_is_done(session):
    session.conn.send("if True:\n    print('done')")
    session.conn.sender.close()
    assert session.rest().endswith("done\n")


def test_a_client_that_is_gone_ends_its_session(h, path, session, caplog):
    session.say("h.gone = h.channel(); h.here = h.spawn(h.sleep, 1e9)")
    tasks = len(h.tasks)
    session.conn.send("while True: print('x' * 1000)\n")
    session.conn.recv()
    session.conn.close()
    while len(h.tasks) >= tasks:
        h.sleep(1)
    assert Session(h, path).say("1") == "1\n"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("doing", ["nothing", "h.sleep(1e9)", "while True: print('x' * 10000)", "catches"])
def test_to_close_the_server_ends_its_sessions(h, path, server, doing):
    session = Session(h, path)
    if doing == "catches":
        doing = "\n".join(["while True:", "  try: h.sleep(1e9)", "  except Exception: pass", ""])
    if doing != "nothing":
        session.conn.send(doing + "\n")
        h.sleep(5)
    server.close()
    while h.tasks:
        h.sleep(1)
    session.rest()
    with pytest.raises(vanilla.ConnectionLost):
        h.unix.connect(path)


def test_the_end_of_the_hub_ends_sessions_and_descriptors(path, caplog):
    before = open_descriptors()
    with vanilla.Hub() as h:
        h.console.listen(path)
        sessions = [Session(h, path) for _ in range(3)]
        sessions[0].conn.send("h.sleep(1e9)\n")
        sessions[1].conn.send("try: h.sleep(1e9)\nexcept BaseException: 1 / 0\n\n")
        h.sleep(5)
    del sessions
    assert not os.path.exists(path)
    assert open_descriptors() == before
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_ctrl_c_is_shown_and_passed_on_to_the_program(h, session):
    session.conn.send("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        h.sleep(PATIENCE)
    assert session.rest().endswith("KeyboardInterrupt\n")


# -- limits


def test_a_line_that_is_too_long_ends_the_session(session):
    session.conn.send("x" * (LIMIT + 1) + "\n")
    with pytest.raises((vanilla.Closed, vanilla.ConnectionLost)):
        while b"a line has at most" not in session.conn.recv(PATIENCE):
            pass
        while True:
            session.conn.recv(PATIENCE)


def test_a_statement_that_is_too_long_is_forgotten(session):
    line = "x = 1; " * 1000
    session.say("if True:", b"... ")
    for _ in range(LIMIT // len(line) - 1):
        assert session.say(f"  {line}", b"... ") == ""
    assert session.say(f"  {line * 2}") == f"a statement has at most {LIMIT} characters\n"
    assert session.say("1") == "1\n"


def test_of_a_huge_value_the_middle_is_left_out(session):
    said = session.say(f"'x' * {MOST * 3}")
    assert len(said) < MOST + 100
    assert "characters are left out" in said


def test_a_client_that_reads_nothing_stops_nobody_and_costs_bounded_memory(h, path, session):
    from vanilla.line import Line

    session.conn.send("while True: print('x' * 100000)\n")
    for _ in range(50):
        h.sleep(1)
    assert Session(h, path).say("1") == "1\n"
    gc.collect()
    lines = [ob for ob in gc.get_objects() if isinstance(ob, Line) and ob.output is not None]
    assert sum(line.output.left() for line in lines) <= MOST


def test_what_others_print_goes_as_far_as_there_is_room(h, path, session):
    session.say("h.say = print")
    h.say("from elsewhere")
    assert session.conn.recv_line(PATIENCE) == b"from elsewhere"
    h.after(0, lambda: h.say("from a handler"))
    assert session.conn.recv_line(PATIENCE) == b"from a handler"
    for _ in range(100):
        h.say("x" * 100_000)  # and nobody reads
    session.conn.send("'next'\n")
    said = session.read()
    assert "prints of others are left out]" in said
    assert said.count("x") < 100 * 100_000
    if "next" not in said:
        assert "next" in session.read()


def test_what_a_session_left_behind_may_print_when_it_is_over(h, session):
    session.say("h.say = print")
    session.conn.send("exit()\n")
    assert session.rest() == ""
    h.say("anybody?")


def test_another_thread_is_told_to_keep_away(h, session):
    session.say("h.say = print")
    with pytest.raises(RuntimeError, match="another thread"):
        h.thread.call(h.say, "x").recv()
