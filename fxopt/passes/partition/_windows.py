"""Is there a split under a value, over one row of devices? A search through the sets of pieces that can be cut off there.

If no stage may take longer than T, what runs before a cut is neither too much for the devices before it nor too little
for those after it. Near the optimum that leaves each cut a narrow window, and few of the graph's order ideals, of
which there may be millions, have a time in it. The least that any cut there sends (a minimum cut) narrows the windows further,
and so do the sets of one window those of the others. What is left is joined by a dynamic program.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._ideals import Array, Flags, Ideals, Open, Words, as_bits, as_flags
from fxopt.passes.partition._problem import Problem, Split

__all__ = ["Lattice", "Tried"]

Indices = npt.NDArray[np.intp]

_TOLERANCE = 1e-9
"""Of the value asked for: sums that are rounded prove no more."""
_FEW = 500
"""Sets of a cut that are looked for at first, at every cut, for they narrow the others; next ten times as many."""
_MOST_PAIRS = 200_000_000
"""Of sets of neighbouring cuts."""
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Tried:
    """A split that is no worse than was asked for; where it is None, `done` says that there is none."""

    split: Split | None
    done: bool = True


@dataclass
class _Sets:
    """Order ideals: pieces as bits, seconds, and bytes that a cut there sends, by set."""

    inside: Words
    seconds: Array
    sent: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, which: Flags | Indices) -> "_Sets":
        return _Sets(self.inside[which], self.seconds[which], self.sent[which])


class Lattice(Ideals):
    """The order ideals of some pieces, and splits whose cuts are among them."""

    def split(self, problem: Problem, target: float, *, most: int) -> Tried:
        """A split whose slowest stage takes at most `target` seconds.

        Args:
            problem: these pieces over a row of devices; its objective is throughput.
            target: seconds.
            most: sets of one cut that are looked at; where there are more, nothing is found.
        """
        return _Row(self, problem, target, most).split()

    def sides(self, problem: Problem, target: float) -> tuple[Flags, Flags] | None:
        """Which pieces are before, and which behind each cut, whatever the split that takes at most `target` seconds.

        Returns:
            Both bool[cuts, pieces]; None where there is no such split.
        """
        row = _Row(self, problem, target, 10 * _FEW)
        tried = row.split()
        if tried.done and tried.split is None:
            return None
        return np.array(row.must[1:-1]), np.array(row.never[1:-1])


class _Row:
    """One row of devices. Cut k is before stage k; cut 0 is before all, the last behind all."""

    def __init__(self, lattice: Lattice, problem: Problem, target: float, most: int) -> None:
        self.lattice, self.problem = lattice, problem
        self.stages = len(problem.devices)
        self.sizes = sorted({min(most, _FEW), min(most, 10 * _FEW), most})
        self.limit = target * (1 + _TOLERANCE)
        self.speeds = [d.speed for d in problem.devices]
        count = lattice.count
        nothing, everything = (np.full((1, count), f) for f in (False, True))
        whole = float(lattice.seconds.sum())
        self.known = {
            0: _Sets(as_bits(nothing), np.zeros(1), np.zeros(1)),
            self.stages: _Sets(as_bits(everything), np.full(1, whole), np.zeros(1)),
        }
        self.must = [np.zeros(count, dtype=bool) for _ in range(self.stages + 1)]
        self.never = [np.zeros(count, dtype=bool) for _ in range(self.stages + 1)]
        allowed = np.array([[problem.allowed(p, k) for p in range(count)] for k in range(self.stages)])
        for cut in range(1, self.stages):
            self.never[cut] |= ~allowed[:cut].any(axis=0)
            self.must[cut] |= ~allowed[cut:].any(axis=0)
        self.barred = as_bits(~allowed)
        rooms = [math.inf if (room := problem.room(k)) is None else room for k in range(self.stages)]
        self.least_held = [lattice.weights.sum() - sum(rooms[cut:]) for cut in range(self.stages)]
        self.most_held = [sum(rooms[:cut]) for cut in range(self.stages)]
        for cut in range(1, self.stages):
            self.never[cut] |= lattice.needs @ lattice.weights > self.most_held[cut]
            self.must[cut] |= lattice.weights.sum() - lattice.after @ lattice.weights < self.least_held[cut]
        self.high = [math.inf] * (self.stages + 1)
        self.low = [-math.inf] * (self.stages + 1)

    def split(self) -> Tried:
        """The search; see `Lattice.split`."""
        while len(self.known) <= self.stages:
            if not self._narrow():
                return Tried(None)
            found = next(
                (
                    (k, s)
                    for most in self.sizes
                    for k in self._open()
                    if (s := self._sets(k, most)) is not None
                ),
                None,
            )
            if found is None:
                return Tried(None, done=False)
            cut, sets = found
            self.known[cut] = sets
            if not len(sets):
                return Tried(None)
        return self._joined()

    def _open(self) -> list[int]:
        return [k for k in range(1, self.stages) if k not in self.known]

    def _seconds(self, cut: int, sent: Array) -> Array:
        """Of sending."""
        if cut in (0, self.stages):
            return np.zeros(len(sent))
        link = self.problem.link(cut - 1)
        return link.latency + sent / link.bandwidth

    def _narrow(self) -> bool:
        """What may run before each cut at most and at least, from what is known; False where nothing can."""
        for _ in range(2):  # the second time with the bytes that the first has found are sent
            sending = [0.0, *(self._least(k) for k in range(1, self.stages)), 0.0]
            if math.inf in sending:
                return False
            top, floor = 0.0, float(self.lattice.seconds.sum())
            for k in range(1, self.stages):
                self.high[k] = self.speeds[k - 1] * self.limit + top
                top = self.high[k] - (self.speeds[k - 1] + self.speeds[k]) * sending[k]
                if k in self.known:
                    own = self.known[k]
                    top = float((own.seconds - self.speeds[k] * self._seconds(k, own.sent)).max())
            for k in range(self.stages - 1, 0, -1):
                self.low[k] = floor - self.speeds[k] * self.limit
                floor = self.low[k] + (self.speeds[k - 1] + self.speeds[k]) * sending[k]
                if k in self.known:
                    own = self.known[k]
                    floor = float((own.seconds + self.speeds[k - 1] * self._seconds(k, own.sent)).min())
        return True

    def _least(self, cut: int) -> float:
        """Seconds of sending, at least."""
        link = self.problem.link(cut - 1)
        before = self.lattice.needs @ self.lattice.seconds
        behind = self.lattice.after @ self.lattice.seconds
        must, never = self.must[cut], self.never[cut]
        must |= self.lattice.seconds.sum() - behind < self.low[cut] + self.speeds[cut] * link.latency
        never |= before > self.high[cut] - self.speeds[cut - 1] * link.latency
        for other, sets in self.known.items():
            flags = as_flags(sets.inside, self.lattice.count)
            if other < cut:
                must |= flags.all(axis=0)
            if other > cut:
                never |= ~flags.any(axis=0)
        return link.seconds(self.lattice.least_sent(must, never))

    def _sets(self, cut: int, most: int) -> _Sets | None:
        """All sets whose times lie between; None where there are more."""
        lattice, must, never = self.lattice, self.must[cut], self.never[cut]
        before, behind = self.speeds[cut - 1], self.speeds[cut]
        open_ = Open(lattice)
        for piece in range(lattice.count):
            open_.decide(piece, must=bool(must[piece]), never=bool(never[piece]))
            sending = self._seconds(cut, open_.sent)
            fits = open_.seconds + before * sending <= self.high[cut]
            fits &= open_.most - behind * sending >= self.low[cut]
            fits &= (open_.held <= self.most_held[cut]) & (open_.most_held >= self.least_held[cut])
            open_.keep(fits)
            if len(open_.seconds) > most:
                return None
        return _Sets(open_.inside, open_.seconds, open_.sent)

    def _joined(self) -> Tried:
        """The sets of the cuts joined, from the first to the last."""
        chosen = [self.known[0]]
        parents: list[Indices] = []
        for stage in range(self.stages):
            before, after = chosen[-1], self.known[stage + 1]
            if len(before) * len(after) > _MOST_PAIRS:
                return Tried(None, done=False)
            parent = self._parents(stage, before, after)
            reached = np.nonzero(parent >= 0)[0]
            if not len(reached):
                return Tried(None)
            chosen.append(after.at(reached))
            parents.append(parent[reached])
        stage_of, place = np.zeros(self.lattice.count, dtype=int), 0
        for stage in range(self.stages - 1, 0, -1):
            place = int(parents[stage][place])
            stage_of += ~as_flags(chosen[stage].inside[place], self.lattice.count)
        stages = tuple(map(int, stage_of))
        return Tried(Split(stages, self.problem.value(stages)))

    def _parents(self, stage: int, before: _Sets, after: _Sets) -> Indices:
        """For each set behind a stage some set before it with which the stage is not too much; -1 where there is none."""
        speed = self.speeds[stage]
        start = before.seconds - speed * self._seconds(stage, before.sent)
        end = after.seconds + speed * self._seconds(stage + 1, after.sent)
        parent = np.full(len(after), -1)
        step = max(1, _BLOCK // max(1, len(after)))
        order = np.argsort(-start)
        left = np.argsort(end)
        for first in range(0, len(order), step):
            rows = order[first : first + step]
            left = left[parent[left] < 0]
            near = left[: np.searchsorted(end[left], start[rows].max() + speed * self.limit, side="right")]
            right = end[near] <= (start[rows] + speed * self.limit)[:, None]
            own = after.inside[near] & ~before.inside[rows][:, None]
            right &= ~(before.inside[rows][:, None] & ~after.inside[near]).any(axis=-1)
            right &= own.any(axis=-1) & ~(own & self.barred[stage]).any(axis=-1)
            room = self.problem.room(stage)
            if room is not None:
                right &= self._held(own) <= room
                self._check_live(right, stage, before.at(rows), after.at(near), room)
            found = right.any(axis=0)
            parent[near[found]] = rows[right.argmax(axis=0)[found]]
        return parent

    def _check_live(self, right: Flags, stage: int, before: _Sets, after: _Sets, room: float) -> None:
        """Takes out stages, from each set to each other, whose weights and activations have no room."""
        live, count = self.problem.live, self.lattice.count
        if live is None:
            return
        start, end = (as_flags(sets.inside, count) for sets in (before, after))
        made_before, made_after = live.before(start), live.before(end)
        taken = before.sent if stage else np.full(1, float(live.arguments))
        rows, columns = np.nonzero(right)
        step = max(1, _BLOCK // count)
        for first in range(0, len(rows), step):
            row, column = rows[first : first + step], columns[first : first + step]
            made = (made_after[column] - made_before[row]) * (end[column] & ~start[row])
            held = self._held(after.inside[column] & ~before.inside[row])
            right[row, column] = held + taken[row] + made.max(axis=1) <= room

    def _held(self, own: Words) -> Array:
        """Bytes of weights that some pieces read."""
        held = np.zeros(own.shape[:-1])
        for weight in self.problem.pieces.weights:
            readers = np.zeros(self.lattice.count, dtype=bool)
            readers[list(weight.users)] = True
            held += weight.bytes * (own & as_bits(readers)).any(axis=-1)
        return held
