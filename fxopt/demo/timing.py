"""Times of two callables, interleaved so that a busy machine slows both alike.

>>> speed_ratio(lambda: sum(range(20000)), lambda: None, seconds=0.01) > 1
True
"""

import statistics
import time
from collections.abc import Callable

__all__ = ["speed_ratio"]

_LEAST_ROUNDS = 5


def speed_ratio(
    original: Callable[[], object], candidate: Callable[[], object], *, seconds: float = 2.0
) -> float:
    """How many times as fast as the original the candidate is: the ratio of median times.

    Args:
        original: What is compared with.
        candidate: What is judged.
        seconds: How long to measure, warm-up not counted.
    """
    for run in (original, candidate):
        run()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _LEAST_ROUNDS:
        for run, into in zip((original, candidate), times, strict=True):
            start = time.perf_counter()
            run()
            into.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
