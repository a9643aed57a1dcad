"""Rounds: every side has a turn in each, in random order, so that whatever slows the machine slows all alike.

>>> series = interleave([lambda calls: Lap(2.0, 1.0), lambda calls: Lap(4.0, 3.0)], seconds=0.0)
>>> [laps[0].wall for laps in series], len(series[0])
([2.0, 4.0], 15)
"""

import math
import random
import time
from collections.abc import Callable, Sequence

from fxopt.measure.clock import Lap

__all__ = ["Timer", "interleave"]

Timer = Callable[[int], Lap]
"""Runs so many calls in a row and says how long one took: a side of a comparison."""

_TURN = 0.01
"""Seconds of a turn: long against the clock and the change of sides, short against a change of load."""
_LEAST_ROUNDS = 15
_MOST_CALLS = 1_000_000
_WARM_UP = 3
"""Calls before anything is timed: the profiling executor of TorchScript compiles in its second."""


def interleave(timers: Sequence[Timer], *, seconds: float, seed: int = 0) -> list[list[Lap]]:
    """Times each side, round by round, after a warm-up.

    Args:
        timers: the sides.
        seconds: how long, all sides together; a minimum of rounds is run in any case.
        seed: of the order within the rounds.

    Returns:
        A list a side, in the same order, of one lap a round.
    """
    counts = [_calls_a_turn(timer) for timer in timers]
    series: list[list[Lap]] = [[] for _ in timers]
    order, generator = list(range(len(timers))), random.Random(seed)
    end = time.perf_counter() + seconds
    while len(series[0]) < _LEAST_ROUNDS or time.perf_counter() < end:
        generator.shuffle(order)
        for i in order:
            series[i].append(timers[i](counts[i]))
    return series


def _calls_a_turn(timer: Timer) -> int:
    """How many calls fill a turn; warms the side up."""
    for _ in range(_WARM_UP):
        timer(1)
    calls = 1
    while True:
        each = timer(calls).wall
        needed = math.ceil(_TURN / each) if each > 0 else _MOST_CALLS
        if needed <= 2 * calls or calls >= _MOST_CALLS:
            return min(max(needed, 1), _MOST_CALLS)
        calls = min(needed, 16 * calls, _MOST_CALLS)
