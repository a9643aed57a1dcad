"""Medians, ratios and their intervals."""

import random

import pytest

from fxopt.measure import Ratio, speed_ratio, spread


def noisy(seconds: float, count: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [seconds * generator.lognormvariate(0, 0.05) for _ in range(count)]


def test_spread():
    one = spread([5.0, 1.0, 2.0, 3.0, 100.0])
    assert (one.median, one.mad, one.low, one.high, one.least) == (3.0, 2.0, 2.0, 5.0, 1.0)


def test_the_ratio_says_how_much_faster_the_candidate_is():
    ratio = speed_ratio([[4.0, 6.0, 8.0]], [[2.0, 3.0, 4.0]])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_load_that_meets_both_sides_of_a_round_cancels():
    load = [1.0, 7.0, 2.0, 9.0, 3.0]
    ratio = speed_ratio([load], [[x / 1.25 for x in load]])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.25, 1.25, 1.25))


def test_the_interval_holds_the_truth_and_narrows_with_rounds():
    held, widths = 0, {20: 0.0, 320: 0.0}
    for count in widths:
        for seed in range(20):
            ratio = speed_ratio([noisy(1.1, count, seed)], [noisy(1.0, count, 1000 + seed)])
            held += ratio.low <= 1.1 <= ratio.high
            widths[count] += ratio.high - ratio.low
    assert held >= 34  # of 40, where 38 are expected
    assert widths[320] < 0.5 * widths[20]


def test_starts_that_differ_widen_the_interval():
    alike = speed_ratio([noisy(1.0, 100, s) for s in range(3)], [noisy(1.0, 100, 9 + s) for s in range(3)])
    moved = [noisy(seconds, 100, 9) for seconds in (0.95, 1.0, 1.05)]
    unlike = speed_ratio([noisy(1.0, 100, s) for s in range(3)], moved)
    assert unlike.high - unlike.low > 2 * (alike.high - alike.low)
    assert unlike.low < 0.97
    assert unlike.high > 1.03


@pytest.mark.parametrize(
    ("ratio", "decided"), [((1.1, 1.0, 1.2), False), ((1.1, 1.01, 1.2), True), ((0.9, 0.8, 0.99), True)]
)
def test_decided(ratio: tuple[float, float, float], decided: bool):
    assert Ratio(*ratio).decided is decided
