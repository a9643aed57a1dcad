"""Rounds: everybody has a turn in each, in another order, after a warm-up, of about the same length."""

from fxopt.measure import Lap, interleave


class Clockwork:
    """Sides that take a known time, and the order in which they were asked."""

    def __init__(self, *seconds: float) -> None:
        self.asked: list[tuple[int, int]] = []
        self.timers = [self.timer(i, s) for i, s in enumerate(seconds)]

    def timer(self, index: int, seconds: float):
        def time(calls: int) -> Lap:
            self.asked.append((index, calls))
            return Lap(seconds, seconds)

        return time


def test_every_side_has_one_turn_a_round():
    work = Clockwork(0.01, 0.01, 0.01)
    series = interleave(work.timers, seconds=0.0)
    assert [len(laps) for laps in series] == [15, 15, 15]
    turns = [index for index, _ in work.asked[-45:]]
    rounds = [turns[i : i + 3] for i in range(0, 45, 3)]
    assert all(sorted(r) == [0, 1, 2] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 3


def test_the_order_follows_from_the_seed():
    orders = []
    for seed in (0, 0, 1):
        work = Clockwork(0.01, 0.01, 0.01)
        interleave(work.timers, seconds=0.0, seed=seed)
        orders.append(work.asked)
    assert orders[0] == orders[1] != orders[2]


def test_quick_sides_are_called_more_often_a_turn():
    work = Clockwork(0.00001, 0.5, 0.0)
    interleave(work.timers, seconds=0.0)
    calls = dict(work.asked[-3:])
    assert calls == {0: 1000, 1: 1, 2: 1_000_000}


def test_a_slow_side_is_not_run_more_than_needed_to_learn_so():
    work = Clockwork(2.0)
    interleave(work.timers, seconds=0.0)
    assert work.asked[:4] == [(0, 1)] * 4
    assert len(work.asked) == 4 + 15


def test_time_adds_rounds():
    assert len(interleave([lambda calls: Lap(0.01, 0.01)], seconds=0.02)[0]) > 15
