"""The clock: per call, wall and processor time, no collection in between."""

import gc
import time

import pytest

from fxopt.measure import seconds_of


def test_processor_time_leaves_out_waiting():
    lap = seconds_of(lambda: time.sleep(0.01), calls=2)
    assert lap.wall >= 0.01
    assert lap.cpu < 0.005


def test_seconds_are_those_of_one_call():
    few, many = (seconds_of(lambda: sum(range(20_000)), calls).cpu for calls in (2, 40))
    assert many < 4 * few


@pytest.mark.parametrize(("calls", "run"), [(1, 1), (5, 6)])
def test_several_calls_are_warmed_up(calls: int, run: int):
    done: list[int] = []
    seconds_of(lambda: done.append(1), calls)
    assert len(done) == run


def test_nothing_is_collected_within_a_lap():
    states: list[bool] = []
    seconds_of(lambda: states.append(gc.isenabled()), 1)
    assert states == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        seconds_of(lambda: 1 / 0, 1)
    assert gc.isenabled()
