"""A call read through its index map: which positions of its operands and results speak of the same index.

>>> extents = {"h": 2, "d": 3}
>>> spread(np.array([1.0, 2.0]), ("h",), ("h", "d"), extents, equal)
array([1., 1., 1., 2., 2., 2.])
>>> spread(np.array([False, False, True, False, False, False]), ("h", "d"), ("h",), extents, some)
array([ True, False])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from fxopt.analysis.channels.space import Axis, Space
from fxopt.ops import (
    Dimension,
    IndexMap,
    Mark,
    Operand,
    OpInfo,
    QuantRole,
    align_inputs,
    align_outputs,
    argument_kinds,
    bind,
    bind_values,
    call_index_map,
    op_info,
)

__all__ = ["Reading", "Side", "equal", "read_call", "run_bound", "some", "spread", "tensor_operands", "total"]

Names = tuple[str, ...]
Reduce = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def equal(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The one value along the axes, NaN where they differ."""
    low, high = array.min(axis=axes), array.max(axis=axes)
    return np.where(low == high, low, np.nan)


def some(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Whether any is true."""
    return np.asarray(array.any(axis=axes))


def total(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum."""
    return np.asarray(array.sum(axis=axes))


def spread(
    vector: np.ndarray, names: Names, onto: Names, extents: Mapping[str, int], reduce: Reduce
) -> np.ndarray:
    """A vector over the positions of one dimension, as one over those of another.

    Args:
        vector: by the positions of a dimension that is the product of the indices `names`, row-major.
        names: its indices; none for a dimension of size one.
        onto: indices of the other dimension; those that are not in `names` repeat.
        extents: sizes by index.
        reduce: what becomes of the indices that `onto` lacks.
    """
    array = vector.reshape([extents[n] for n in names])
    gone = tuple(i for i, n in enumerate(names) if n not in onto)
    if gone:
        array = reduce(array, gone)
    kept = [n for n in names if n in onto]
    array = array.transpose([kept.index(n) for n in onto if n in kept])
    array = array.reshape([extents[n] if n in kept else 1 for n in onto])
    return np.broadcast_to(array, [extents[n] for n in onto]).reshape(-1)


@dataclass(frozen=True, eq=False)
class Side:
    """One tensor of a call.

    Attributes:
        name: the argument's; empty for a result.
        node: the argument; for a result the call.
        axes: where its positions stand.
        dims: the indices of each dimension, outermost first; none where the position says nothing.
        indices: all indices of its bracket, those of size one among them.
    """

    name: str
    node: Node
    axes: tuple[Axis | None, ...]
    dims: tuple[Names, ...]
    indices: frozenset[str] = frozenset()

    def places(self) -> list[tuple[int, Axis, Names]]:
        """Dimensions that are tracked: number, axis, indices."""
        if not self.dims:
            return [(0, axis, ()) for axis in self.axes if axis is not None]
        return [(i, a, d) for i, (a, d) in enumerate(zip(self.axes, self.dims, strict=True)) if a is not None]


@dataclass(frozen=True, eq=False)
class Reading:
    """A call, its operands and results with the indices of their dimensions.

    Attributes:
        bound: arguments by schema name, tensors as fake tensors.
        marks: of the inputs' indices; results see carried ones at their own position only.
        extents: sizes of the indices that don't vary.
    """

    node: Node
    op: torch._ops.OpOverload
    info: OpInfo
    bound: dict[str, object]
    inputs: tuple[Side, ...]
    outputs: tuple[Side, ...]
    marks: Mapping[str, Mark] = field(default_factory=dict)
    extents: Mapping[str, int] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    """Indices that are also part of a dimension whose size varies: the dimension can't follow a cut along them."""
    is_known: bool = True
    """Whether the table has an index map for it."""

    def carried(self, names: Names) -> Names:
        """The indices among `names` at whose positions inputs and outputs depend on each other alone."""
        return tuple(n for n in names if self.marks.get(n, Mark.CARRIED) is Mark.CARRIED)

    def onto(self, vector: np.ndarray, names: Names, onto: Names, reduce: Reduce) -> np.ndarray:
        """`spread` along carried indices; what is mixed counts as another index."""
        hidden = {n: f"{n} " for n in names if n not in self.carried(names)}
        extents = {**self.extents, **{h: self.extents[n] for n, h in hidden.items()}}
        return spread(vector, tuple(hidden.get(n, n) for n in names), onto, extents, reduce)

    def skips_zeros(self, index: str) -> bool:
        """Whether a contracted index may lose the positions at which one operand is zero."""
        skipped = self.info.skips_zeros
        if isinstance(skipped, tuple):
            return index in skipped
        holders = sum(any(index in d for d in s.dims) for s in self.inputs)
        return skipped or (self.info.role is QuantRole.CONTRACTION and holders > 1)

    def makes(self, side: Side, dim: int) -> bool:
        """Whether a dimension of an operand makes positions of a result; of units the first one that has them does."""
        names, units = side.dims[dim], self.info.units
        if units in names:
            return dim == next(i for i, d in enumerate(side.dims) if units in d)
        return bool(names) and not set(names) & self.contracted

    @cached_property
    def moved(self) -> dict[int, tuple[np.ndarray, ...]]:
        """Where the elements of a move come from: by dimension, for each result.

        Positions count through the operands one after another, -1 for what comes from none. A result that has
        lost the dimension has one position.
        """
        literals = [v for v in self.bound.values() if not isinstance(v, torch.Tensor)]
        if not self.info.moves or any(isinstance(v, torch.SymInt) for v in pytree.tree_leaves(literals)):
            return {}
        named = [self.bound[k] for k in self.info.dims if k in self.bound]
        dims = [d for d in pytree.tree_leaves(named) if isinstance(d, int)]
        tracked = [d for d in dims if all(d < len(s.axes) and s.axes[d] is not None for s in self.inputs)]
        return {d: self._probe(d) for d in tracked}

    def _probe(self, dim: int) -> tuple[np.ndarray, ...]:
        """Runs the op on numbered positions along one dimension, of size one along the others."""
        bound, start = dict(self.bound), 1
        twins: list[torch.Tensor] = []
        for side in self.inputs:
            axis = side.axes[dim]
            assert axis is not None
            shape = [axis.size if d == dim else 1 for d in range(len(side.axes))]
            twins.append(torch.arange(start, start + axis.size).reshape(shape))
            start += axis.size
        for name in {s.name for s in self.inputs}:
            own = [t for t, s in zip(twins, self.inputs, strict=True) if s.name == name]
            bound[name] = own if isinstance(bound[name], (list, tuple)) else own[0]
        results = run_bound(self.op, bound)
        values = [v for v in pytree.tree_leaves(results) if isinstance(v, torch.Tensor)]
        return tuple(v.reshape(-1).numpy() - 1 for v in values)

    def rebound(self, values: Mapping[Side, object]) -> dict[str, object]:
        """The arguments by schema name with other values of some operands, those in a list in their places."""
        bound = dict(self.bound)
        for name in {s.name for s in values}:
            own = iter([s for s in self.inputs if s.name == name])
            old = bound[name]
            given = old if isinstance(old, (list, tuple)) else [old]
            new = [values.get(next(own), v) if isinstance(v, torch.Tensor) else v for v in given]
            bound[name] = new if isinstance(old, (list, tuple)) else new[0]
        return bound

    def indices_of(self, name: str) -> set[str]:
        """The indices that an optional tensor has, whether the call is given one or not; none of what is no such."""
        index_map = call_index_map(self.op, self.bound)
        names = [k.name for k in argument_kinds(self.op) if k.base == "Tensor"]
        return {
            i.name
            for own, operand in zip(names, index_map.inputs if index_map else (), strict=False)
            for i in operand.indices()
            if own == name
        }

    @property
    def contracted(self) -> set[str]:
        """Indices that no result has."""
        kept = {n for s in self.outputs for d in s.dims for n in d}
        return {n for s in self.inputs for d in s.dims for n in d} - kept


def run_bound(op: torch._ops.OpOverload, bound: Mapping[str, object]) -> object:
    """The value of a call, given its arguments by schema name."""
    kinds = argument_kinds(op)
    with torch.no_grad():
        return op(
            *(bound[k.name] for k in kinds if not k.keyword_only),
            **{k.name: bound[k.name] for k in kinds if k.keyword_only},
        )


def tensor_operands(node: Node) -> list[tuple[str, Node]]:
    """The tensor arguments of a call in schema order, those in lists one by one."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    bound = bind(node)
    found: list[tuple[str, Node]] = []
    for kind in argument_kinds(target):
        value = bound.get(kind.name)
        elements = value if isinstance(value, (list, tuple)) else [value]
        tensors = (e for e in elements if isinstance(e, Node) and isinstance(e.meta["val"], torch.Tensor))
        found += [(kind.name, tensor) for tensor in tensors]
    return found


def read_call(node: Node, space: Space) -> Reading | None:
    """A call of an op read through its index map; None for functions on sizes and parts of results."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload):
        return None
    info, bound, operands = op_info(op), bind_values(node), tensor_operands(node)
    index_map = call_index_map(op, bound)
    inputs = [(name, n, space.axes(n)) for name, n in operands]
    outputs = [axes for axes in space.parts(node) if axes]
    if index_map is None:
        return Reading(
            node,
            op,
            info,
            bound,
            tuple(Side(name, n, axes, _unknown(axes)) for name, n, axes in inputs),
            tuple(Side("", node, axes, _unknown(axes)) for axes in outputs),
            is_known=False,
        )
    brackets = [o for _, o, _ in align_inputs(op, index_map, bound)]
    results = align_outputs(index_map, node.meta["val"])
    used = IndexMap(tuple(brackets), tuple(o for o, _ in results))
    shapes = [n.meta["val"].shape for _, n in operands], [t.shape for _, t in results]
    extents = {k: v for k, v in used.extents(*shapes).items() if isinstance(v, int)}
    marks = {
        i.name: i.mark
        for o, shape in zip(brackets, shapes[0], strict=True)
        for d in o.expanded(len(shape))
        for i in d.indices
        if i.mark is not Mark.CARRIED and i.name != info.units  # which units reach which, their weight says
    }
    return Reading(
        node,
        op,
        info,
        bound,
        tuple(
            Side(name, n, axes, _dims(o, shape, extents), _all_indices(o, shape))
            for (name, n, axes), o, shape in zip(inputs, brackets, shapes[0], strict=True)
        ),
        tuple(
            Side("", node, axes, _dims(o, shape, extents), _all_indices(o, shape))
            for axes, (o, _), shape in zip(outputs, results, shapes[1], strict=True)
        ),
        marks,
        extents,
        _hidden([*brackets, *(o for o, _ in results)], [*shapes[0], *shapes[1]], extents),
    )


def _unknown(axes: Sequence[Axis | None]) -> tuple[Names, ...]:
    return ((),) * len(axes)


def _hidden(
    brackets: Sequence[Operand], shapes: Sequence[Sequence[object]], extents: Mapping[str, int]
) -> frozenset[str]:
    dims = [
        (d, size)
        for o, shape in zip(brackets, shapes, strict=True)
        for d, size in zip(o.expanded(len(shape)), shape, strict=True)
    ]
    return frozenset(
        i.name for d, size in dims if len(d.indices) > 1 and not _names(d, size, extents) for i in d.indices
    )


def _all_indices(operand: Operand, shape: Sequence[object]) -> frozenset[str]:
    return frozenset(i.name for d in operand.expanded(len(shape)) for i in d.indices)


def _dims(operand: Operand, shape: Sequence[object], extents: Mapping[str, int]) -> tuple[Names, ...]:
    return tuple(
        _names(d, size, extents) for d, size in zip(operand.expanded(len(shape)), shape, strict=True)
    )


def _names(dim: Dimension, size: object, extents: Mapping[str, int]) -> Names:
    """A dimension's indices, those of size one left out; none of a size that varies, or that broadcasts."""
    names = [i.name for i in dim.indices if extents.get(i.name) != 1]
    known = [extents.get(n) for n in names]
    if not isinstance(size, int) or None in known or int(np.prod([k for k in known if k])) != size:
        return ()
    return tuple(names)
