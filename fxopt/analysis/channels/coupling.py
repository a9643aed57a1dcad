"""Which positions can be cut only together, and which can't be cut at all.

Positions that a call ties by a carried index (rows of a weight, its bias, the channels they make, and through
a residual sum those of another layer) are one class: it goes or stays as a whole.
"""

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch.fx import Node

from fxopt.analysis.channels.demand import Demand
from fxopt.analysis.channels.reading import Names, Reading, Side, some
from fxopt.analysis.channels.space import Axis, is_part
from fxopt.ops import Mark, QuantRole
from fxopt.program import Program

__all__ = ["Coupling"]


Place = tuple[Side, int]
"""An operand of a call, and one of its dimensions."""


@dataclass(frozen=True)
class Coupling:
    """Classes of positions.

    Attributes:
        demand: the facts that choices between indices are made by.
        labels: the class of each position; classes are named by their first position.
        frozen: by position, one more than the number of the node that keeps it from being cut, 0 for none.
        selected: operands of calls, along a dimension, that keep all while the call asks for some: what can't be cut
            where it is made, such as the shares that a softmax gives experts, is selected from where it is read.
    """

    demand: Demand
    labels: np.ndarray
    frozen: np.ndarray
    selected: frozenset[Place] = frozenset()

    @classmethod
    def compute(cls, program: Program) -> "Coupling":
        """Ties the positions of a program."""
        demand = Demand.compute(program)
        ties = _Ties(demand)
        meetings = _meetings(ties)
        if meetings:  # of what meets, that which stays frozen alone, while another does not
            apart = _Ties(demand, meetings.keys())
            stuck = {p for p in meetings if apart.keeps(_axis(p)).all()}
            alone = frozenset(p for p in stuck if not meetings[p] <= stuck)
            ties = _Ties(demand, alone) if alone else ties
            return cls(demand, ties.labels, ties.frozen, alone)
        return cls(demand, ties.labels, ties.frozen)


