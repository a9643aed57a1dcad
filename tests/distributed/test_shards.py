"""Shards: all steps once, in order, balanced by cost."""

import itertools

import hypothesis.strategies as st
from hypothesis import given

from fxopt.distributed.shards import by_cost, shards

COSTS = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(COSTS, st.integers(1, 20))
def test_every_step_is_in_one_shard_and_none_is_over_its_share(costs: list[int], at_most: int) -> None:
    found = shards(costs, at_most)
    assert [step for shard in found for step in shard] == list(range(len(costs)))
    share = -(-sum(costs) // at_most)
    assert all(len(s) == 1 or sum(costs[i] for i in s) <= share for s in found)


@given(COSTS, st.integers(1, 20))
def test_no_two_neighbours_would_fit_into_one_share(costs: list[int], at_most: int) -> None:
    found = shards(costs, at_most)
    share = -(-sum(costs) // at_most)
    for one, other in itertools.pairwise(found):
        assert sum(costs[i] for i in one) + costs[other.start] > share


def test_equal_steps_share_out_evenly() -> None:
    assert [len(s) for s in shards([5] * 512, 256)] == [2] * 256


def test_the_dearest_shard_comes_first_and_equal_ones_stay_in_order() -> None:
    costs = [1, 3, 2, 3]
    assert by_cost(shards(costs, 4), costs) == [1, 3, 2, 0]


@given(COSTS, st.integers(2, 5))
def test_who_is_free_takes_the_next_and_all_end_near_the_best(costs: list[int], workers: int) -> None:
    """Graham's bound for the longest first: at most (4/3 - 1/(3m)) of the best, which is at least this."""
    found = shards(costs, 8)
    loads = [0] * workers
    for i in by_cost(found, costs):
        loads[loads.index(min(loads))] += sum(costs[s] for s in found[i])
    total = sorted((sum(costs[s] for s in f) for f in found), reverse=True)
    pairs = total[workers - 1] + total[workers] if len(total) > workers else 0
    least = max(sum(costs) / workers, total[0], pairs)
    assert max(loads) <= least * 4 / 3 or max(loads) <= sum(costs) / workers + total[0]
