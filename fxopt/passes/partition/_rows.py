"""The best split over the best row of devices: a dynamic program over places to cut and devices used.

Devices that differ in nothing are of one kind, and all links are alike: then `f[used][j] = min over a kind and i of
max(f[used less one of the kind][i], cost of i..j on that kind)` is the best over every row of devices. Of latency the sum
takes the place of the maximum.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fxopt.passes.partition._devices import Device
from fxopt.passes.partition._places import Array, Places, stage_costs
from fxopt.passes.partition._problem import Problem, Split

__all__ = ["most_places", "split_over_kinds"]

_MOST_STEPS = 1e9
"""Comparisons, some seconds; fewer places to cut are tried where there are more ways to use the devices."""

Used = tuple[int, ...]
"""How many devices of each kind."""


def split_over_kinds(
    problem: Problem, kinds: Sequence[Sequence[Device]], places: Places
) -> tuple[Problem, Split] | None:
    """The best row of some of the devices, and the best split over it, with cuts at some places.

    Args:
        problem: over any row; its links are all alike.
        kinds: the devices, those of a kind together.
        places: to cut at. Where they are not sets of all pieces, the value is that of those that they are of.

    Returns:
        None where nothing fits.
    """
    link = problem.links.usual
    firsts = replace(problem, devices=tuple(devices[0] for devices in kinds))
    costs = [stage_costs(firsts, kind, (link, link), places) for kind in range(len(kinds))]
    best, choices = _tables(problem, [len(k) for k in kinds], costs)
    used = min(best, key=lambda u: (best[u][-1], sum(u)))
    value = float(best[used][-1])
    if not math.isfinite(value):
        return None
    row: list[Device] = []
    stage_of = np.zeros(len(problem.pieces), dtype=int)
    end, left = len(places) - 1, [list(devices) for devices in kinds]
    while any(used):
        kind, end = (int(c[end]) for c in choices[used])
        row.append(left[kind].pop())
        stage_of += ~places.inside[end]
        used = _without(used, kind)
    return replace(problem, devices=tuple(reversed(row))), Split(tuple(int(s) - 1 for s in stage_of), value)


def most_places(kinds: Sequence[Sequence[Device]], *, most: int) -> int:
    """How many places can be tried in some seconds, at most so many."""
    ways = math.prod(len(devices) + 1 for devices in kinds) * len(kinds)
    return min(most, int((_MOST_STEPS / ways) ** 0.5))


def _tables(
    problem: Problem, counts: Sequence[int], costs: Sequence[Array]
) -> tuple[Mapping[Used, Array], Mapping[Used, tuple[Array, Array]]]:
    """By devices used: the best value up to each cut; the kind of the last stage, and where it begins."""
    joined = np.add if problem.objective == "latency" else np.maximum
    nothing = np.full(costs[0].shape[0], np.inf)
    nothing[0] = 0.0
    best: dict[Used, Array] = {(0,) * len(counts): nothing}
    choices: dict[Used, tuple[Array, Array]] = {}
    for used in itertools.islice(itertools.product(*(range(c + 1) for c in counts)), 1, None):
        if sum(used) > len(problem.pieces):
            continue
        values, kinds, starts = nothing + np.inf, np.zeros(len(nothing)), np.zeros(len(nothing))
        for kind, count in enumerate(used):
            if not count:
                continue
            through = joined(best[_without(used, kind)][:, None], costs[kind])
            start = through.argmin(axis=0)
            found = np.take_along_axis(through, start[None, :], axis=0)[0]
            better = found < values
            values = np.where(better, found, values)
            kinds, starts = np.where(better, kind, kinds), np.where(better, start, starts)
        best[used], choices[used] = values, (kinds, starts)
    return best, choices


def _without(used: Used, kind: int) -> Used:
    return tuple(count - (k == kind) for k, count in enumerate(used))
