"""What is left of a program when groups go: weights, bytes, operations, without cutting it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fxopt.analysis.channels import Axis, Coupling, Reading
from fxopt.analysis.cost import Cost
from fxopt.json_data import JsonData
from fxopt.program import Program

__all__ = ["Footprint", "Footprints"]


@dataclass(frozen=True)
class Footprint(JsonData):
    """Sizes of a program.

    Attributes:
        params: elements of floating-point weights, tied ones once.
        bytes: of all weights.
        flops: operations at the sizes of the example that was traced, a multiply-add as two.
    """

    params: int
    bytes: int
    flops: int


class Footprints:
    """Footprints of one program for many choices of what goes."""

    def __init__(self, program: Program, coupling: Coupling) -> None:
        self._labels = coupling.labels
        space = coupling.demand.constants.space
        self._weights = [
            ([a for a in space.axes(n) if a is not None], math.prod(n.meta["val"].shape), n.meta["val"].dtype)
            for n in program.weight_nodes()
        ]
        flops = Cost.compute(program).flops_at()
        readings = coupling.demand.constants.readings
        self._calls = [part for n, count in flops.items() if count for part in _work(readings.get(n), count)]

    def without(self, labels: Iterable[int]) -> Footprint:
        """The footprint if all positions of these classes go."""
        removed = np.zeros(self._labels.size, dtype=bool)
        removed[np.fromiter(labels, dtype=np.int64)] = True
        kept = np.concatenate([[0], np.cumsum(~removed[self._labels])])

        def share(axis: Axis) -> float:
            return (kept[axis.start + axis.size] - kept[axis.start]) / axis.size if axis.size else 1.0

        params = total = 0
        for axes, count, dtype in self._weights:
            left = round(count * math.prod(map(share, axes)))
            params += left if dtype.is_floating_point else 0
            total += left * dtype.itemsize
        flops = sum(count * math.prod(map(share, axes)) for axes, count in self._calls)
        return Footprint(params, total, round(flops))


def _work(reading: Reading | None, count: int) -> list[tuple[list[Axis], float]]:
    """A call's operations, in parts that shrink with their axes: those of units with each matrix that they meet."""
    if reading is None or not reading.info.units:
        return [(_indices(reading), count)]
    weights = [s.axes for s in reading.inputs[1:] if s.name != reading.info.state and len(s.axes) == 2]
    matrices = [[a for a in axes if a is not None] for axes in weights]
    sizes = [math.prod(a.size for a in axes) for axes in matrices]
    return [(axes, count * size / sum(sizes)) for axes, size in zip(matrices, sizes, strict=True)]


def _indices(reading: Reading | None) -> list[Axis]:
    """One axis for each index of a call, so that their shares multiply to that of its work."""
    found: dict[str, Axis] = {}
    for side in (*reading.outputs, *reading.inputs) if reading is not None else ():
        for _, axis, names in side.places():
            if names and not found.keys() & set(names):
                found |= {names[0]: axis, **dict.fromkeys(names[1:], Axis(axis.start, 0))}
    return list(found.values())
