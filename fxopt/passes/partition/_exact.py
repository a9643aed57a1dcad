"""The best split, and a proof of how near it is: an integer program, solved by HiGHS.

`y[v, k] = 1` where piece v runs in stage k or before it (the order ideals of the graph: `y` grows with k and falls
along edges); `c[u, k]` is the share of tensor u that crosses boundary k; T is at least what is minimised. Tarnawski
et al., "Efficient algorithms for device placement of DNN graph operators" (NeurIPS 2020).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._pieces import Crossing
from fxopt.passes.partition._problem import Problem, Split

__all__ = ["GAP", "Solved", "solve"]

GAP = 5e-4
"""Relative; a plan this near the optimum is taken for it."""
_TOLERANCE = 1e-6
"""Of the solver: its rows, and so its bound, hold to this."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Part = tuple[dict[int, float], float]
"""Factors by unknown, and a constant."""


@dataclass(frozen=True)
class Solved:
    """What the solver found: a split that is better than the one at hand, if any, and a bound on all splits.

    `done` where more time would find no more.
    """

    split: Split | None
    bound: float
    done: bool = True


class _Model:
    """Rows of the integer program, gathered term by term."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count, self.stages = len(problem.pieces), len(problem.devices)
        boundaries = self.stages - 1
        self.tensors = [t for t in problem.pieces.tensors if t.bytes]
        self.shared = [w for w in problem.pieces.weights if len(w.users) > 1] if self._limited() else []
        self.crossing = self.count * boundaries
        self.holding = self.crossing + len(self.tensors) * boundaries
        self.full = self.holding + len(self.shared) * self.stages
        self.least = self.full + self.stages
        self.unknowns = self.least + 1
        self.scale = max(problem.simple_bound(), 1e-12)
        """Seconds or bytes are counted in these, so that tolerances suit programs of any size."""
        self.rows: list[dict[int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def _limited(self) -> bool:
        return self.problem.objective == "memory" or any(
            self.problem.room(k) is not None for k in range(self.stages)
        )

    def before(self, piece: int, boundary: int, factor: float) -> Part:
        """`factor * y[piece, boundary]` as terms and a constant."""
        if piece < 0 or boundary >= self.stages - 1:
            return {}, factor
        if piece >= self.count or boundary < 0:
            return {}, 0.0
        return {piece * (self.stages - 1) + boundary: factor}, 0.0

    def add(self, parts: Iterable[Part], *, low: float = -np.inf, high: float = np.inf) -> None:
        """One row: the sum of the parts lies between low and high."""
        row: dict[int, float] = {}
        constant = 0.0
        for terms, number in parts:
            constant += number
            for index, factor in terms.items():
                row[index] = row.get(index, 0.0) + factor
        self.rows.append(row)
        self.low.append(low - constant)
        self.high.append(high - constant)

    def sent(self, tensor: int, boundary: int) -> int:
        return self.crossing + tensor * (self.stages - 1) + boundary

    def build(self) -> None:
        self._order()
        self._barred()
        for stage in range(self.stages):
            if self._limited():
                self._memory(stage)
            if self.problem.objective == "throughput":
                self.add([({self.least: 1.0}, 0.0), *self._load(stage, (stage - 1, stage))], low=0.0)
        if self.problem.objective == "latency":
            whole = [part for stage in range(self.stages) for part in self._load(stage, (stage,))]
            self.add([({self.least: 1.0}, 0.0), *whole], low=0.0)

    def _barred(self) -> None:
        for piece in self.problem.barred:
            for stage in range(self.stages):
                if not self.problem.allowed(piece, stage):
                    self.add(self._here(piece, stage, 1.0), high=0.0)

    def _order(self) -> None:
        edges: set[tuple[int, int]] = set()
        for index, tensor in enumerate(self.tensors):
            self._crosses(index, tensor)
        for tensor in self.problem.pieces.tensors:
            edges |= {(tensor.maker, u) for u in tensor.users if tensor.maker >= 0 and u < self.count}
        for boundary in range(self.stages - 1):
            for maker, user in edges:
                self.add([self.before(maker, boundary, 1.0), self.before(user, boundary, -1.0)], low=0.0)
            for piece in range(self.count):
                if boundary:
                    self.add(
                        [self.before(piece, boundary, 1.0), self.before(piece, boundary - 1, -1.0)], low=0.0
                    )
        for boundary in range(-1, self.stages - 1):  # no stage is empty
            parts = [self.before(p, boundary + 1, 1.0) for p in range(self.count)]
            self.add([*parts, *(self.before(p, boundary, -1.0) for p in range(self.count))], low=1.0)

    def _crosses(self, index: int, tensor: Crossing) -> None:
        for boundary in range(self.stages - 1):
            for user in tensor.users:
                made = self.before(tensor.maker, boundary, -1.0)
                self.add(
                    [({self.sent(index, boundary): 1.0}, 0.0), made, self.before(user, boundary, 1.0)],
                    low=0.0,
                )

    def _load(self, stage: int, boundaries: Iterable[int]) -> list[Part]:
        """The seconds of a stage, and of what crosses some boundaries, with a minus."""
        parts: list[Part] = []
        speed = self.problem.devices[stage].speed * self.scale
        for piece, seconds in enumerate(self.problem.pieces.seconds):
            if seconds:
                parts += [
                    self.before(piece, stage, -seconds / speed),
                    self.before(piece, stage - 1, seconds / speed),
                ]
        for boundary in boundaries:
            if 0 <= boundary < self.stages - 1:
                link = self.problem.link(boundary)
                parts.append(({}, -link.latency / self.scale))
                for index, tensor in enumerate(self.tensors):
                    seconds = tensor.bytes / link.bandwidth / self.scale
                    parts.append(({self.sent(index, boundary): -seconds}, 0.0))
        return parts

    def _memory(self, stage: int) -> None:
        room = self.problem.room(stage)
        parts = self._held(stage)
        if room is not None:
            unit = max(room, 1)
            self.add(_scaled(parts, 1 / unit), high=room / unit)
            self._live(stage, unit, parts)
        if self.problem.objective == "memory":
            self.add([*_scaled(parts, 1 / self.scale), ({self.least: -1.0}, 0.0)], high=0.0)

    def _held(self, stage: int) -> list[Part]:
        """Bytes of weights."""
        parts: list[Part] = []
        for weight in self.problem.pieces.weights:
            if len(weight.users) == 1:
                parts += self._here(weight.users[0], stage, weight.bytes)
        for index, weight in enumerate(self.shared):
            held = self.holding + index * self.stages + stage
            parts.append(({held: float(weight.bytes)}, 0.0))
            for user in weight.users:
                self.add([({held: 1.0}, 0.0), *self._here(user, stage, -1.0)], low=0.0)
        return parts

    def _live(self, stage: int, room: int, weights: list[Part]) -> None:
        """What is alive while a piece runs has room beside weights and what comes in, which take `full` of it."""
        live = self.problem.live
        if live is None:
            return
        taken: list[Part] = [({}, float(live.arguments))]
        if stage:
            taken = [({self.sent(i, stage - 1): float(t.bytes)}, 0.0) for i, t in enumerate(self.tensors)]
        held = _scaled([*weights, *taken], 1 / room)
        self.add([*held, ({self.full + stage: -1.0}, 0.0)], high=0.0)
        for piece in range(self.count):
            alive = live.alive[piece] / room
            makers = np.nonzero(alive)[0]
            others = float(alive[makers].sum() - alive[piece])
            parts = [part for m in makers for part in self._here(int(m), stage, float(alive[m]))]
            self.add(
                [({self.full + stage: 1.0}, 0.0), *parts, *self._here(piece, stage, others)], high=1 + others
            )

    def _here(self, piece: int, stage: int, factor: float) -> list[Part]:
        return [self.before(piece, stage, factor), self.before(piece, stage - 1, -factor)]

    def bounds(self, best: float, sides: tuple[Flags, Flags] | None) -> tuple[Array, Array]:
        """Of the unknowns; nothing worse than `best` is sought, and what is before or behind a cut stays there."""
        low, high = np.zeros(self.unknowns), np.ones(self.unknowns)
        if sides is not None:
            before, behind = sides
            low[: self.crossing] = before.T.ravel()
            high[: self.crossing] = 1 - behind.T.ravel()
        low[self.least] = self.problem.simple_bound() / self.scale
        high[self.least] = max(best / self.scale, low[self.least]) if math.isfinite(best) else np.inf
        return low, high

    def entries(self) -> tuple[list[float], tuple[list[int], list[int]]]:
        """The coefficients of the rows, and where they stand."""
        rows, columns, values = [], [], []
        for number, row in enumerate(self.rows):
            rows += [number] * len(row)
            columns += list(row)
            values += list(row.values())
        return values, (rows, columns)


def _scaled(parts: Iterable[Part], factor: float) -> list[Part]:
    return [({i: f * factor for i, f in terms.items()}, number * factor) for terms, number in parts]


def solve(
    problem: Problem, *, best: float, seconds: float, sides: tuple[Flags, Flags] | None = None
) -> Solved:
    """Solves a problem with at least two devices.

    Args:
        problem: pieces over a row of devices.
        best: the value at hand, in seconds or bytes (infinite: none); only better ones are sought.
        seconds: how long it may take.
        sides: pieces that are before, and behind, each cut in every better split, bool[cuts, pieces].
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    simple = problem.simple_bound()
    if any(not any(problem.allowed(p, k) for k in range(len(problem.devices))) for p in problem.barred):
        return Solved(None, math.inf)
    model = _Model(problem)
    model.build()
    cost = np.zeros(model.unknowns)
    cost[model.least] = 1.0
    whole = np.zeros(model.unknowns)
    whole[: model.crossing] = 1
    rows = csr_array(model.entries(), shape=(len(model.rows), model.unknowns))
    found = milp(
        cost,
        integrality=whole,
        bounds=Bounds(*model.bounds(best, sides)),
        constraints=LinearConstraint(rows, model.low, model.high),
        options={"time_limit": max(seconds, 0.1), "mip_rel_gap": GAP},
    )
    if found.status == 2:  # no split is better than the one at hand, or none fits at all
        return Solved(None, best)
    bound = (
        simple
        if found.mip_dual_bound is None
        else max(simple, (1 - _TOLERANCE) * found.mip_dual_bound * model.scale)
    )
    if found.x is None:
        return Solved(None, bound, done=False)
    before = np.round(found.x[: model.crossing]).reshape(model.count, model.stages - 1)
    stage_of = tuple(int(s) for s in (model.stages - 1) - before.sum(axis=1))
    return Solved(Split(stage_of, problem.value(stage_of)), bound, done=found.status == 0)
