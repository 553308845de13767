"""`vanilla demo`: the main job on real input, checked against a count that no queue had a part in.

    demo -- demo.files --> workers -- demo.results --> demo

With ``--rpc`` each file is a call instead, see `democalls`. The broker and the workers are processes of their own, in a
temporary folder, and gone with it when the demo ends, however it ends. Results are kept by file: a job that was done
twice, because its worker was killed, counts once.
"""

from __future__ import annotations

import os
import selectors
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vanilla.core import Hub
from vanilla.exception import ConnectionLost, Halt, Timeout
from vanilla.protocol.urls import parse
from vanilla.unix import LONGEST

from .democalls import Calls
from .demofiles import Count, differences, find_files, read_file, standard_library, totals
from .demowork import FILES, RESULTS
from .failed import Failed
from .family import GRACE, Child, ended_by_signals, undisturbed_end
from .progress import Progress
from .remote import Remote
from .table import plural

#: Worker processes, unless told otherwise.
WORKERS = 2
#: How often the children are looked after while nothing comes from them, in ms.
LOOK_MS = 100
#: How often the broker is asked whether all is settled, in ms.
SETTLE_MS = 10
#: The frame limit that a broker has by default; with larger files it gets a larger one.
FRAME_BYTES = 1 << 20
#: What a job's frame has besides the file's bytes at most: heads, and a name.
AROUND_BYTES = 8 << 10


def demo(args: Namespace) -> None:
    """Run it.

    :raises Failed: the totals differ, or it could not be done.
    """
    root = os.fsencode(os.path.abspath(args.path or standard_library()))
    names = find_files(root, args.quick)
    if not names:
        raise Failed(f"there are no .py files in {os.fsdecode(root)}")
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vanilla-demo-")))
        crew = stack.enter_context(Crew(folder, "serve" if args.rpc else "pull"))
        stack.enter_context(undisturbed_end())
        print(f"{plural(len(names), 'file')} of {os.fsdecode(root)}", flush=True)
        how = "by calls" if args.rpc else "through the queue"
        by_broker = _run_broker(crew, args, root, names, how)
        print(f"now the same, directly, in {plural(args.workers, 'process')}", flush=True)
        directly = _run_direct(crew, folder, args.workers, root, names)
    _compare(by_broker, directly, how)


def _compare(by_broker: dict[bytes, Count], direct: dict[bytes, Count], how: str) -> None:
    lines = differences(by_broker, direct, how)
    if lines:
        print(*lines, sep="\n", flush=True)
        raise Failed("the totals differ")
    print("totals match")


# -- through the broker


def _run_broker(crew: Crew, args: Namespace, root: bytes, names: list[bytes], how: str) -> dict[bytes, Count]:
    largest = max(os.path.getsize(os.path.join(root, name)) for name in names)
    url = crew.start_broker(max(largest + AROUND_BYTES, FRAME_BYTES))
    print(f"broker on {url}, {plural(args.workers, 'worker')}", flush=True)
    began = time.monotonic()
    for _ in range(args.workers):
        crew.start_worker()
    with Hub() as hub, hub.client.connect(url, reconnect=False) as remote:
        job = (Calls if args.rpc else Job)(hub, remote, crew, names, args.kill)
        try:
            job.run(root)
        except ConnectionLost:
            crew.check_broker()
            raise
    print(f"{how}: {totals(job.counts.values())} in {time.monotonic() - began:.1f} s")
    _tell_shares(job)
    if args.kill:
        _tell_repeats(job)
    crew.dismiss()
    return job.counts


def _tell_repeats(job: Job | Calls) -> None:
    if isinstance(job, Calls):
        print(f"lost with their worker and asked again: {plural(job.again, 'call')}")
    else:
        again, twice = plural(len(job.redelivered), "file"), plural(job.repeats, "result")
        print(f"redelivered: {again}; came twice and counted once: {twice}")


def _tell_shares(job: Job | Calls) -> None:
    for worker in range(1, job.crew.hired + 1):
        mine = [job.counts[name] for name, who in job.workers.items() if who == worker]
        share = 100 * len(mine) / len(job.counts)
        sums = totals(mine)
        files, size, tokens = plural(sums.files, "file"), plural(sums.size, "byte"), plural(sums.tokens, "token")
        print(f"  worker {worker}: {files} ({share:.0f} %), {size}, {tokens}")


