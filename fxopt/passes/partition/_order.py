"""The best split into consecutive runs of one order of the pieces: a dynamic program over the cuts.

`f[k][j] = min over i of max(f[k-1][i], load of i..j on device k)`, vectorised over i and j; as in Archer et al.,
"Pipeline parallelism for inference: practical algorithms" (ICML 2024), for one order.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._problem import Problem, Split

__all__ = ["split_in_order"]

_MOST_CUTS = 1200
"""Places that are tried; of longer programs those with the fewest bytes, evenly spread over the time."""

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def split_in_order(problem: Problem) -> Split | None:
    """The best split that keeps the order of the pieces; None where none fits."""
    count, stages = len(problem.pieces), len(problem.devices)
    bytes_at = _cut_bytes(problem)
    cuts = _candidates(problem, bytes_at)
    best, choice = _stage_costs(problem, 0, cuts, bytes_at)[0], []
    joined = np.add if problem.objective == "latency" else np.maximum
    for stage in range(1, stages):
        through = joined(best[:, None], _stage_costs(problem, stage, cuts, bytes_at))
        choice.append(through.argmin(axis=0))
        best = through.min(axis=0)
    if not np.isfinite(best[-1]):
        return None
    ends = [len(cuts) - 1]
    for chosen in reversed(choice):
        ends.append(int(chosen[ends[-1]]))
    stage_of = np.zeros(count, dtype=int)
    for stage, end in enumerate(reversed(ends[1:])):
        stage_of[cuts[end] :] = stage + 1
    return Split(tuple(map(int, stage_of)), float(best[-1]))


def _cut_bytes(problem: Problem) -> Array:
    """Bytes that a cut before each piece sends."""
    change = np.zeros(len(problem.pieces) + 2)
    for tensor in problem.pieces.tensors:
        change[tensor.maker + 1] += tensor.bytes
        change[max(tensor.users) + 1] -= tensor.bytes
    return np.cumsum(change)[:-1]


def _candidates(problem: Problem, bytes_at: Array) -> Places:
    count = len(problem.pieces)
    if count <= _MOST_CUTS:
        return np.arange(count + 1, dtype=np.int64)
    times = np.cumsum([0.0, *problem.pieces.seconds])
    bucket = (times / (times[-1] or 1.0) * (_MOST_CUTS - 1)).astype(int)
    order = np.lexsort((bytes_at, bucket))
    first = np.concatenate(([True], bucket[order][1:] != bucket[order][:-1]))
    return np.unique(np.concatenate(([0, count], order[first])))


def _stage_costs(problem: Problem, stage: int, cuts: Places, bytes_at: Array) -> Array:
    """What a stage from cut i to cut j adds to the objective; infinite where it is empty or may not be."""
    room = problem.room(stage)
    held = _weights_held(problem, cuts) if room is not None or problem.objective == "memory" else np.zeros(())
    costs = held.copy() if problem.objective == "memory" else _stage_loads(problem, stage, cuts, bytes_at)
    costs[cuts[:, None] >= cuts[None, :]] = np.inf
    wrong = np.cumsum([0, *(not problem.allowed(i, stage) for i in range(len(problem.pieces)))])[cuts]
    costs[wrong[:, None] < wrong[None, :]] = np.inf
    if room is not None:
        costs[held > room] = np.inf
    return costs


def _stage_loads(problem: Problem, stage: int, cuts: Places, bytes_at: Array) -> Array:
    """Seconds of a stage from cut i to cut j; for latency what it sends on is counted where it comes in."""
    device, last = problem.devices[stage], len(problem.devices) - 1
    times = np.cumsum([0.0, *problem.pieces.seconds])[cuts] / device.speed
    loads: Array = times[None, :] - times[:, None]
    if stage > 0:
        link = problem.link(stage - 1)
        loads += (link.latency + bytes_at[cuts] / link.bandwidth)[:, None]
    if stage < last and problem.objective != "latency":
        link = problem.link(stage)
        loads += (link.latency + bytes_at[cuts] / link.bandwidth)[None, :]
    return loads


def _weights_held(problem: Problem, cuts: Places) -> Array:
    """Bytes of weights that the pieces from cut i to cut j read."""
    count = len(problem.pieces)
    own = np.zeros(count)
    shared: list[tuple[int, Sequence[int]]] = []
    for weight in problem.pieces.weights:
        if len(weight.users) == 1:
            own[weight.users[0]] += weight.bytes
        elif weight.users:
            shared.append((weight.bytes, weight.users))
    total = np.concatenate(([0.0], np.cumsum(own)))[cuts]
    held: Array = total[None, :] - total[:, None]
    for size, users in shared:
        following = np.searchsorted(np.array(users), cuts)  # the first use at or behind each cut
        first = np.append(np.array(users), count)[following]
        held += size * (first[:, None] < cuts[None, :])
    return held
