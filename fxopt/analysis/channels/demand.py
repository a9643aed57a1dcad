"""Backward: which slices some output can see.

A slice is demanded if a demanded, varying slice of a result depends on it. A constant that a product can take
into its bias is not; one in front of padding is needed only by representative: one constant channel stands for
all of them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from fxopt.analysis.channels.constants import Constants
from fxopt.analysis.channels.products import Product
from fxopt.analysis.channels.reading import Names, Reading, Side, some
from fxopt.analysis.channels.space import is_part
from fxopt.program import Program

__all__ = ["Demand"]


@dataclass(frozen=True)
class Demand:
    """Demanded slices of a program.

    Attributes:
        constants: the forward facts.
        needed: bool by position.
        by: for each needed position, the number of a node that demands it (an index into `nodes`).
        nodes: the program's nodes in order.
        represented: products with channels that are constant but not absorbed; one of them has to stay.
    """

    constants: Constants
    needed: np.ndarray
    by: np.ndarray
    nodes: tuple[Node, ...]
    represented: tuple[Product, ...]

    @classmethod
    def compute(cls, program: Program) -> "Demand":
        """Follows demand from the outputs to the inputs."""
        nodes = tuple(program.graph.nodes)
        walk = _Walk(Constants.compute(program), nodes)
        for number in range(len(nodes) - 1, -1, -1):
            walk.visit(number)
        return cls(walk.constants, walk.needed, walk.by, nodes, tuple(walk.represented))


class _Walk:
    """The state of the backward walk."""

    def __init__(self, constants: Constants, nodes: tuple[Node, ...]) -> None:
        self.constants, self.nodes = constants, nodes
        self.needed = np.zeros(constants.space.size, dtype=bool)
        self.by = np.zeros(constants.space.size, dtype=np.int64)
        self.represented: list[Product] = []
        self.wanted: set[Node] = set()
        """Results of which something is demanded; sizes may hold no tracked position."""

    def visit(self, number: int) -> None:
        """Demands what a node demands."""
        node = self.nodes[number]
        if node.op == "output":
            self._all(node.all_input_nodes, number)
        elif node.op == "call_function" and node in self.wanted and not is_part(node):
            reading = self.constants.readings.get(node)
            if reading is None or (not reading.is_known and not reading.info.shape_only):
                self._all(node.all_input_nodes, number)
            else:
                self._call(reading, number)
        elif node.op == "call_function" and node in self.wanted:
            self.wanted.add(node.all_input_nodes[0])

    def _all(self, operands: Iterable[Node], number: int) -> None:
        for operand in operands:
            self.wanted.add(operand)
            for axes in self.constants.space.parts(operand):
                for axis in axes:
                    if axis is not None:
                        self._mark(axis.numbers, number)

    def _mark(self, positions: np.ndarray, number: int) -> None:
        fresh = positions[~self.needed[positions]]
        self.needed[fresh] = True
        self.by[fresh] = number

    def _call(self, reading: Reading, number: int) -> None:
        wanted = self._by_units(reading, [self._demanded(s) for s in reading.outputs])
        self.wanted.update(n for n in reading.node.all_input_nodes if not any(self.constants.space.parts(n)))
        through = [(p, self._through(p, wanted)) for p in self.constants.products[reading.node]]
        for side in reading.inputs:
            if side.name in reading.info.shape_only:
                continue
            places = side.places()
            masks = [
                self._of_operand(reading, side, dim, names, axis.size, wanted) for dim, axis, names in places
            ]
            for product, channels in through:
                if side is product.x or side is product.weight:
                    for mask, (_, _, names) in zip(masks, places, strict=True):
                        if set(names) & set(product.channels) & reading.contracted:
                            mask &= reading.onto(channels, product.channels, names, some)
            if not all(m.any() for m in masks) or not any(w is not None for w in wanted):
                continue  # along one dimension nothing is demanded: nothing is
            self.wanted.add(side.node)
            for mask, (_, axis, _) in zip(masks, places, strict=True):
                self._mark(axis.start + np.flatnonzero(mask), number)

    def _demanded(self, side: Side) -> list[np.ndarray] | None:
        """Demanded, varying positions by tracked dimension of a result; None if nothing of it is demanded."""
        values = self.constants.values
        found = [self.needed[a.span] & np.isnan(values[a.span]) for _, a, _ in side.places()]
        return found if all(f.any() for f in found) else None

    def _by_units(
        self, reading: Reading, wanted: list[list[np.ndarray] | None]
    ) -> list[list[np.ndarray] | None]:
        """With the units that demanded ones read, in every result: one that is read is so at every step."""
        name, nothing = reading.info.units, all(w is None for w in wanted)
        if not name or not reading.is_known or nothing:
            return wanted
        units, values = self.constants.units.get(reading.node), self.constants.values
        chosen = np.zeros(reading.extents.get(name, 1), dtype=bool)
        axes = [[a for _, a, names in s.places() if names == (name,)] for s in reading.outputs]
        for demand, own in zip(wanted, axes, strict=True):
            for axis in own if demand is not None else ():
                chosen |= self.needed[axis.span]
        if units is None:
            chosen[:] = True
        else:
            chosen = units.needed(chosen, values[axes[0][0].span] == 0)
        return [
            [chosen if names == (name,) else np.ones(axis.size, dtype=bool) for _, axis, names in s.places()]
            for s in reading.outputs
        ]

    def _of_operand(
        self,
        reading: Reading,
        side: Side,
        dim: int,
        names: Names,
        size: int,
        wanted: list[list[np.ndarray] | None],
    ) -> np.ndarray:
        """What the demanded results ask of one dimension of an operand."""
        total = np.zeros(size, dtype=bool)
        for part, (output, demand) in enumerate(zip(reading.outputs, wanted, strict=True)):
            if demand is None:
                continue
            if dim in reading.moved:
                total |= self._of_moved(reading, side, dim, part, demand, size)
                continue
            mask = np.ones(math.prod(reading.extents[n] for n in names), dtype=bool)
            for (_, _, onto), vector in zip(output.places(), demand, strict=True):
                if set(onto) & set(reading.carried(names)):
                    mask &= reading.onto(vector, onto, names, some)
            total |= mask if mask.size == size else np.ones(size, dtype=bool)
        return np.asarray(total & ~self._zeros(reading, side, names, size))

    def _of_moved(
        self, reading: Reading, side: Side, dim: int, part: int, demand: list[np.ndarray], size: int
    ) -> np.ndarray:
        start = 0
        for other in reading.inputs:
            if other is side:
                break
            axis = other.axes[dim]
            assert axis is not None
            start += axis.size
        places, output = reading.moved[dim][part], reading.outputs[part]
        if len(output.axes) == len(side.axes):
            index = next((i for i, (d, _, _) in enumerate(output.places()) if d == dim), None)
            places = places if index is None else places[demand[index]]
        mask = np.zeros(size, dtype=bool)
        mask[places[(places >= start) & (places < start + size)] - start] = True
        return mask

    def _zeros(self, reading: Reading, side: Side, names: Names, size: int) -> np.ndarray:
        """Where an index that no result has meets zeros."""
        skipped = np.zeros(size, dtype=bool)
        if not names or not set(names) <= reading.contracted or reading.carried(names) != names:
            return skipped
        if all(map(reading.skips_zeros, names)):
            for holder in reading.inputs:
                if set(names) <= {n for d in holder.dims for n in d}:
                    skipped |= self.constants.along(reading, holder, names) == 0
        return skipped

    def _through(self, product: Product, wanted: list[list[np.ndarray] | None]) -> np.ndarray:
        """The channels that reach a demanded row and are not absorbed."""
        demand = wanted[0]
        if demand is None:
            return np.zeros(1 if product.channel is None else product.channel.size, dtype=bool)
        axes = [a for _, a, _ in product.reading.outputs[0].places()]
        rows = demand[axes.index(product.out)]
        reached = product.from_grid(
            product.reaches & product.over_grid(rows, product.rows), product.channels, some
        )
        values = self.constants.along(product.reading, product.x, product.channels)
        absorbed = (values == 0) | (~np.isnan(values) & self.constants.absorbs(product))
        if self._is_represented(product, reached & ~absorbed & ~np.isnan(values)):
            absorbed |= ~np.isnan(values)
        return np.asarray(reached & ~absorbed)

    def _is_represented(self, product: Product, channels: np.ndarray) -> bool:
        """Whether constants may be merged into one channel of this product's own weight; notes it."""
        weight = product.weight.node
        if not channels.any() or len(product.channels) != 1 or weight.op != "get_attr":
            return False
        if product.x.node in self.constants.known:  # of two known factors each would get what the other does
            return False
        if not set(product.channels) <= product.reading.contracted:
            return False
        if len(weight.users) != 1 or not product.is_plain:
            return False
        self.represented.append(product)
        return True
