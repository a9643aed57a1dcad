"""One input through devices that work side by side: which of them runs each piece, and in which order.

A device does one piece at a time. What a piece reads from another device arrives when the link has sent it; links send
side by side, and while devices compute. Inputs are at hand everywhere, results are taken where they are made. The order is
that of list scheduling by critical path (Topcuoglu et al., "Performance-effective and low-complexity task scheduling", 2002);
the devices are found by moving branches, each all that one piece dominates, for as long as that helps.
"""

import heapq
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import networkx

from fxopt.passes.partition._devices import Device, Links
from fxopt.passes.partition._exact import GAP
from fxopt.passes.partition._pieces import Pieces, renumbered

__all__ = ["Schedule", "Work", "in_order", "runs_of", "scheduled"]

_MOST_PIECES, _MOST_STEPS = 10, 30_000
"""Pieces up to which every schedule is tried, and steps of that search."""


@dataclass(frozen=True)
class Work:
    """Pieces, and the devices that they may run on.

    Attributes:
        pieces: in an order in which they can run.
        devices: that may be used.
        links: between them.
        barred: names of the devices where a piece can't run, by piece.
    """

    pieces: Pieces
    devices: tuple[Device, ...]
    links: Links
    barred: Mapping[int, frozenset[str]]

    @cached_property
    def reads(self) -> list[dict[int, int]]:
        """By piece: bytes by the piece that makes them."""
        found: list[dict[int, int]] = [{} for _ in self.pieces.pieces]
        for tensor in self.pieces.tensors:
            for user in tensor.users:
                if tensor.maker >= 0 and user < len(found):
                    found[user][tensor.maker] = found[user].get(tensor.maker, 0) + tensor.bytes
        return found

    @cached_property
    def users(self) -> list[list[int]]:
        """By piece: those that read what it makes."""
        found: list[list[int]] = [[] for _ in self.pieces.pieces]
        for user, makers in enumerate(self.reads):
            for maker in makers:
                found[maker].append(user)
        return found

    def allowed(self, piece: int, device: int) -> bool:
        """Whether a piece may run there."""
        return self.devices[device].name not in self.barred.get(piece, ())

    def seconds(self, piece: int, device: int) -> float:
        """Of a piece on a device."""
        return self.pieces.pieces[piece].seconds / self.devices[device].speed

    def sending(self, size: int, one: int, other: int) -> float:
        """Seconds until so many bytes of one device are on another; nothing within one."""
        if one == other:
            return 0.0
        return self.links.between(self.devices[one].name, self.devices[other].name).seconds(size)

    def fits(self, device_of: Sequence[int]) -> bool:
        """Whether weights have room; one that pieces of several devices read is held by each."""
        if all(d.memory is None for d in self.devices):
            return True
        held = [0] * len(self.devices)
        for weight in self.pieces.weights:
            for device in {device_of[u] for u in weight.users}:
                held[device] += weight.bytes
        return all(d.memory is None or h <= d.memory for d, h in zip(self.devices, held, strict=True))

    def grouped(self, groups: Sequence[Sequence[int]]) -> "Work":
        """Coarser pieces."""
        names: list[frozenset[str]] = [
            frozenset(n for i in group for n in self.barred.get(i, ())) for group in groups
        ]
        return Work(renumbered(self.pieces, groups), self.devices, self.links, dict(enumerate(names)))


@dataclass(frozen=True)
class Schedule:
    """Where pieces run and when.

    Attributes:
        order: of the pieces: each device runs its own in this order.
        device_of: the device of each piece, by number.
        starts: seconds, by piece.
        value: seconds until all is done.
    """

    order: tuple[int, ...]
    device_of: tuple[int, ...]
    starts: tuple[float, ...]
    value: float


def in_order(work: Work, order: Sequence[int], device_of: Sequence[int]) -> Schedule:
    """Each piece begins as soon as its device is done with those before it and all that it reads is there."""
    free, starts, ends = [0.0] * len(work.devices), [0.0] * len(order), [0.0] * len(order)
    for piece in order:
        here = device_of[piece]
        arrivals = (ends[m] + work.sending(b, device_of[m], here) for m, b in work.reads[piece].items())
        starts[piece] = max(free[here], max(arrivals, default=0.0))
        ends[piece] = free[here] = starts[piece] + work.seconds(piece, here)
    return Schedule(tuple(order), tuple(device_of), tuple(starts), max(ends, default=0.0))


