"""What no schedule over devices that work side by side is under, whatever it is.

A piece begins when what it needs is made; and what is not on its own device has to be sent on the way to it, what is on its
own device runs there one after the other. After Papadimitriou and Yannakakis, "Towards an architecture-independent
analysis of parallel algorithms" (1990). The same backwards says what is behind a piece; and what begins late and ends early is
shared out over all devices at best (Fernandez and Bussell, "Bounds on the number of processors and time", 1973).
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._schedule import Work

__all__ = ["least_makespan"]

Array = npt.NDArray[np.float64]

_MOST_PIECES = 900
"""Up to which what is sent is looked at; of more, only what each piece needs."""


def least_makespan(work: Work) -> tuple[float, Array]:
    """No schedule is under it, in seconds; and seconds from the end of each piece to that of all, at the least."""
    count, devices = len(work.pieces), work.devices
    fastest = [max(d.speed for k, d in enumerate(devices) if work.allowed(p, k)) for p in range(count)]
    took = np.array(work.pieces.seconds) / np.array(fastest)
    links = [work.links.between(a.name, b.name) for a, b in itertools.combinations(devices, 2)]
    latency = min((link.latency for link in links), default=float(took.sum()))
    bandwidth = max((link.bandwidth for link in links), default=math.inf)
    sent = [{m: latency + b / bandwidth for m, b in makers.items()} for makers in work.reads]
    back: list[dict[int, float]] = [{} for _ in sent]
    for piece, makers in enumerate(sent):
        for maker, seconds in makers.items():
            back[count - 1 - maker][count - 1 - piece] = seconds
    before = _before(took, sent)
    behind = _before(took[::-1], back)[::-1]
    longest = float((before + took + behind).max(initial=0.0))
    shared = np.array(work.pieces.seconds) / sum(d.speed for d in devices)
    return max(longest, _shared_out(before, behind, shared)), behind


def _before(took: Array, sent: Sequence[Mapping[int, float]]) -> Array:
    """Seconds before each piece begins, at the least; pieces are in an order in which they can run."""
    count = len(took)
    before = np.zeros(count)
    if count > _MOST_PIECES:
        for piece, makers in enumerate(sent):
            before[piece] = max((before[m] + took[m] for m in makers), default=0.0)
        return before
    path = np.full((count, count), -np.inf)
    """The longest way between two pieces, without them."""
    apart = np.full((count, count), -np.inf)
    """The same where they are on two devices."""
    for piece, makers in enumerate(sent):
        for maker, seconds in makers.items():
            through = path[maker] + took[maker]
            apart[piece] = np.maximum(apart[piece], np.minimum(through + seconds, apart[maker] + took[maker]))
            apart[piece, maker] = max(apart[piece, maker], seconds)
            path[piece] = np.maximum(path[piece], through)
            path[piece, maker] = max(path[piece, maker], 0.0)
        needed = np.nonzero(path[piece] > -np.inf)[0]
        if len(needed):
            before[piece] = _begin(before[needed], took[needed], apart[piece, needed])
    return before


def _begin(before: Array, took: Array, apart: Array) -> float:
    """When a piece begins at the least, of those that it needs: what is not there in time otherwise runs on its device."""
    arrives = before + took + apart
    latest = np.argsort(-arrives)
    low, high = 0, len(latest)
    while low < high:  # the fewest that are on its device
        own = (low + high) // 2
        if _one_by_one(before[latest[:own]], took[latest[:own]]) >= arrives[latest[own]]:
            high = own
        else:
            low = own + 1
    found = _one_by_one(before[latest[:low]], took[latest[:low]])
    if low:
        found = min(found, float(arrives[latest[low - 1]]))
    return found


def _one_by_one(before: Array, took: Array) -> float:
    """When pieces that begin at some times at the least are all done on one device."""
    order = np.argsort(-before)
    return float((before[order] + np.cumsum(took[order])).max(initial=0.0))


def _shared_out(before: Array, behind: Array, seconds: Array) -> float:
    """Of what begins no earlier and has no less behind it, over all devices."""
    order = np.argsort(-before)
    best = 0.0
    for least in np.unique(behind) if len(before) <= _MOST_PIECES else [0.0]:
        own = order[behind[order] >= least]
        best = max(best, float((before[own] + np.cumsum(seconds[own]) + least).max(initial=0.0)))
    return best
