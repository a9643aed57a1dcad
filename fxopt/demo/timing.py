"""Times of two callables, interleaved so that other work on the machine slows both alike.

>>> speed_ratio(lambda: sum(range(20000)), lambda: None, seconds=0.01) > 1
True
"""

import statistics
import time
from collections.abc import Callable

__all__ = ["speed_ratio"]

_LEAST_ROUNDS = 6


def speed_ratio(
    original: Callable[[], object], candidate: Callable[[], object], *, seconds: float = 2.0
) -> float:
    """How many times as fast as the original the candidate is: the ratio of their typical times.

    Args:
        original: What is compared with.
        candidate: What is judged.
        seconds: How long to measure, warm-up not counted.
    """
    for run in (original, candidate):
        run()
    times: dict[Callable[[], object], list[float]] = {original: [], candidate: []}
    order = [original, candidate]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[original]) < _LEAST_ROUNDS:
        for run in order:
            start = time.perf_counter()
            run()
            times[run].append(time.perf_counter() - start)
        order.reverse()  # who runs after whom matters: a runtime's threads spin for a while when it is done
    return _typical(times[original]) / _typical(times[candidate])


def _typical(times: list[float]) -> float:
    """The median of the faster half: other work on the machine only ever adds time."""
    return statistics.quantiles(times, n=4)[0]
