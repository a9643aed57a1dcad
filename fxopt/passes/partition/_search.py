"""Which devices, in which row, and where to cut: the search, and the bound that no split can be under."""

import heapq
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

from fxopt.errors import InputError
from fxopt.passes.partition._devices import Device, Link, Links
from fxopt.passes.partition._exact import GAP, Solved, solve
from fxopt.passes.partition._ideals import Flags
from fxopt.passes.partition._live import Live
from fxopt.passes.partition._order import split_in_order
from fxopt.passes.partition._pieces import Pieces, renumbered
from fxopt.passes.partition._places import Places, all_places, order_places
from fxopt.passes.partition._problem import Objective, Problem, Split
from fxopt.passes.partition._rows import most_places, split_over_kinds
from fxopt.passes.partition._windows import Lattice

__all__ = ["MOST_EXACT", "Found", "Task", "search"]

MOST_EXACT = 900
"""Pieces up to which the integer program is tried as it is."""
_COARSE = 300
_MOST_IDEALS = 2000
_SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Of the pieces, the heaviest, that a bound is sought of where all have too many sets to cut at."""
_MOST_CUTS, _LEAST_CUTS = 1200, 60
_FIRST_SECONDS = 0.5
"""How long the integer program first has for a row of devices."""
_SETS, _MOST_SETS = 40_000, 200_000
"""Sets of pieces of a cut that are looked at, by second that the integer program has, and at most."""
_NARROWEST = 1e-4
"""Relative: how near to its bound a value is still asked for."""
_MOST_ROWS = 300
"""Rows of devices that are tried."""


@dataclass(frozen=True)
class Task:
    """What is to be split over what.

    Attributes:
        pieces: of the program.
        devices: that may be used.
        links: between them.
        barred: names of the devices where a piece can't run, by piece.
        reserved: bytes by device name, kept for activations.
        objective: what is minimised.
        live: what activations need at the least, where memory is short.
    """

    pieces: Pieces
    devices: tuple[Device, ...]
    links: Links
    barred: Mapping[int, frozenset[str]]
    reserved: Mapping[str, int]
    objective: Objective = "throughput"
    live: Live | None = None

    def over(self, row: tuple[Device, ...]) -> Problem:
        """The problem for one row of devices."""
        return Problem(self.pieces, row, self.links, self.barred, self.reserved, self.objective, self.live)


@dataclass(frozen=True)
class Found:
    """The best split found, the row of devices that it is over, and the bound.

    Attributes:
        problem: over the row that was chosen.
        split: of its pieces.
        bound: seconds or bytes; no split of the pieces over any of the devices is under it.
        proof: how the bound was found: "optimal", "integer program", "order ideals" or "simple".
    """

    problem: Problem
    split: Split
    bound: float
    proof: str


def search(task: Task, *, seconds: float) -> Found:
    """The best split over some of the devices, in some order.

    Raises:
        InputError: no split fits into the devices' memory.
    """
    deadline = time.monotonic() + seconds
    kinds = list(_kinds(task).values())
    whole = task.over(task.devices)
    rooms = [math.inf if (room := whole.room(k)) is None else room for k in range(len(task.devices))]
    if any(w.users and w.bytes > max(rooms) for w in task.pieces.weights):
        raise InputError(_no_room(task))
    rows = _rows(task)
    best = _in_order(task, kinds, rows, deadline)
    known = math.inf if best is None else best[1].value
    if not task.links.named:
        places = _ideals(whole, kinds, 1.0)
        if places is not None:
            least = split_over_kinds(whole, kinds, places, known=known)
            if least is None:
                raise InputError(_no_room(task))
            return Found(*least, least[1].value, "optimal")
    all_tried = len(rows) <= _MOST_ROWS
    chosen = rows if all_tried or best is None else [best[0].devices]
    best, bounds, proved = _refined([task.over(r) for r in chosen[:_MOST_ROWS]], best, deadline)
    if best is None and min(bounds) < math.inf:
        raise InputError("no split was found in the time that the search has; " + _rooms(task))
    if best is None:
        raise InputError(_no_room(task))
    total, proof = _floor(task), "simple"
    everything = max(total, min(bounds)) if all_tried else total
    if everything > total:
        total, proof = everything, proved
    elif not all_tried and not task.links.named and total < best[1].value * (1 - GAP):
        heaviest = _least_of_the_heaviest(whole, kinds, best[1].value)
        if heaviest > total:
            total, proof = heaviest, "order ideals"
    if total >= best[1].value * (1 - 1e-9):
        return Found(*best, best[1].value, "optimal")
    return Found(*best, total, proof)


def _ideals(problem: Problem, kinds: list[list[Device]], share: float) -> Places | None:
    """All places to cut the heaviest pieces at, if those are few enough to try."""
    count = len(problem.pieces)
    if count > MOST_EXACT:
        return None
    heaviest = sorted(range(count), key=lambda i: -problem.pieces.seconds[i])
    return all_places(
        problem, sorted(heaviest[: round(share * count)]), most_places(kinds, most=_MOST_IDEALS)
    )


def _least_of_the_heaviest(problem: Problem, kinds: list[list[Device]], known: float) -> float:
    """The value of the best split of as many of the heaviest pieces as can be: no split of all is under it."""
    for share in _SHARES:
        places = _ideals(problem, kinds, share)
        found = None if places is None else split_over_kinds(problem, kinds, places, known=known)
        if found is not None:
            return found[1].value
    return 0.0


def _in_order(
    task: Task, kinds: list[list[Device]], rows: list[tuple[Device, ...]], deadline: float
) -> tuple[Problem, Split] | None:
    """The best split that keeps the order of the pieces, over all rows of devices or those that there is time for."""
    whole = task.over(task.devices)
    places = most_places(kinds, most=_MOST_CUTS)
    if not task.links.named and places >= min(_LEAST_CUTS, len(whole.pieces)):
        return split_over_kinds(whole, kinds, order_places(whole, places))
    best: tuple[Problem, Split] | None = None
    cuts = order_places(whole, _MOST_CUTS)
    for problem in sorted(map(task.over, rows[:_MOST_ROWS]), key=Problem.simple_bound):
        if best is None or (problem.simple_bound() < best[1].value and time.monotonic() < deadline):
            split = split_in_order(problem, cuts)
            if split is not None and (best is None or split.value < best[1].value):
                best = (problem, split)
    return best


def _floor(task: Task) -> float:
    """No split over any of the devices is under it: the heaviest piece, and the total shared out, both with what is sent.

    Of so many devices the fastest in a row with the fastest links do best.
    """
    devices = sorted(task.devices, key=lambda d: -d.speed)
    latency = min(link.latency for link in (task.links.usual, *task.links.named.values()))
    links = Links(Link(math.inf, latency))
    fastest = (
        replace(task.over(_ends_first(devices[:count])), links=links) for count in range(1, len(devices) + 1)
    )
    return min(problem.simple_bound() for problem in fastest)


def _ends_first(devices: list[Device]) -> tuple[Device, ...]:
    """The two fastest at the ends, where a stage has one link."""
    return (devices[0], *devices[2:], *devices[1:2])


def _refined(
    problems: list[Problem], best: tuple[Problem, Split] | None, deadline: float
) -> tuple[tuple[Problem, Split] | None, list[float], str]:
    """Better splits, a bound for each row, and what the bounds come from.

    The row with the lowest bound is asked first: by the windows of its cuts where those hold few sets of pieces, else by
    the integer program; one that is not done in its time is asked again, for longer.
    """
    bounds = [_alone(p) if len(p.devices) == 1 else p.simple_bound() for p in problems]
    exact = bool(problems) and len(problems[0].pieces) <= MOST_EXACT
    solver, proof = find_spec("scipy") is not None, "order ideals"
    by_windows = exact and problems[0].objective == "throughput"
    windows = _Windows(problems, solver=solver) if by_windows else None
    queue = [(b, _FIRST_SECONDS, i) for i, b in enumerate(bounds) if len(problems[i].devices) > 1]
    heapq.heapify(queue)
    while queue:
        bound, seconds, number = heapq.heappop(queue)
        limit = math.inf if best is None else best[1].value
        left = deadline - time.monotonic()
        if bound >= limit * (1 - GAP) or left <= 0:
            break
        most = min(_MOST_SETS, round(_SETS * seconds))
        solved = None if windows is None else windows.asked(number, bound, limit, most)
        if solved is not None:
            bounds[number] = max(bound, solved.bound)
            best = best if solved.split is None else (problems[number], solved.split)
            heapq.heappush(queue, (bounds[number], seconds, number))
            continue
        if not solver:
            continue
        asked = problems[number] if exact else _coarse(problems[number])
        aim, sides = (limit, None) if windows is None else windows.aim(number, bound, limit)
        solved = solve(asked, best=aim, seconds=min(seconds, left), sides=sides)
        if windows is not None:
            windows.learn(number, done=solved.done)
        if exact and solved.bound > bound:
            bounds[number], proof = solved.bound, "integer program"
        if solved.split is not None and solved.split.value < limit:
            best = (problems[number], solved.split if exact else _fine(problems[number], asked, solved.split))
        if not solved.done or aim < limit:
            heapq.heappush(queue, (bounds[number], seconds if solved.done else 2 * seconds, number))
    limit = math.inf if best is None else best[1].value
    return best, [min(b, limit) for b in bounds], proof


class _Windows:
    """Asks for splits under a value, a lower one where too many sets of pieces would have to be looked at.

    Where memory is limited the integer program is asked of each row first: room for what is alive leaves out most sets, which is
    known of a set only when it is there, while a few rows of the program say it of all.
    """

    def __init__(self, problems: list[Problem], *, solver: bool) -> None:
        self.problems, self.lattice = problems, Lattice(problems[0].pieces)
        self.put_off = {
            i for i, p in enumerate(problems) if solver and any(d.memory is not None for d in p.devices)
        }
        """Rows that the integer program is yet to be asked of."""
        self.too_wide: dict[tuple[int, int], float] = {}
        """By row and sets that were looked at: the least value that was asked for in vain."""
        self.shares = [1.0] * len(problems)
        """By row: how far from the bound to the limit the integer program is asked."""
        self.most = [_most(problem) for problem in problems]

    def asked(self, number: int, bound: float, limit: float, most: int) -> Solved | None:
        """A split of a row that is under the limit, or a higher bound; None where neither is found."""
        if number in self.put_off and limit < math.inf:
            self.put_off.remove(number)
            return None
        target = _between(bound, limit)
        while bound < target * (1 - _NARROWEST):
            if target < self.too_wide.get((number, most), math.inf):
                tried = self.lattice.split(self.problems[number], target, most=most)
                if tried.done:
                    refuted = target if target < self.most[number] else math.inf
                    return Solved(tried.split, bound if tried.split is not None else refuted)
                self.too_wide[number, most] = target
            target = _between(bound, target)
        return None

    def aim(self, number: int, bound: float, limit: float) -> tuple[float, tuple[Flags, Flags] | None]:
        """What the integer program is to be under, and what is before and behind each cut there.

        The lower the value the more is known, so that what took it too long is asked for less at a time.
        """
        share = self.shares[number]
        target = limit if share == 1.0 else bound + share * (min(limit, self.most[number]) - bound)
        return target, self.lattice.sides(self.problems[number], target)

    def learn(self, number: int, *, done: bool) -> None:
        """Whether the integer program could answer what it was asked of a row."""
        self.shares[number] = min(1.0, 2 * self.shares[number]) if done else self.shares[number] / 2


def _between(bound: float, limit: float) -> float:
    return (bound + limit) / 2 if limit < math.inf else 2 * bound


def _most(problem: Problem) -> float:
    """No split is over it: all on the slowest device, and everything sent twice."""
    sent = sum(tensor.bytes for tensor in problem.pieces.tensors)
    sending = sum(problem.link(b).seconds(sent) for b in range(len(problem.devices) - 1))
    return sum(problem.pieces.seconds) / min(d.speed for d in problem.devices) + 2 * sending


def _alone(problem: Problem) -> float:
    """The whole on one device; infinite where it does not fit."""
    whole, room = (0,) * len(problem.pieces), problem.room(0)
    right = room is None or problem.held_bytes(whole)[0] <= room
    right &= all(problem.allowed(p, 0) for p in range(len(whole)))
    return problem.value(whole) if right else math.inf


def _rows(task: Task) -> list[tuple[Device, ...]]:
    """Rows of devices, those that differ in nothing taken for one another; the full rows first."""
    kinds = _kinds(task)
    names = {d.name for d in task.devices}
    must = {name for barred in task.barred.values() if len(names - barred) == 1 for name in names - barred}
    rows: list[tuple[Device, ...]] = []
    for length in range(min(len(task.devices), len(task.pieces)), 0, -1):
        found = (r for r in _arranged(kinds, length) if must <= {d.name for d in r})
        rows += itertools.islice(found, _MOST_ROWS + 1 - len(rows))
    return rows


def _kinds(task: Task) -> dict[tuple[object, ...], list[Device]]:
    """The devices, those that differ in nothing together."""
    kinds: dict[tuple[object, ...], list[Device]] = {}
    for device in task.devices:
        kinds.setdefault(_kind(task, device), []).append(device)
    return kinds


def _arranged(kinds: Mapping[tuple[object, ...], list[Device]], length: int) -> Iterator[tuple[Device, ...]]:
    if length == 0:
        yield ()
        return
    for kind, devices in kinds.items():
        if devices:
            rest = {**kinds, kind: devices[1:]}
            yield from ((devices[0], *row) for row in _arranged(rest, length - 1))


def _kind(task: Task, device: Device) -> tuple[object, ...]:
    ends = {name for pair in task.links.named for name in pair}
    own = device.name if device.name in ends else ""
    barred = frozenset(piece for piece, names in task.barred.items() if device.name in names)
    return (device.speed, device.memory, task.reserved.get(device.name, 0), own, barred)


def _coarse(problem: Problem) -> Problem:
    """At most `_COARSE` pieces, runs of the order with about equal times."""
    times = problem.pieces.seconds
    step = sum(times) / _COARSE or 1.0
    groups: list[list[int]] = []
    filled = math.inf
    barred: frozenset[str] | None = None
    for index, seconds in enumerate(times):
        if filled + seconds > step or problem.barred.get(index) != barred:
            groups.append([])
            filled = 0.0
        barred = problem.barred.get(index)
        groups[-1].append(index)
        filled += seconds
    kept = {i: problem.barred[g[0]] for i, g in enumerate(groups) if g[0] in problem.barred}
    return replace(problem, pieces=renumbered(problem.pieces, groups), barred=kept)


def _fine(problem: Problem, coarse: Problem, split: Split) -> Split:
    """A split of coarse pieces as one of the pieces that they are made of."""
    stages = zip(coarse.pieces.pieces, split.stage_of, strict=True)
    by_call = {call: stage for piece, stage in stages for call in piece.calls}
    fine = tuple(by_call[p.calls[0]] for p in problem.pieces.pieces)
    return Split(fine, problem.value(fine))


def _no_room(task: Task) -> str:
    return f"no split fits: {_rooms(task)}"


def _rooms(task: Task) -> str:
    rooms = [d.memory for d in task.devices]
    total = sum(w.bytes for w in task.pieces.weights)
    largest = max(task.pieces.weights, key=lambda w: w.bytes, default=None)
    said = "" if largest is None else f"; the largest, {largest.node.target}, has {largest.bytes:,} bytes"
    given = ", ".join("no limit" if r is None else f"{r:,}" for r in rooms)
    return f"the weights have {total:,} bytes, the devices {given}, of which activations take a part{said}"
