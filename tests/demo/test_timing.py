"""The demo's speeds."""

import torch

from fxopt.demo.timing import speed_of


def test_a_slower_candidate_has_a_speed_below_one():
    assert speed_of(lambda: sum(range(50_000)), lambda: None, seconds=0.02) < 0.1


def test_waiting_is_no_work():
    import time

    assert speed_of(lambda: time.sleep(0.001), lambda: sum(range(200_000)), seconds=0.05) > 5


def test_the_number_of_threads_is_restored():
    seen: set[int] = set()
    torch.set_num_threads(2)
    try:
        speed_of(lambda: seen.add(torch.get_num_threads()), lambda: None, seconds=0.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == {1}
