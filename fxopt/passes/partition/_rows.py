"""The best split over the best row of devices: a dynamic program over places to cut and devices used.

Devices that differ in nothing are of one kind, and all links are alike: then `f[used][j] = min over a kind and i of
max(f[used less one of the kind][i], cost of i..j on that kind)` is the best over every row of devices. Of latency the sum
takes the place of the maximum.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._devices import Device
from fxopt.passes.partition._places import Array, Places, stage_costs
from fxopt.passes.partition._problem import Problem, Split

__all__ = ["most_places", "split_over_kinds", "splits_by_count"]

_MOST_STEPS = 4e9
"""Comparisons, of which most are left out once a plan is known; where there are more ways to use the devices, fewer places
to cut are tried."""

Indices = npt.NDArray[np.intp]
Used = tuple[int, ...]
"""How many devices of each kind."""


def split_over_kinds(
    problem: Problem, kinds: Sequence[Sequence[Device]], places: Places, *, known: float = math.inf
) -> tuple[Problem, Split] | None:
    """The best row of some of the devices, and the best split over it, with cuts at some places.

    Args:
        problem: over any row; its links are all alike.
        kinds: the devices, those of a kind together.
        places: to cut at. Where they are not sets of all pieces, the value is that of those that they are of.
        known: only what is no worse than this is sought.

    Returns:
        None where nothing fits.
    """
    link = problem.links.usual
    firsts = replace(problem, devices=tuple(devices[0] for devices in kinds))
    stages = [_Stages.under(stage_costs(firsts, k, (link, link), places), known) for k in range(len(kinds))]
    best = _tables(problem, [len(k) for k in kinds], stages, len(places))
    used = min(best, key=lambda u: (best[u][-1], sum(u)))
    value = float(best[used][-1])
    if not math.isfinite(value):
        return None
    row, stage_of = _traced(problem, best, used, stages, places)
    left = [list(devices) for devices in kinds]
    chosen = [left[kind].pop() for kind in row]
    return replace(problem, devices=tuple(reversed(chosen))), Split(stage_of, value)


def splits_by_count(problem: Problem, counts: Sequence[int], places: Places) -> list[tuple[int, ...]]:
    """For devices that are all alike, the best split into each of some numbers of stages that fits.

    Args:
        problem: over as many devices as the largest count.
        counts: of stages.
        places: to cut at.

    Returns:
        The stage of each piece, by count; none for counts that do not fit.
    """
    link = problem.links.usual
    stages = [_Stages.under(stage_costs(problem, 0, (link, link), places), math.inf)]
    best = _tables(problem, [max(counts, default=0)], stages, len(places))
    fitting = [(n,) for n in counts if (n,) in best and math.isfinite(best[n,][-1])]
    return [_traced(problem, best, used, stages, places)[1] for used in fitting]


def _traced(
    problem: Problem, best: Mapping[Used, Array], used: Used, stages: "Sequence[_Stages]", places: Places
) -> tuple[list[int], tuple[int, ...]]:
    """The kinds of the stages, from the last, and the stage of each piece."""
    row: list[int] = []
    stage_of, end = np.zeros(len(problem.pieces), dtype=int), len(places) - 1
    while any(used):
        kind, end = _last(problem, best, used, stages, end)
        row.append(kind)
        stage_of += ~places.inside[end]
        used = _without(used, kind)
    return row, tuple(int(s) - 1 for s in stage_of)


def most_places(kinds: Sequence[Sequence[Device]], *, most: int) -> int:
    """How many places can be tried in some seconds, at most so many."""
    ways = math.prod(len(devices) + 1 for devices in kinds) * len(kinds)
    return min(most, int((_MOST_STEPS / ways) ** 0.5))


@dataclass(frozen=True)
class _Stages:
    """What a stage of one kind costs from one place to another, where that is not too much; by the place where it ends.

    Attributes:
        starts: place, by stage.
        costs: by stage.
        ends: places that some stage ends at.
        firsts: where the stages of each of these begin.
    """

    starts: Indices
    costs: Array
    ends: Indices
    firsts: Indices

    @classmethod
    def under(cls, costs: Array, most: float) -> "_Stages":
        """Those of finite cost, up to a little more than `most`."""
        ends, starts = np.nonzero((costs < np.inf).T & (costs <= most * (1 + 1e-9)).T)
        found, firsts = np.unique(ends, return_index=True)
        return cls(starts, costs[starts, ends], found, firsts)

    def of(self, end: int) -> slice:
        """The stages that end at a place."""
        number = int(np.searchsorted(self.ends, end))
        if number == len(self.ends) or self.ends[number] != end:
            return slice(0, 0)
        return slice(int(self.firsts[number]), int(np.append(self.firsts, len(self.costs))[number + 1]))


def _tables(
    problem: Problem, counts: Sequence[int], stages: Sequence[_Stages], places: int
) -> dict[Used, Array]:
    """By devices used: the best value up to each place."""
    nothing = np.full(places, np.inf)
    nothing[0] = 0.0
    best: dict[Used, Array] = {(0,) * len(counts): nothing}
    for used in itertools.islice(itertools.product(*(range(c + 1) for c in counts)), 1, None):
        if sum(used) > len(problem.pieces):
            continue
        values = np.full(places, np.inf)
        for kind, count in enumerate(used):
            own = stages[kind]
            if count and len(own.costs):
                through = problem.joined(best[_without(used, kind)][own.starts], own.costs)
                values[own.ends] = np.minimum(values[own.ends], np.minimum.reduceat(through, own.firsts))
        best[used] = values
    return best


def _last(
    problem: Problem, best: Mapping[Used, Array], used: Used, stages: Sequence[_Stages], end: int
) -> tuple[int, int]:
    """The kind of the last stage of the best split up to a place, and where it begins."""
    found: list[tuple[float, int, int]] = []
    for kind, count in enumerate(used):
        own = stages[kind].of(end)
        if count and own.stop > own.start:
            starts = stages[kind].starts[own]
            through = problem.joined(best[_without(used, kind)][starts], stages[kind].costs[own])
            least = int(through.argmin())
            found.append((float(through[least]), kind, int(starts[least])))
    _, kind, start = min(found)
    return kind, start


def _without(used: Used, kind: int) -> Used:
    return tuple(count - (k == kind) for k, count in enumerate(used))
