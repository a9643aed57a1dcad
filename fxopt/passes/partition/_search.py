"""Which devices, in which row, and where to cut: the search, and the bound that no split can be under."""

import heapq
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

from fxopt.errors import InputError
from fxopt.passes.partition._devices import Device, Links
from fxopt.passes.partition._exact import GAP, solve
from fxopt.passes.partition._order import split_in_order
from fxopt.passes.partition._pieces import Pieces, renumbered
from fxopt.passes.partition._problem import Objective, Problem, Split

__all__ = ["Found", "Task", "search"]

_MOST_EXACT = 900
"""Pieces up to which the integer program is tried as it is."""
_COARSE = 300
_FIRST_SECONDS = 0.5
"""How long the integer program first has for a row of devices."""
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
    """

    pieces: Pieces
    devices: tuple[Device, ...]
    links: Links
    barred: Mapping[int, frozenset[str]]
    reserved: Mapping[str, int]
    objective: Objective = "throughput"

    def over(self, row: tuple[Device, ...]) -> Problem:
        """The problem for one row of devices."""
        return Problem(self.pieces, row, self.links, self.barred, self.reserved, self.objective)


@dataclass(frozen=True)
class Found:
    """The best split found, the row of devices that it is over, and the bound.

    Attributes:
        problem: over the row that was chosen.
        split: of its pieces.
        bound: seconds or bytes; no split of the pieces over any of the devices is under it.
        proof: how the bound was found: "optimal", "integer program" or "simple".
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
    rows = _rows(task)
    all_tried = len(rows) <= _MOST_ROWS
    problems = sorted((task.over(row) for row in rows[:_MOST_ROWS]), key=Problem.simple_bound)
    best: tuple[Problem, Split] | None = None
    for problem in problems:
        if best is None or (problem.simple_bound() < best[1].value and time.monotonic() < deadline):
            split = split_in_order(problem)
            if split is not None and (best is None or split.value < best[1].value):
                best = (problem, split)
    best, bounds = _refined(problems, best, deadline)
    if best is None:
        raise InputError(_no_room(task))
    total = task.over(task.devices).simple_bound()
    everything = max(total, min(bounds)) if all_tried else total
    if everything >= best[1].value * (1 - 1e-9):
        return Found(*best, best[1].value, "optimal")
    return Found(*best, everything, "integer program" if everything > total else "simple")


def _refined(
    problems: list[Problem], best: tuple[Problem, Split] | None, deadline: float
) -> tuple[tuple[Problem, Split] | None, list[float]]:
    """Better splits by the integer program, and a bound for each row.

    The row with the lowest bound is asked first; one that is not done in its time is asked again, for longer.
    """
    bounds = [_alone(p) if len(p.devices) == 1 else p.simple_bound() for p in problems]
    if find_spec("scipy") is None:
        return best, bounds
    exact = bool(problems) and len(problems[0].pieces) <= _MOST_EXACT
    queue = [(b, _FIRST_SECONDS, i) for i, b in enumerate(bounds) if len(problems[i].devices) > 1]
    heapq.heapify(queue)
    while queue:
        bound, seconds, number = heapq.heappop(queue)
        limit = math.inf if best is None else best[1].value
        left = deadline - time.monotonic()
        if bound >= limit * (1 - GAP) or left <= 0:
            break
        asked = problems[number] if exact else _coarse(problems[number])
        solved = solve(asked, best=limit, seconds=min(seconds, left))
        if exact:
            bounds[number] = max(bounds[number], solved.bound)
        if solved.split is not None and solved.split.value < limit:
            best = (problems[number], solved.split if exact else _fine(problems[number], asked, solved.split))
        if not solved.done:
            heapq.heappush(queue, (bounds[number], 4 * seconds, number))
    limit = math.inf if best is None else best[1].value
    return best, [min(b, limit) for b in bounds]


def _alone(problem: Problem) -> float:
    """The whole on one device."""
    return problem.value([0] * len(problem.pieces))


def _rows(task: Task) -> list[tuple[Device, ...]]:
    """Rows of devices, those that differ in nothing taken for one another; the full rows first."""
    kinds: dict[tuple[object, ...], list[Device]] = {}
    for device in task.devices:
        kinds.setdefault(_kind(task, device), []).append(device)
    names = {d.name for d in task.devices}
    must = {name for barred in task.barred.values() if len(names - barred) == 1 for name in names - barred}
    rows: list[tuple[Device, ...]] = []
    for length in range(len(task.devices), 0, -1):
        found = (r for r in _arranged(kinds, length) if must <= {d.name for d in r})
        rows += itertools.islice(found, _MOST_ROWS + 1 - len(rows))
    return rows


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
    rooms = [d.memory for d in task.devices]
    total = sum(w.bytes for w in task.pieces.weights)
    largest = max(task.pieces.weights, key=lambda w: w.bytes, default=None)
    said = "" if largest is None else f"; the largest, {largest.node.target}, has {largest.bytes:,} bytes"
    given = ", ".join("no limit" if r is None else f"{r:,}" for r in rooms)
    return (
        f"no split fits: the weights have {total:,} bytes, the devices {given}, of which "
        f"activations take a part{said}"
    )
