"""Where the pieces can be cut: along one order of them, or at any set that is closed under what its pieces need.

A stage is what lies between two such sets (order ideals of the graph); its load follows from sums over each. Over all ideals
nothing is left out: the best stages between them are the best there are. After Tarnawski et al., "Efficient algorithms
for device placement of DNN graph operators" (NeurIPS 2020).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._devices import Link
from fxopt.passes.partition._problem import Problem

__all__ = ["Array", "Ends", "Places", "all_places", "order_places", "stage_costs"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ends = tuple[Link | None, Link | None]


@dataclass(frozen=True)
class Places:
    """Sets of pieces that can be cut off, the empty one first, the whole last.

    Attributes:
        inside: whether a piece is in a set, bool[sets, pieces].
        follows: whether a set is more than another, bool[sets, sets]: the second holds the first.
        bytes: what a cut there sends, f64[sets].
    """

    inside: Flags
    follows: Flags
    bytes: Array

    def __len__(self) -> int:
        return len(self.bytes)

    def sums(self, values: npt.ArrayLike) -> Array:
        """Of a number by piece, over each set."""
        found: Array = np.dot(self.inside, np.asarray(values, dtype=np.float64))
        return found


def order_places(problem: Problem, most: int) -> Places:
    """The cuts of the order of the pieces; of longer programs about so many, with the fewest bytes, evenly spread."""
    count = len(problem.pieces)
    cuts, sent = np.arange(count + 1), _bytes_in_order(problem)
    if count >= most:
        times = np.cumsum([0.0, *problem.pieces.seconds])
        bucket = (times / (times[-1] or 1.0) * (most - 1)).astype(int)
        order = np.lexsort((sent, bucket))
        first = np.concatenate(([True], bucket[order][1:] != bucket[order][:-1]))
        cuts = np.unique(np.concatenate(([0, count], order[first])))
    return Places(np.arange(count) < cuts[:, None], cuts[:, None] < cuts[None, :], sent[cuts])


def _bytes_in_order(problem: Problem) -> Array:
    """Bytes that a cut before each piece sends."""
    change = np.zeros(len(problem.pieces) + 2)
    for tensor in problem.pieces.tensors:
        change[tensor.maker + 1] += tensor.bytes
        change[max(tensor.users) + 1] -= tensor.bytes
    return np.cumsum(change)[:-1]


def all_places(problem: Problem, kept: Sequence[int], most: int) -> Places | None:
    """All sets of some pieces that are closed under what they need, be it through others; None if there are more."""
    sets = _ideals(_needs(problem, kept), most)
    if sets is None:
        return None
    whole = np.zeros((len(sets), len(problem.pieces)), dtype=bool)
    for number, members in enumerate(sets):
        whole[number, [kept[i] for i in _bits(members)]] = True
    small = whole[:, list(kept)].astype(np.float32)
    size = small.sum(1)
    follows = (small @ small.T == size[:, None]) & (size[:, None] < size[None, :])
    return Places(whole, follows, _bytes(problem, whole, kept))


def _needs(problem: Problem, kept: Sequence[int]) -> list[int]:
    """As bits over `kept`: what each needs, directly or through any pieces."""
    closed = [0] * len(problem.pieces)
    place = {piece: i for i, piece in enumerate(kept)}
    makers: dict[int, set[int]] = {}
    for tensor in problem.pieces.tensors:
        for user in tensor.users if tensor.maker >= 0 else ():
            makers.setdefault(user, set()).add(tensor.maker)
    for piece in range(len(problem.pieces)):
        for maker in makers.get(piece, ()):
            closed[piece] |= closed[maker] | (1 << place[maker] if maker in place else 0)
    return [closed[piece] for piece in kept]


def _ideals(needs: Sequence[int], most: int) -> list[int] | None:
    found, layer = [0], [0]
    while layer:
        following: set[int] = set()
        for members in layer:
            for piece, needed in enumerate(needs):
                if not members >> piece & 1 and needed & members == needed:
                    following.add(members | 1 << piece)
        found += sorted(following)
        if len(found) > most:
            return None
        layer = list(following)
    return found


def _bits(members: int) -> Iterator[int]:
    while members:
        low = members & -members
        yield low.bit_length() - 1
        members ^= low


def _bytes(problem: Problem, inside: Flags, kept: Iterable[int]) -> Array:
    """What a cut at each set sends; of tensors that `kept` pieces make and read."""
    count = len(problem.pieces)
    known = {*kept, -1, count}
    sent = np.zeros(len(inside))
    for tensor in problem.pieces.tensors:
        users = [u for u in tensor.users if u in known]
        made = inside[:, tensor.maker] if tensor.maker >= 0 else True
        later = np.ones(len(inside), dtype=bool) if count in users else ~inside[:, users].all(axis=1)
        sent += tensor.bytes * (made & later)
    return sent


def stage_costs(problem: Problem, stage: int, links: Ends, places: Places) -> Array:
    """What a stage from one set to another adds to the objective; infinite where it is empty or may not be.

    Args:
        problem: pieces and devices.
        stage: which of the devices.
        links: to the stages before and after it, None where there is none.
        places: sets of pieces.
    """
    room, by_weight = problem.room(stage), problem.objective == "memory"
    held = _weights_held(problem, places) if room is not None or by_weight else np.zeros(())
    costs = held.copy() if by_weight else _loads(problem, stage, links, places)
    costs[~places.follows] = np.inf
    wrong = places.sums([not problem.allowed(i, stage) for i in range(len(problem.pieces))])
    costs[wrong[:, None] < wrong[None, :]] = np.inf
    if room is not None:
        live = 0.0 if problem.live is None else problem.live.between(places.inside, places.bytes)
        costs[held + live > room] = np.inf
    return costs


def _loads(problem: Problem, stage: int, links: Ends, places: Places) -> Array:
    """Seconds of a stage; for latency what it sends on is counted where it comes in."""
    times = places.sums(problem.pieces.seconds) / problem.devices[stage].speed
    loads: Array = times[None, :] - times[:, None]
    before, after = links
    if before is not None:
        loads[1:] += (before.latency + places.bytes[1:] / before.bandwidth)[:, None]
    if after is not None and problem.objective != "latency":
        loads[:, :-1] += (after.latency + places.bytes[:-1] / after.bandwidth)[None, :]
    return loads


def _weights_held(problem: Problem, places: Places) -> Array:
    """Bytes of weights that the pieces between two sets read, each once."""
    own = np.zeros(len(problem.pieces))
    shared = []
    for weight in problem.pieces.weights:
        if len(weight.users) == 1:
            own[weight.users[0]] += weight.bytes
        elif weight.users:
            shared.append(weight)
    total = places.sums(own)
    held: Array = total[None, :] - total[:, None]
    for weight in shared:
        read = places.inside[:, list(weight.users)].sum(axis=1)
        held += weight.bytes * (read[:, None] < read[None, :])
    return held
