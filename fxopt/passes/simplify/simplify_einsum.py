"""Makes a matrix product of a contraction that is written as einsum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import Operand, align_inputs, bind_values, call_index_map
from fxopt.ops.sizes import Size, same_size, shape_of
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyEinsum"]

aten = torch.ops.aten
_RULE = "simplify-einsum"


@register_pass
class SimplifyEinsum(Pass):
    """einsum("bihd,bjhd->bhij", q, k)  ->  matmul(permute(q), permute(k)), and of tensordot.

    Before: `%y = einsum('btd,dhk->bhtk', [%x, w])`. After: `%a = flatten(w, 1)`, `%b = matmul(%x, %a)`,
    `%c = unflatten(%b, 2, [4, 16])`, `%y = permute(%c, [0, 2, 1, 3])`.

    Two operands; axes that both and the result have become batch axes, those that only one has rows and columns.
    Several rows, columns or contracted axes are flattened into one, but rows where there is no batch.

    It does not fire if an axis is summed of one operand alone, or stands twice in one, if nothing is contracted or
    nothing is left of an operand (other ops do that), if sizes broadcast, if the dtypes differ, or if axes of a
    dynamic size would have to be split again.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x, y: torch.einsum("ij,kj->ik", x, y),
        lambda x, y: torch.einsum("bij,bjk->kbi", x.reshape(-1, 2, 2), y.reshape(-1, 2, 2)),
        lambda x, y: torch.einsum("ij,ij->i", x, y),
        lambda x, y: torch.einsum("ij,jk->i", x, y),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            if aten_name(node) not in ("einsum", "tensordot"):
                continue
            found = _contraction(node)
            if not isinstance(found, str) and found.objection() and not found.swapped().objection():
                found = found.swapped()
            why = found if isinstance(found, str) else found.objection()
            if isinstance(found, str) or why:
                rewriter.refuse(node, why, rule=_RULE)
                continue
            with rewriter.rewrite(_RULE, node):
                rewriter.replace(node, found.product(rewriter))


@dataclass(frozen=True)
class _Side:
    """An operand and the names of its axes."""

    node: Node
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Contraction:
    """Two operands whose product has the rows of the left before the columns of the right."""

    left: _Side
    right: _Side
    result: tuple[str, ...]
    sizes: Mapping[str, Size]

    @property
    def batch(self) -> list[str]:
        return [n for n in self.result if n in self.left.names and n in self.right.names]

    @property
    def contracted(self) -> list[str]:
        return [n for n in self.left.names if n not in self.result]

    @property
    def rows(self) -> list[str]:
        return [n for n in self.result if n not in self.right.names]

    @property
    def columns(self) -> list[str]:
        return [n for n in self.result if n not in self.left.names]

    def prefers_swapped(self) -> bool:
        """Whether the left is a weight, whose columns a linear layer takes, else whether the right's axes come first."""
        weights = [side.node.op == "get_attr" for side in (self.left, self.right)]
        if weights[0] != weights[1] and not self.batch:
            return weights[0]
        return next((n in self.right.names for n in self.result if n not in self.batch), False)

    def swapped(self) -> "_Contraction":
        """The same with the right on the left."""
        return replace(self, left=self.right, right=self.left)

    def objection(self) -> str:
        """Why it is no matrix product; empty if it is one."""
        if {*self.contracted} != {n for n in self.right.names if n not in self.result}:
            return "it sums over an axis of one operand"
        if not self.contracted:
            return "it contracts no axis"
        if not self.rows or not self.columns:
            return "an operand has no axis of its own"
        split = self.columns if len(self.columns) > 1 else []
        split = [*split, *self.rows] if self.batch and len(self.rows) > 1 else split
        if not all(isinstance(self.sizes[n], int) for n in split):
            return "an axis of a dynamic size would be split again"
        return ""

    def product(self, rewriter: Rewriter) -> Node:
        """The calls, inside a rewrite."""
        first, last = len(self.batch), len(self.batch) + len(self.rows)
        left = _ordered(rewriter, self.left, [*self.batch, *self.rows, *self.contracted])
        left = _flat(rewriter, left, last, len(self.contracted))
        right = _ordered(rewriter, self.right, [*self.batch, *self.contracted, *self.columns])
        right = _flat(rewriter, right, first + len(self.contracted), len(self.columns))
        right = _flat(rewriter, right, first, len(self.contracted))
        if self.batch:
            left = _flat(rewriter, left, first, len(self.rows))
        made = rewriter.call(aten.matmul.default, left, right)
        made = self._split(rewriter, made, len(made.meta["val"].shape) - 1, self.columns)
        if self.batch:
            made = self._split(rewriter, made, first, self.rows)
        return _ordered(rewriter, _Side(made, (*self.batch, *self.rows, *self.columns)), self.result)

    def _split(self, rewriter: Rewriter, node: Node, axis: int, names: list[str]) -> Node:
        """One axis as the several that were flattened into it."""
        if len(names) == 1:
            return node
        return rewriter.call(aten.unflatten.int, node, axis, [self.sizes[n] for n in names])


def _contraction(node: Node) -> _Contraction | str:
    """What a call contracts, or why that is not known."""
    bound, target = bind_values(node), node.target
    assert isinstance(target, torch._ops.OpOverload)
    index_map = call_index_map(target, bound)
    if index_map is None or len(index_map.inputs) != 2:
        return "it is no product of two operands"
    values = [tensor for _, _, tensor in align_inputs(target, index_map, bound)]
    if len({v.dtype for v in values}) > 1:
        return "its operands are of two dtypes"
    shapes = [*map(shape_of, values), shape_of(node)]
    brackets = [*index_map.inputs, *index_map.outputs]
    names = [_names(o, len(s)) for o, s in zip(brackets, shapes, strict=True)]
    sizes: dict[str, Size] = {}
    for name, size in (pair for n, s in zip(names, shapes, strict=True) for pair in zip(n, s, strict=True)):
        if not same_size(sizes.setdefault(name, size), size):
            return f"its operands broadcast: {sizes[name]} and {size} are one axis"
    left, right = (_Side(n, a) for n, a in zip(_operands(node), names, strict=False))
    found = _Contraction(left, right, names[2], sizes)
    return found.swapped() if found.prefers_swapped() else found


def _names(operand: Operand, rank: int) -> tuple[str, ...]:
    return tuple(d.indices[0].name for d in operand.expanded(rank))


def _operands(node: Node) -> list[Node]:
    """The two tensors, one of them perhaps twice."""
    given = node.args[1] if aten_name(node) == "einsum" else node.args[:2]
    assert isinstance(given, (list, tuple))
    return [n for n in given if isinstance(n, Node)]


def _ordered(rewriter: Rewriter, side: _Side, names: Sequence[str]) -> Node:
    order = [side.names.index(n) for n in names]
    if order == sorted(order):
        return side.node
    return rewriter.call(aten.permute.default, side.node, order)


def _flat(rewriter: Rewriter, node: Node, start: int, count: int) -> Node:
    """Several axes as one."""
    if count == 1:
        return node
    return rewriter.call(aten.flatten.using_ints, node, start, start + count - 1)
