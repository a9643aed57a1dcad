"""Merges equal calls."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import is_commutative, is_pure, op_info
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["EliminateCommonSubexpressions"]

_SWAPPABLE = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor})
"""Ops that give the same bits with their operands swapped (maximum does not, of zeros of both signs)."""


@register_pass
class EliminateCommonSubexpressions(Pass):
    """Computes equal calls once.

    Before: `%a = relu(%x)`, `%b = relu(%x)`, `%c = add(%a, %b)`. After: `%a = relu(%x)`, `%c = add(%a, %a)`.

    Equal means the same op, operands and literals with their types (`x * 1` and `x * 1.0` differ, `0.0` and
    `-0.0` too); sums and products may have their operands swapped.
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x, y: (x + y).relu() * (y + x).relu(),
        lambda x: x.softmax(0) + x.softmax(0),
    )

    def run(self, rewriter: Rewriter) -> None:
        """Value numbering in graph order."""
        first: dict[object, Node] = {}
        for node in rewriter.nodes():
            if not _mergeable(node):
                continue
            kept = first.setdefault((node.target, _operands(node), _key(node.kwargs)), node)
            # Sizes that depend on values (nonzero) are not known to be the same, although they are.
            if kept is not node and rewriter.same_type(kept.meta["val"], node.meta["val"]):
                with rewriter.rewrite("eliminate-common-subexpressions", node):
                    rewriter.replace(node, kept)


def _mergeable(node: Node) -> bool:
    """Pure, and an op whose purity is known: a user's op without an entry may count its calls."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        known = target.namespace in ("aten", "prims") or op_info(target).pure is True
        return known and is_pure(node)
    return is_pure(node)


def _operands(node: Node) -> object:
    """The key of the arguments; `a + b` and `b + a` have one."""
    keys = [_key(a) for a in node.args]
    if node.target in _SWAPPABLE and is_commutative(node):
        return frozenset(keys)
    return tuple(keys)


def _key(value: object) -> object:
    """A hashable key: nodes by identity, literals with their type and text."""
    if isinstance(value, Node):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((k, _key(v)) for k, v in sorted(value.items()))
    return (type(value), repr(value))