class _Ties:
    """The ties found so far, as pairs of positions."""

    def __init__(self, demand: Demand, loose: Set[Place] = frozenset()) -> None:
        self.loose = loose
        self.demand, self.space = demand, demand.constants.space
        self.first: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        self.second: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        self.frozen = np.zeros(self.space.size, dtype=np.int64)
        for number, node in enumerate(demand.nodes):
            self.visit(number, node)

    def visit(self, number: int, node: Node) -> None:
        """Adds what one node ties and freezes."""
        if node.op == "placeholder":
            self._freeze_node(node, number)
        elif node.op == "output":
            for used in node.all_input_nodes:
                self._freeze_node(used, number)
        elif node.op == "call_function" and not is_part(node):
            reading = self.demand.constants.readings.get(node)
            if reading is None:
                for used in node.all_input_nodes:
                    self._freeze_node(used, number)
            else:
                self._call(reading, number)

    def _freeze_node(self, node: Node, number: int) -> None:
        for axes in self.space.parts(node):
            for axis in axes:
                self._freeze(axis, number)

    def _freeze(self, axis: Axis | None, number: int) -> None:
        if axis is not None:
            span = self.frozen[axis.span]
            span[span == 0] = number + 1

    def _call(self, reading: Reading, number: int) -> None:
        cut = self._cut_indices(reading) if reading.is_known else set()
        anchors: dict[str, np.ndarray] = {}
        for side in (*reading.inputs, *reading.outputs):
            if side.name in reading.info.shape_only and side.name and not reading.info.elementwise:
                self._freeze_sizes(reading, side, number)
                continue
            for dim, axis, names in side.places():
                chosen = [n for n in names if n in cut]
                if (side, dim) in self.loose:
                    continue
                if dim in reading.moved and len(side.axes) == len(reading.inputs[0].axes):
                    if not self._resizes(reading):
                        self._freeze(axis, number)
                elif chosen:
                    self._tie(axis, names, chosen[0], reading, anchors)
                elif axis.size > 1 or side.dims == ():
                    self._freeze(axis, number)
        if self._resizes(reading):
            self._tie_moved(reading, number)

    def _freeze_sizes(self, reading: Reading, side: Side, number: int) -> None:
        """A size that is read must stay, where it is a number already."""
        dim = reading.bound.get("dim")
        if isinstance(dim, int) and dim < len(side.axes):
            self._freeze(side.axes[dim], number)

    @staticmethod
    def _resizes(reading: Reading) -> bool:
        """Whether a move can be made of what stays."""
        return bool(reading.moved) and reading.info.resize is not None

    def _tie(
        self, axis: Axis, names: Names, index: str, reading: Reading, anchors: dict[str, np.ndarray]
    ) -> None:
        """Ties the positions of one dimension that have one coordinate of an index."""
        shape = [reading.extents[n] for n in names]
        at = names.index(index)
        coordinates = np.arange(shape[at]).reshape([-1 if i == at else 1 for i in range(len(shape))])
        coordinates = np.broadcast_to(coordinates, shape).reshape(-1)
        if index not in anchors:
            anchor = np.zeros(shape[at], dtype=np.int64)
            anchor[coordinates[::-1]] = axis.numbers[::-1]
            anchors[index] = anchor
        self.first.append(axis.numbers)
        self.second.append(anchors[index][coordinates])

    def _tie_moved(self, reading: Reading, number: int) -> None:
        """Ties each element of a move to where it comes from."""
        for dim, parts in reading.moved.items():
            axes = [s.axes[dim] for s in reading.inputs]
            numbers = np.concatenate([a.numbers for a in axes if a is not None])
            for output, places in zip(reading.outputs, parts, strict=True):
                if len(output.axes) != len(reading.inputs[0].axes):
                    taken = np.zeros(self.space.size, dtype=bool)  # what is selected alone can't be cut
                    taken[numbers[places]] = True
                    free = self.frozen == 0
                    self.frozen[taken & free] = number + 1
                    continue
                axis = output.axes[dim]
                assert axis is not None
                self.first.append(axis.numbers[places >= 0])
                self.second.append(numbers[places[places >= 0]])
                span = self.frozen[axis.span]
                span[(places < 0) & (span == 0)] = number + 1

    def _cut_indices(self, reading: Reading) -> set[str]:
        """The indices along which a call is cut: of a dimension that is a product, one."""
        chosen: set[str] = set()
        rejected: set[str] = set()
        sides = [*reading.inputs, *reading.outputs]
        for side in sides:
            for _, axis, names in side.places():
                if len(names) < 2:
                    continue
                options = [n for n in names if n not in rejected and _may_be_cut(reading, n)]
                best = next((n for n in options if n in chosen), None)
                if best is None and options:
                    best = max(options, key=lambda n: self._gain(reading, axis, names, n))
                chosen |= {best} if best else set()
                rejected |= {*names} - {best}
        singles = {n[0] for s in sides for _, _, n in s.places() if len(n) == 1}
        return chosen | {n for n in singles if n not in rejected and _may_be_cut(reading, n)}

    def _gain(self, reading: Reading, axis: Axis, names: Names, index: str) -> float:
        """What share of a dimension would go if it were cut along an index."""
        needed = reading.onto(self.demand.needed[axis.span], names, (index,), some)
        return float((~needed).mean())

    def keeps(self, axis: Axis) -> np.ndarray:
        """Whether the classes of an axis's positions can't be cut."""
        return np.asarray(self._stays[self.labels[axis.span]])

    @cached_property
    def _stays(self) -> np.ndarray:
        """By class, whether it can't be cut."""
        stays = np.zeros(self.space.size, dtype=bool)
        stays[self.labels[self.frozen > 0]] = True
        return stays

    @cached_property
    def labels(self) -> np.ndarray:
        """The smallest position of each position's class."""
        return _components(self.space.size, np.concatenate(self.first), np.concatenate(self.second))


def _axis(place: Place) -> Axis:
    side, dim = place
    axis = side.axes[dim]
    assert axis is not None
    return axis


def _meetings(ties: _Ties) -> dict[Place, set[Place]]:
    """Where activations meet along an index of which some positions are not needed, but can't be cut; with whom."""
    demand = ties.demand
    found: dict[Place, set[Place]] = {}
    for reading in demand.constants.readings.values():
        sides = [s for s in reading.inputs if s.node not in demand.constants.known]
        is_product = reading.info.elementwise or reading.info.role is QuantRole.CONTRACTION
        if not is_product or len({s.node for s in sides}) < max(2, len(sides)):
            continue
        for side in sides:
            for dim, axis, names in side.places():
                others = {(s, d) for s in sides if s is not side for d, _, n in s.places() if n == names}
                alone = len(names) == 1 and others and _may_be_cut(reading, names[0])
                if alone and not demand.needed[axis.span].all() and ties.keeps(axis).all():
                    found[side, dim] = others
    return found


def _may_be_cut(reading: Reading, index: str) -> bool:
    uncut = reading.info.uncut
    if index in reading.hidden or uncut is True or (callable(uncut) and index in uncut(reading.bound)):
        return False
    if reading.marks.get(index, Mark.CARRIED) is not Mark.CARRIED:
        return False
    return index not in reading.contracted or reading.skips_zeros(index)


def _components(size: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Connected components by hooking and pointer jumping: a few sweeps over all ties."""
    labels = np.arange(size)
    while True:
        a, b = labels[first], labels[second]
        if np.array_equal(a, b):
            return labels
        np.minimum.at(labels, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
