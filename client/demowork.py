"""The demo's processes: ``python -m vanilla.client.demowork pull URL NUMBER``, ``... serve URL NUMBER`` and ``... count
ROOT NAMES``.

The first two are workers as they would be written for any job. The third counts without a broker, for comparison.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from vanilla.core import Hub
from vanilla.exception import Timeout
from vanilla.memory import keep_freed_memory

from .delivery import Delivery
from .demofiles import count_tokens, read_file

#: The two queues.
FILES, RESULTS = "demo.files", "demo.results"
#: What is called instead.
SERVICE = "demo.counter"
#: Jobs that are confirmed and acknowledged together, at most.
BATCH = 8


def pull(url: str, number: str) -> None:
    """Work until killed.

    A result is confirmed before its job is acknowledged. If a worker is killed between the two, another repeats its
    job: results may come twice, but none is missing.

    :param number: the worker's own, which goes into its results.
    """
    with Hub() as hub, hub.client.connect(url, reconnect=False) as remote:
        jobs, results = remote.pull(FILES, ack=True), remote.push(RESULTS)
        while True:
            batch = take(jobs)
            for delivery in batch:
                name, body = delivery.item
                results.send([name, *count_tokens(body), int(number), delivery.redelivered])
            results.sync()
            for delivery in batch:
                delivery.ack()
            hub.sleep(0)  # they leave now, and not after the next files


def take(jobs: Any) -> list[Delivery]:
    """Wait for a job, and take those that have come with it."""
    batch = [jobs.recv()]
    try:
        while len(batch) < BATCH:
            batch.append(jobs.recv(timeout=0))
    except Timeout:
        pass
    return batch


class Counter:
    """What is served.

    :param number: the worker's own, which goes into its results.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def count(self, body: bytes) -> list[Any]:
        """The size of a file, its tokens, whether it failed, and who has counted."""
        return [*count_tokens(body), self._number]


def serve(url: str, number: str) -> None:
    """Answer calls until killed."""
    with Hub() as hub, hub.client.connect(url, reconnect=False) as remote:
        remote.serve(SERVICE, Counter(int(number))).join()


def count(root: str, names: str) -> None:
    """Count the files below *root* whose names stand in the file *names*, each ended by a NUL; print a line a file."""
    with open(names, "rb") as file:
        for name in file.read().split(b"\0")[:-1]:
            size, tokens, failed = count_tokens(read_file(os.fsencode(root), name))
            print(size, tokens, int(failed), flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    {"pull": pull, "serve": serve, "count": count}[sys.argv[1]](*sys.argv[2:])
