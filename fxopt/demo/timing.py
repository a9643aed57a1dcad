"""The speed of an artifact against its model, in this process.

>>> speed_of(lambda: sum(range(2000)), lambda: sum(range(20000)), seconds=0.01) > 1
True
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch

from fxopt.measure import interleave, seconds_of, speed_ratio

__all__ = ["speed_of"]


def speed_of(
    candidate: Callable[[], object], original: Callable[[], object], *, seconds: float = 2.0
) -> float:
    """How many times as fast as the original the candidate is, on one thread, by processor time.

    Args:
        candidate: what is judged.
        original: what is compared with.
        seconds: how long to measure, warm-up not counted.
    """
    timers = [functools.partial(seconds_of, run) for run in (original, candidate)]
    with _one_thread():
        baseline, measured = ([lap.cpu for lap in laps] for laps in interleave(timers, seconds=seconds))
    return speed_ratio([baseline], [measured]).value


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As ONNX artifacts run; and threads that wait for one another would measure the machine's load."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