def listed(work: Work, device_of: Sequence[int]) -> Schedule:
    """Whatever can begin first does; of several the one that most is behind."""
    took = [work.seconds(p, d) for p, d in enumerate(device_of)]
    behind = [0.0] * len(took)
    for piece in reversed(range(len(took))):
        behind[piece] += took[piece]
        for maker, size in work.reads[piece].items():
            after = behind[piece] + work.sending(size, device_of[maker], device_of[piece])
            behind[maker] = max(behind[maker], after)
    waits, ready, free = [len(r) for r in work.reads], [0.0] * len(took), [0.0] * len(work.devices)
    queue = [(0.0, -behind[p], p) for p, count in enumerate(waits) if not count]
    heapq.heapify(queue)
    order: list[int] = []
    while queue:
        at, first, piece = heapq.heappop(queue)
        here = device_of[piece]
        start = max(ready[piece], free[here])
        if start > at:
            heapq.heappush(queue, (start, first, piece))
            continue
        order.append(piece)
        free[here] = start + took[piece]
        for user in work.users[piece]:
            arrives = free[here] + work.sending(work.reads[user][piece], here, device_of[user])
            ready[user] = max(ready[user], arrives)
            waits[user] -= 1
            if not waits[user]:
                heapq.heappush(queue, (ready[user], -behind[user], user))
    return in_order(work, order, device_of)


def scheduled(
    work: Work, first: Sequence[int], ends: Sequence[float], bound: float, *, deadline: float
) -> tuple[Schedule, bool]:
    """The best schedule that is found, and whether it was proved that no other is better.

    Args:
        work: what is to be done.
        first: devices that the pieces fit on.
        ends: seconds from the end of each piece to that of all, at the least.
        bound: no schedule is under it.
        deadline: of `time.monotonic`.
    """
    best = min(listed(work, first), _earliest(work, ends), key=lambda s: s.value)
    if best.value <= bound * (1 + GAP):
        return best, False
    chains = _chains(work)
    coarse = work.grouped(chains)
    for begin in _beginnings(
        coarse, [first[chain[0]] for chain in chains] if _is_whole(chains, first) else None
    ):
        found = _climbed(coarse, begin, deadline)
        order = [piece for chain in found.order for piece in chains[chain]]
        devices = {p: d for chain, d in zip(chains, found.device_of, strict=True) for p in chain}
        fine = in_order(work, order, [devices[p] for p in range(len(devices))])
        best = min(best, fine, key=lambda s: s.value)
    best = min(best, _climbed(work, best.device_of, deadline), key=lambda s: s.value)
    if best.value <= bound * (1 + GAP) or len(work.pieces) > _MOST_PIECES:
        return best, False
    every = _Every(work, ends, best)
    every.extend((), {}, (0.0,) * len(work.devices), 0.0)
    return every.best, every.steps < _MOST_STEPS


def runs_of(work: Work, schedule: Schedule) -> list[list[int]]:
    """Pieces of one device that run as one and begin as before: but for the last none is needed elsewhere.

    What other devices make is needed by the first alone. In an order in which the runs can run.
    """
    device_of, runs = schedule.device_of, list[list[int]]()
    open_: dict[int, list[int]] = {}
    for piece in schedule.order:
        here = device_of[piece]
        if here not in open_ or any(device_of[m] != here for m in work.reads[piece]):
            open_[here] = []
            runs.append(open_[here])
        open_[here].append(piece)
        if any(device_of[u] != here for u in work.users[piece]):
            del open_[here]
    return runs


def _earliest(work: Work, ends: Sequence[float]) -> Schedule:
    """Each piece goes where it is done first, those with the most behind them before others; infinite where none fits."""
    count, devices = len(work.pieces), range(len(work.devices))
    free, done, device_of = [0.0 for _ in devices], [0.0] * count, [0] * count
    took = [min(work.seconds(p, d) for d in devices if work.allowed(p, d)) for p in range(count)]
    order = sorted(range(count), key=lambda p: (-took[p] - ends[p], p))
    for piece in order:
        options = []
        for here in (d for d in devices if work.allowed(piece, d)):
            sent = work.reads[piece].items()
            arrivals = (done[m] + work.sending(b, device_of[m], here) for m, b in sent)
            start = max(free[here], max(arrivals, default=0.0))
            options.append((start + work.seconds(piece, here), here))
        done[piece], device_of[piece] = min(options)
        free[device_of[piece]] = done[piece]
    found = in_order(work, order, device_of)
    return found if work.fits(device_of) else replace(found, value=math.inf)


