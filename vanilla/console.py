"""``h.console``: an interactive Python for people who look into a running program.

Nothing of the program is replaced for it, `sys.stdout` least of all: a session is a namespace with a `print` of its
own, whose source is compiled to a tree, so that the values of its expressions can be taken and sent to the connection.
"""

from __future__ import annotations

import ast
import builtins
import codeop
import io
import os
import platform
import pydoc
import traceback
from collections.abc import Mapping
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent

from .cutter import TooLong
from .exception import Closed, ConnectionLost, Halt

if TYPE_CHECKING:
    from .core import Hub, Task
    from .listener import Server
    from .stream import Connection

#: Bytes of a line, and of all lines of one statement.
LIMIT = 1 << 16
#: Characters of one piece of output; what is in the middle of a longer one is left out.
MOST = 1 << 20
#: The name of the source, in tracebacks.
NAME = "<console>"
#: What ctrl-D sends through a terminal that does not see to it itself.
CTRL_D = "\x04"


class Service:
    """``h.console``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def listen(self, path: str, locals: Mapping[str, Any] | None = None) -> Server:
        """Listen on a Unix socket, whose file is for this user only, for people: each connection is a session.

        Whoever can connect can do all that the program can.

        :param locals: names that each session has besides ``h``, the hub.
        :return: the server, which need not be received from; closed, it ends its sessions too.
        :raises OSError: see `unix.bind`.
        """
        names = {"h": self._hub, **(locals or {})}
        server = self._hub.unix.listen(path)
        sessions: dict[Session, None] = {}

        def serve(conn: Connection) -> None:
            session = Session(conn, names)
            sessions[session] = None
            try:
                session.run()
            finally:
                del sessions[session]

        def end() -> None:
            for session in list(sessions):
                session.end()

        server.consume(serve)
        server.onclose(end)
        return server


class Session:
    """One connection; made in the task that serves it.

    :param names: what its namespace begins with.
    """

    def __init__(self, conn: Connection, names: Mapping[str, Any]) -> None:
        self._conn = conn
        self._hub = conn.sender.hub
        self._greenlet: Any = getcurrent()
        self._compile = codeop.CommandCompiler()
        #: The lines of a statement that is not complete.
        self._lines: list[str] = []
        #: What others printed while the connection was full.
        self._missed = 0
        self._over = False
        self.namespace: dict[str, Any] = {
            "__name__": "__console__",
            "__builtins__": builtins,
            "print": self._print,
            "help": self._help,
            "input": _no_input,
            "exit": _Exit(),
            "quit": _Exit(),
            **names,
        }

    # -- the dialogue

    def run(self) -> None:
        """All of it. It ends with the connection, with `exit`, with `end`, or with the hub."""
        with self._conn:
            self._conn.recver.limit = LIMIT
            try:
                self._send(f"Python {platform.python_version()}, process {os.getpid()}; ctrl-D ends this session\n")
                while self._step():
                    pass
            except SystemExit:
                pass
            except (Halt, ConnectionLost):
                if not self._conn.sender.halted:
                    raise  # the hub's end

    def end(self) -> None:
        """Raise `Cancelled` in it, wherever it waits."""
        self._over = True
        task: Task = self._greenlet.task
        task.cancel()

    def _step(self) -> bool:
        """One line: was it not the last?"""
        self._send("... " if self._lines else ">>> ")
        try:
            line = self._conn.recver.recv_line()
        except TooLong:
            self._send(f"\na line has at most {LIMIT} bytes\n")
            return False
        except Closed:
            self._finish()
            return False
        text = line.decode(errors="replace").rstrip("\r")
        if text == CTRL_D:
            return False
        self.feed(text)
        return True

    def _finish(self) -> None:
        """The end of the input: it may lack its last newline, or the empty line behind a block."""
        try:
            self.feed(self._conn.recver.recv(0).decode(errors="replace"))
        except Closed:
            pass
        if self._lines:
            self.feed("")

    def feed(self, line: str) -> None:
        """A line more: if it completes a statement, do that."""
        self._lines.append(line)
        source = "\n".join(self._lines)
        try:
            if len(source) <= LIMIT and self._compile(source, NAME, "single") is None:
                return
        except (SyntaxError, ValueError, OverflowError) as error:
            self._lines = []
            self._show(error, None)
            return
        self._lines = []
        if len(source) > LIMIT:
            self._send(f"a statement has at most {LIMIT} characters\n")
        else:
            self._do(source)

    def _do(self, source: str) -> None:
        try:
            for code, is_expression in _parts(source):
                if is_expression:
                    self._tell(eval(code, self.namespace))
                else:
                    exec(code, self.namespace)
        except SystemExit:
            raise
        except BaseException as error:
            if self._over or self._hub.stopping:
                raise SystemExit from None  # whatever became of the `Cancelled` or `Stop` on its way
            if type(error) is GreenletExit:
                raise  # the hub itself goes away
            # Out of here and of `_parts`, but not of what they called.
            self._show(error, error.__traceback__ and error.__traceback__.tb_next)
            if isinstance(error, KeyboardInterrupt):
                raise  # it was meant for the program

    def _tell(self, value: Any) -> None:
        """As an interactive Python does with the value of an expression."""
        if value is not None:
            self.namespace["_"] = value
            self._send(f"{value!r}\n")

    def _show(self, error: BaseException, trace: TracebackType | None) -> None:
        self._send("".join(traceback.format_exception(type(error), error, trace)))

    # -- output

    def _send(self, text: str) -> None:
        """From its own task: waits while the connection is full, and so does nobody else."""
        if self._missed:
            text = f"[the connection was full: {self._missed} prints of others are left out]\n{text}"
            self._missed = 0
        self._conn.send(_encode(text))

    def _print(
        self, *values: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: Any = False
    ) -> None:
        """print, to this connection unless *file* is another."""
        if file is not None:
            print(*values, sep=sep, end=end, file=file, flush=flush)
            return
        text = io.StringIO()
        print(*values, sep=sep, end=end, file=text)
        self._write(text.getvalue())

    def _help(self, thing: Any = None) -> None:
        """help(thing), to this connection."""
        if thing is None:
            self._write("help(thing) tells about a function, class, module or its dotted name\n")
        else:
            self._write(pydoc.render_doc(thing, renderer=pydoc.plaintext))  # type: ignore[attr-defined]

    def _write(self, text: str) -> None:
        """From wherever a function that was made here is called: only its own task waits. What others print goes as far
        as there is room."""
        if getcurrent() is self._greenlet:
            self._send(text)
            return
        self._hub.check_thread()
        try:
            if not self._conn.sender._state.give_nowait(_encode(text)):
                self._missed += 1
        except (Halt, ConnectionLost):
            pass  # the session is over, and what it left behind goes on


def _parts(source: str) -> list[tuple[CodeType, bool]]:
    """The statements of *source*, each as code, and whether it is an expression that has a value to tell."""
    parts: list[tuple[CodeType, bool]] = []
    for node in ast.parse(source, NAME).body:
        if isinstance(node, ast.Expr):
            tree: Any = ast.Expression(node.value)
            parts.append((compile(tree, NAME, "eval", dont_inherit=True), True))
        else:
            tree = ast.Module([node], [])
            parts.append((compile(tree, NAME, "exec", dont_inherit=True), False))
    return parts


def _encode(text: str) -> bytes:
    if len(text) > MOST:
        text = f"{text[: MOST // 2]}\n[{len(text) - MOST} characters are left out]\n{text[-MOST // 2 :]}"
    return text.encode(errors="backslashreplace")


def _no_input(prompt: object = "") -> str:
    """In the place of `input`."""
    raise RuntimeError("input() would hold up the program, and read what is meant for it")


class _Exit:
    """``exit`` and ``quit``. Python's own close `sys.stdin`."""

    def __call__(self, code: object = None) -> None:
        raise SystemExit(code)

    def __repr__(self) -> str:
        return "exit() or ctrl-D ends this session"
