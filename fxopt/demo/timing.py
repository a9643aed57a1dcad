"""Times of two callables, interleaved so that other work on the machine slows both alike.

>>> speed_ratio(lambda: sum(range(20000)), lambda: None, seconds=0.01) > 1
True
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch

__all__ = ["speed_ratio"]

_LEAST_ROUNDS = 6


def speed_ratio(
    original: Callable[[], object], candidate: Callable[[], object], *, seconds: float = 2.0
) -> float:
    """How many times as fast as the original the candidate is, on one thread: the ratio of typical times.

    Args:
        original: What is compared with.
        candidate: What is judged.
        seconds: How long to measure, warm-up not counted.
    """
    with _one_thread():
        times = _interleaved((original, candidate), seconds)
    return _typical(times[0]) / _typical(times[1])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As ONNX artifacts run; and threads that wait for one another would measure the machine's load."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _interleaved(runs: tuple[Callable[[], object], ...], seconds: float) -> list[list[float]]:
    """The times of each, one after the other in both orders, after a warm-up."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _LEAST_ROUNDS:
        for i in order:
            start = time.perf_counter()
            runs[i]()
            times[i].append(time.perf_counter() - start)
        order.reverse()
    return times


def _typical(times: list[float]) -> float:
    """The median of the faster half: other work on the machine only ever adds time."""
    return statistics.quantiles(times, n=4)[0]