class Job:
    """All files through the queue, once.

    :ivar counts: the results by file, the first of each.
    :ivar workers: whose they are.
    """

    def __init__(self, hub: Hub, remote: Remote, crew: Crew, names: list[bytes], kill: bool) -> None:
        self.hub = hub
        self.remote = remote
        self.crew = crew
        self.names = names
        self.counts: dict[bytes, Count] = {}
        self.workers: dict[bytes, int] = {}
        #: Files that a worker got though another may have had them.
        self.redelivered: set[bytes] = set()
        self.repeats = 0
        self._results = remote.pull(RESULTS)
        self._progress = Progress("queue", len(names))
        self._kill_at = -(-len(names) // 2) if kill else 0

    def run(self, root: bytes) -> None:
        """Push everything, and wait until everything has come back and is settled.

        :raises Failed: a child process has ended.
        :raises ConnectionLost: the broker is gone.
        :raises OSError: a file cannot be read.
        """
        trouble = self.hub.router()
        self.hub.spawn(self._push, root, trouble.sender)
        while len(self.counts) < len(self.names):
            try:
                _, result = self.hub.select([self._results, trouble], LOOK_MS)
            except Timeout:
                self.crew.check()
            else:
                self._take(result)
        self._progress.clear()
        self._settle()

    def _push(self, root: bytes, trouble: Any) -> None:
        try:
            jobs = self.remote.push(FILES)
            for name in self.names:
                jobs.send([name, read_file(root, name)])
            jobs.sync()
        except Halt:
            pass  # the demo has ended
        except Exception as error:
            trouble.send(error)  # it is raised there

    def _take(self, result: Any) -> None:
        name, count, worker, redelivered = result[0], Count(*result[1:4]), result[4], result[5]
        if redelivered:
            self.redelivered.add(name)
        if name in self.counts:
            self.repeats += 1
            return
        self.counts[name] = count
        self.workers[name] = worker
        self._progress.show(len(self.counts))
        if len(self.counts) == self._kill_at:
            killed, successor = self.crew.kill_one()
            where = f"file {self._kill_at:,} of {len(self.names):,}"
            self._progress.say(f"{killed} was killed at {where}; {successor} takes its place")

    def _settle(self) -> None:
        """A job may still be on its way for the second time: its result is to be seen to count once."""
        while not self._settled():
            try:
                self._take(self._results.recv(SETTLE_MS))
            except Timeout:
                self.crew.check()

    def _settled(self) -> bool:
        endpoints = self.remote.status()["endpoints"]
        return not any(endpoint[kind] for endpoint in endpoints for kind in ("ready", "delayed", "in_flight"))


# -- directly


def _run_direct(crew: Crew, folder: Path, processes: int, root: bytes, names: list[bytes]) -> dict[bytes, Count]:
    began = time.monotonic()
    shares = {}
    for number in range(processes):
        mine = names[number::processes]
        listed = folder / f"names.{number}"
        listed.write_bytes(b"".join(name + b"\0" for name in mine))
        shares[crew.start("a direct count", "count", os.fsdecode(root), str(listed))] = mine
    progress = Progress("directly", len(names))
    said = _listen(list(shares), progress)
    progress.clear()
    counts: dict[bytes, Count] = {}
    for child, mine in shares.items():
        rows = said[child].splitlines()
        if child.process.wait() or len(rows) != len(mine):
            raise child.failure()
        counts.update(zip(mine, map(_count, rows)))
    print(f"directly: {totals(counts.values())} in {time.monotonic() - began:.1f} s")
    return counts


def _count(row: bytes) -> Count:
    size, tokens, failed = map(int, row.split())
    return Count(size, tokens, bool(failed))


def _listen(children: list[Child], progress: Progress) -> dict[Child, bytes]:
    """All that *children* print, a line a file."""
    said: dict[Child, list[bytes]] = {child: [] for child in children}
    lines = 0
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.stdout, selectors.EVENT_READ, child)
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                said[key.data].append(chunk)
                lines += chunk.count(b"\n")
                progress.show(lines)
    return {child: b"".join(parts) for child, parts in said.items()}


# -- processes


class Crew:
    """The demo's processes: a broker, workers, and those who count directly.

    :param work: what the workers do, see `demowork`.
    """

    def __init__(self, folder: Path, work: str) -> None:
        self.folder = folder
        self.work = work
        self.url = ""
        #: Workers that were ever started.
        self.hired = 0
        self._broker: Child | None = None
        self._workers: list[Child] = []
        self._all: list[Child] = []

    def start_broker(self, frame_bytes: int) -> str:
        """Start the broker; the URL that it listens at."""
        options = ["--max-frame", str(frame_bytes), "--drain", "0", "--log-level", "warning"]
        broker = Child("the broker", self.folder, "vanilla.broker", "--listen", _address(self.folder), *options)
        self._all.append(broker)
        said: str = broker.stdout.readline().decode()
        if not said.startswith("listening on "):
            raise broker.failure()
        self._broker = broker
        self.url = said.split()[-1]
        return self.url

    def start_worker(self) -> Child:
        """Start one more worker."""
        self.hired += 1
        worker = self.start(f"worker {self.hired}", self.work, self.url, str(self.hired))
        self._workers.append(worker)
        return worker

    def start(self, what: str, *arguments: str) -> Child:
        """Start ``demowork`` with *arguments*."""
        child = Child(what, self.folder, "vanilla.client.demowork", *arguments)
        self._all.append(child)
        return child

    def kill_one(self) -> tuple[str, str]:
        """Kill the worker that is longest here, and start another: their names."""
        killed = self._workers.pop(0)
        killed.kill()
        return killed.what, self.start_worker().what

    def check(self) -> None:
        """Do the broker and the workers run?

        :raises Failed: one has ended.
        """
        for child in [self._broker, *self._workers]:
            if child is not None:
                child.check()

    def check_broker(self) -> None:
        """The connection to the broker is gone: is the broker, too?

        :raises Failed: so it is.
        """
        assert self._broker is not None
        self._broker.check(GRACE)

    def dismiss(self) -> None:
        """End the workers and the broker."""
        self._workers, self._broker = [], None
        self._end_all()

    def _end_all(self) -> None:
        while self._all:
            self._all.pop().end()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_all()


def _address(folder: Path) -> str:
    """A Unix socket in *folder*; or a TCP port if no URL can name it."""
    path = f"{folder}/broker.sock"
    try:
        if len(os.fsencode(path)) <= LONGEST and parse(f"unix://{path}").path == path:
            return f"unix://{path}"
    except ValueError:
        pass
    return "tcp://127.0.0.1:0"
