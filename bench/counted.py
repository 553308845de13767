"""One process that is counted: ``python counted.py WORK N`` moves N messages (see `works`). Started by `count`.

Its clock is none. Some rules of ours go by time: a batch leaves when it is 1 ms old, a consumer's window is to last for
5 to 10 ms. What counts instructions makes a program thirty times slower, and a busy machine makes it slower by chance.
So this clock goes on by `LOOK` each time that somebody looks at it, which is what time does natively, about.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time

#: From one look at the clock to the next, in seconds. Natively a producer looks each 5 to 30 us.
LOOK = 15e-6


def main(work: str, n: int) -> None:
    """Do *work*. Nothing of ours may be imported before the clock is in place."""
    time.monotonic = itertools.count(1.0, LOOK).__next__
    from worker import end_with_the_parent
    from works import WORKS

    end_with_the_parent(os.getppid())
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()  # what starting up has left is not looked through again and again
    WORKS[work].run(n)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
