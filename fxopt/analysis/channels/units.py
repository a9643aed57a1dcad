"""Units with a state of their own, as those of a recurrent layer: which stand still, which are read.

A unit reads others through the weight that has the units along both of its dimensions. What is said of units is
closed under that: a unit stands still only if all that it reads do, and one that a needed unit reads is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from fxopt.analysis.channels.products import Product
from fxopt.analysis.channels.reading import Names, Reading, Side, run_bound, some

__all__ = ["Units", "standing", "units_of"]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one call.

    Attributes:
        reading: the call.
        reads: whether a unit (the row) reads another (the column), in any of its gates.
    """

    reading: Reading
    reads: np.ndarray

    @property
    def names(self) -> Names:
        """Their index."""
        return (self.reading.info.units,)

    def spread(self, chosen: np.ndarray, through: np.ndarray) -> np.ndarray:
        """The units chosen, and all that a walk along `through` (bool[to, from]) comes to from them."""
        found, fresh = chosen.copy(), np.flatnonzero(chosen)
        while fresh.size:
            reached = through[:, fresh].any(axis=1) & ~found
            found |= reached
            fresh = np.flatnonzero(reached)
        return found

    def needed(self, wanted: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        """The units wanted, and those that they read, but for ones that are zero at all times."""
        return self.spread(wanted, self.reads.T & ~zeros[:, None])

    def states(self) -> list[Side]:
        """The operands that hold the first states."""
        return [s for s in self.reading.inputs if s.name == self.reading.info.state]


def units_of(reading: Reading, known: Mapping[Node, torch.Tensor]) -> Units | None:
    """The units of a call whose weights are known; None for other calls."""
    name = reading.info.units
    if not name or not reading.is_known or name not in reading.extents:
        return None
    weights = [s for s in reading.inputs[1:] if s.name != reading.info.state]
    twice = [s for s in weights if [n for d in s.dims for n in d].count(name) == 2]
    if len(twice) != 1 or any(s.node not in known for s in weights):
        return None
    names = [n for d in twice[0].dims for n in d]
    array = (known[twice[0].node] != 0).cpu().numpy().reshape([reading.extents[n] for n in names])
    gone = tuple(i for i, n in enumerate(names) if n != name)
    return Units(reading, some(array, gone) if gone else array)


def standing(
    units: Units,
    product: Product,
    known: Mapping[Node, torch.Tensor],
    along: Callable[[Side, Names], np.ndarray],
) -> list[np.ndarray]:
    """What units that never change give: one step from their first state leads to it again.

    Args:
        units: of the call.
        product: of its input and the weight that meets it.
        known: the weights.
        along: an operand's constants along an index, NaN where it varies.

    Returns:
        For each result the values by unit, NaN where the unit may change.
    """
    reading, names = units.reading, units.names
    x, states = along(product.x, product.channels), [along(s, names) for s in units.states()]
    moved = product.from_grid(
        product.reaches & product.over_grid(np.isnan(x), product.channels), product.rows, some
    )
    results = _one_step(reading, {product.x: x, **dict(zip(units.states(), states, strict=True))}, known)
    after = results[len(results) - len(states) :]
    same = [a == b for a, b in zip(states, after, strict=True)]  # what is not known equals nothing
    moving = units.spread(moved | ~np.logical_and.reduce(same), units.reads)
    return [np.where(moving, np.nan, r) for r in results]


def _one_step(
    reading: Reading, values: Mapping[Side, np.ndarray], known: Mapping[Node, torch.Tensor]
) -> list[np.ndarray]:
    """The call itself in float64 on one step of one sequence; what is not known is zero."""
    tensors: dict[str, list[torch.Tensor]] = {}
    for side in reading.inputs:
        if side in values:
            vector = np.nan_to_num(values[side])
            last = len(side.axes) - 1
            made = torch.tensor(vector).reshape([-1 if d == last else 1 for d in range(last + 1)])
        else:
            made = known[side.node].detach().cpu().double()
        tensors.setdefault(side.name, []).append(made)
    bound = {
        name: value
        if name not in tensors
        else tensors[name]
        if isinstance(value, (list, tuple))
        else tensors[name][0]
        for name, value in reading.bound.items()
    }
    results: Sequence[object] = pytree.tree_leaves(run_bound(reading.op, bound))
    return [r.reshape(-1).numpy() for r in results if isinstance(r, torch.Tensor)]
