"""Shards: runs of steps of about the same cost, the same however many processes there are.

>>> shards([1, 1, 1, 1, 4, 1, 1], 4)
[range(0, 3), range(3, 4), range(4, 5), range(5, 7)]
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["among", "by_cost", "shards"]


def shards(costs: Sequence[int], at_most: int) -> list[range]:
    """Splits steps, in order, so that no shard costs more than its share unless it is a single step.

    Args:
        costs: of each step, above 0.
        at_most: about how many shards; a step dearer than its share makes some more.
    """
    return list(_shards(costs, -(-sum(costs) // at_most)))


def _shards(costs: Sequence[int], share: int) -> Iterator[range]:
    start = total = 0
    for step, cost in enumerate(costs):
        if step > start and total + cost > share:
            yield range(start, step)
            start, total = step, 0
        total += cost
    yield range(start, len(costs))


def by_cost(found: Sequence[range], costs: Sequence[int]) -> list[int]:
    """The numbers of the shards, the dearest first: who is free takes the next, and all end at about the same time.

    Longest processing time first (Graham, 1969): at most a third over the best possible split.
    """
    return sorted(range(len(found)), key=lambda i: (-sum(costs[s] for s in found[i]), i))


def among(costs: Mapping[int, int], count: int) -> list[list[int]]:
    """Shards for groups of processes that can't ask for the next one each, the dearest to who has the least so far.

    Args:
        costs: by the number of the shard, the dearest first.
        count: of groups.
    """
    found: list[list[int]] = [[] for _ in range(count)]
    least = [(0, group) for group in range(count)]
    for shard, cost in costs.items():
        total, group = least[0]
        heapq.heapreplace(least, (total + cost, group))
        found[group].append(shard)
    return found
