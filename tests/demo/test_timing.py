"""The interleaved timing of the demo."""

import time

from fxopt.demo.timing import speed_ratio


def test_a_slower_candidate_has_a_ratio_below_one():
    assert speed_ratio(lambda: None, lambda: time.sleep(0.002), seconds=0.02) < 0.1


def test_both_run_equally_often_and_warm_up_first():
    calls: list[str] = []
    speed_ratio(lambda: calls.append("a"), lambda: calls.append("b"), seconds=0.0)
    assert len(calls) >= 12
    assert calls[:6] == ["a", "b", "a", "b", "b", "a"]
    assert calls.count("a") == calls.count("b")