def _is_whole(chains: Sequence[Sequence[int]], device_of: Sequence[int]) -> bool:
    return all(len({device_of[p] for p in chain}) == 1 for chain in chains)


def _chains(work: Work) -> list[list[int]]:
    """Pieces that follow one another and are read by nothing else, together."""
    chains: list[list[int]] = []
    chain_of: dict[int, int] = {}
    for piece, makers in enumerate(work.reads):
        maker = next(iter(makers)) if len(makers) == 1 else None
        alike = maker is not None and work.barred.get(maker, frozenset()) == work.barred.get(
            piece, frozenset()
        )
        if maker is None or len(work.users[maker]) > 1 or not alike:
            chains.append([])
            chain_of[piece] = len(chains) - 1
        else:
            chain_of[piece] = chain_of[maker]
        chains[chain_of[piece]].append(piece)
    return chains


def _beginnings(work: Work, first: Sequence[int] | None) -> Iterator[Sequence[int]]:
    """All on one device, and what fits."""
    count = len(work.pieces)
    for device in range(len(work.devices)):
        if all(work.allowed(p, device) for p in range(count)) and work.fits([device] * count):
            yield [device] * count
    if first is not None:
        yield first


def _climbed(work: Work, device_of: Sequence[int], deadline: float) -> Schedule:
    """Branches are moved to other devices for as long as that helps."""
    best, improved = listed(work, device_of), True
    moves = _branches(work)
    while improved:
        improved = False
        for members in moves:
            for device in range(len(work.devices)):
                tried = list(best.device_of)
                for piece in members:
                    tried[piece] = device if work.allowed(piece, device) else tried[piece]
                if tuple(tried) == best.device_of or not work.fits(tried):
                    continue
                if time.monotonic() > deadline:
                    return best
                found = listed(work, tried)
                if found.value < best.value * (1 - GAP):
                    best, improved = found, True
    return best


def _branches(work: Work) -> list[list[int]]:
    """By piece: all that it dominates, what nothing reaches but through it; those of the most seconds first."""
    graph = networkx.DiGraph()
    for piece, makers in enumerate(work.reads):
        graph.add_edges_from((maker, piece) for maker in makers or [-1])
    over = networkx.immediate_dominators(graph, -1)
    branches: list[list[int]] = [[p] for p in range(len(work.pieces))]
    for piece in reversed(range(len(branches))):
        if over[piece] >= 0:
            branches[over[piece]] += branches[piece]
    times = work.pieces.seconds
    return sorted(branches, key=lambda members: -sum(times[p] for p in members))


class _Every:
    """Tries every schedule: pieces are appended in the order in which they begin."""

    def __init__(self, work: Work, ends: Sequence[float], best: Schedule) -> None:
        self.work, self.ends, self.best = work, ends, best
        self.steps = 0

    def extend(
        self,
        order: tuple[int, ...],
        placed: dict[int, tuple[int, float]],
        free: tuple[float, ...],
        now: float,
    ) -> None:
        """Goes on from pieces on devices, each with its end, the last of which begins `now`."""
        work = self.work
        if len(order) == len(work.pieces):
            device_of = [placed[p][0] for p in range(len(order))]
            if work.fits(device_of):
                self.best = min(self.best, in_order(work, order, device_of), key=lambda s: s.value)
            return
        for piece in (
            p for p, makers in enumerate(work.reads) if p not in placed and makers.keys() <= placed.keys()
        ):
            for here in (d for d in range(len(free)) if work.allowed(piece, d)):
                self.steps += 1
                if self.steps >= _MOST_STEPS:
                    return
                sent = work.reads[piece].items()
                arrivals = (placed[m][1] + work.sending(b, placed[m][0], here) for m, b in sent)
                start = max(free[here], max(arrivals, default=0.0))
                end = start + work.seconds(piece, here)
                if start >= now and end + self.ends[piece] < self.best.value:
                    after = (*free[:here], end, *free[here + 1 :])
                    self.extend((*order, piece), {**placed, piece: (here, end)}, after, start)
