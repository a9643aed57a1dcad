"""Numbers for every position of every dimension of every tensor in a program.

Dimensions of a size that varies have none: they are neither cut nor known to be constant along. A number
(a tensor without dimensions) has one position.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from fxopt.program import Program

__all__ = ["Axes", "Axis", "Space"]


@dataclass(frozen=True)
class Axis:
    """The numbers of one dimension's positions: `start` to `start + size`."""

    start: int
    size: int

    @property
    def span(self) -> slice:
        """Where its positions stand in an array over all."""
        return slice(self.start, self.start + self.size)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers themselves."""
        return np.arange(self.start, self.start + self.size)


Axes = tuple[Axis | None, ...]


class Space:
    """The numbering of a program's positions.

    Attributes:
        size: how many there are.
    """

    def __init__(self, program: Program) -> None:
        self.size = 0
        self._axes: dict[Node, tuple[Axes, ...]] = {}
        for node in program.graph.nodes:
            if node.op == "output":
                continue
            value = node.meta["val"]
            source = node.args[0] if node.op == "call_function" and node.args else None
            if isinstance(source, Node) and isinstance(source.meta["val"], (list, tuple)):
                index = node.args[1]
                assert isinstance(index, int)
                self._axes[node] = self._axes[source][index : index + 1]  # a part of a result is that result
            else:
                values = value if isinstance(value, (list, tuple)) else [value]
                self._axes[node] = tuple(self._number(v) for v in values)

    def _number(self, value: object) -> Axes:
        if not isinstance(value, torch.Tensor):
            return ()
        sizes = list(value.shape) or [1]
        return tuple(self._axis(size) for size in sizes)

    def _axis(self, size: int | torch.SymInt) -> Axis | None:
        if not isinstance(size, int):
            return None
        self.size += size
        return Axis(self.size - size, size)

    def parts(self, node: Node) -> tuple[Axes, ...]:
        """The axes of each tensor that a node stands for: of one, or of each in a tuple."""
        return self._axes[node]

    def axes(self, node: Node) -> Axes:
        """The axes of a tensor."""
        (axes,) = self._axes[node]
        return axes

    def all_axes(self) -> Iterator[tuple[Node, Axis]]:
        """Every axis with the node it belongs to, parts of results under the result."""
        for node, parts in self._axes.items():
            if not is_part(node):
                yield from ((node, axis) for axes in parts for axis in axes if axis is not None)


def is_part(node: Node) -> bool:
    """Whether a node takes one tensor out of a result of several."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    return isinstance(source, Node) and isinstance(source.meta["val"], (list, tuple))
