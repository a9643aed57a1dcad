"""The clock: calls in a row, timed by the wall and by the processor.

Processor time counts every thread of the process and leaves out what other processes take, so that it says
how fast a function is on a machine that is busy with other things.

>>> seconds_of(lambda: sum(range(10_000)), calls=3).cpu > 0
True
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Lap", "seconds_of"]


class Lap(NamedTuple):
    """Seconds a call takes, on average over the calls of one turn."""

    wall: float
    cpu: float


def seconds_of(run: Callable[[], object], calls: int) -> Lap:
    """Calls a function so many times in a row.

    Args:
        run: what is timed. Before several calls it is called once untimed, into caches that another's turn
            left cold.
        calls: at least 1.
    """
    with _no_collection():
        if calls > 1:
            run()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in itertools.repeat(None, calls):
            run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Lap(wall / calls, cpu / calls)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector off: it would run in one side's turn for what the other left."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
