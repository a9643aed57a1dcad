"""Moves a permutation down to the one, or the reduction, that takes it away."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.ops import bind, op_info
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._moves import is_reshape, operand, permutation
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["SinkTransposes"]

_REDUCTIONS = ("sum", "mean", "amax", "amin")


def _scaled(x: torch.Tensor, w: Const) -> torch.Tensor:
    return (x.permute(1, 0).relu() * w).permute(1, 0)


@register_pass
class SinkTransposes(Pass):
    """permute(relu(permute(x)))  ->  relu(x), mean(permute(x, [0, 2, 3, 1]), [1, 2])  ->  mean(x, [2, 3]).

    Before: `%a = permute(%x, [0, 2, 3, 1])`, `%b = relu(%a)`, `%c = mul(%b, w)`, `%d = permute(%c, [0, 3, 1, 2])`.
    After: `%b = relu(%x)`, `%c = mul(%b, w')` with `w'` the weight `[C]` as `[C, 1, 1]`.

    Between the two stand calls that treat all elements alike, of one tensor, numbers and weights, or of several
    tensors that are permuted alike. Two permutations become one or none, one before a reduction none.

    It does not fire if a value between has another user, if the other operand is no weight and is not permuted
    alike, if sizes broadcast, or if the axes that a reduction leaves are out of order.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _scaled,
        lambda x: (x.permute(1, 0) * 2 + 1).sigmoid().permute(1, 0),
        lambda x, y: (x.permute(1, 0) - y.permute(1, 0)).sum(0),
    )

    def run(self, rewriter: Rewriter) -> None:
        """From each permutation and reduction up, as far as calls are elementwise; in graph order."""
        for node in rewriter.nodes():
            name = aten_name(node)
            if name == "permute" and not is_reshape(node):
                _cancel(rewriter, node, permutation(node))
            elif name in _REDUCTIONS:
                reduced: Node | None = node
                while reduced is not None:
                    reduced = _reduce(rewriter, reduced)


def _cancel(rewriter: Rewriter, node: Node, last: list[int]) -> None:
    """Two permutations around elementwise calls are one after them."""
    region = _region(rewriter, operand(node))
    if region is None:
        return
    calls, first = region
    with rewriter.rewrite("cancel-transposes", node):
        result = _unpermuted(rewriter, calls, first)
        order = [first[d] for d in last]
        rewriter.replace(
            node, result if order == sorted(order) else rewriter.call("aten.permute", result, order)
        )


def _reduce(rewriter: Rewriter, node: Node) -> Node | None:
    """A reduction of what is permuted is one over the axes where they were, if those that are left stay in order.

    Returns it; None if nothing was done.
    """
    given, x = bind(node), operand(node)
    dims = given.get("dim")
    if not isinstance(dims, (list, tuple)) or not dims or given["keepdim"] or given.get("dtype") is not None:
        return None
    found = (
        (list[Node](), permutation(x))
        if aten_name(x) == "permute" and not is_reshape(x)
        else _region(rewriter, x)
    )
    if found is None:
        return None
    calls, order = found
    left = [order[d] for d in range(len(order)) if d not in dims]
    if left != sorted(left):
        return None
    with rewriter.rewrite("reduce-before-transpose", node):
        source = _unpermuted(rewriter, calls, order) if calls else operand(x)
        axes = [order[d] for d in dims if isinstance(d, int)]
        made = rewriter.call(node.target, source, axes, False)
        rewriter.replace(node, made)
    return made


def _region(rewriter: Rewriter, last: Node) -> tuple[list[Node], list[int]] | None:
    """Elementwise calls from `last` up to permutations of one order, in order, and that order; None if there are none."""
    calls: dict[Node, None] = {}
    todo, order = [last], list[int]()
    while todo:
        node = todo.pop()
        if node in calls:
            continue
        if aten_name(node) == "permute":
            if order and order != permutation(node):
                return None
            order = permutation(node)
        elif not _moves_along(rewriter, node) or not _is_read_within(node, last, calls):
            return None
        else:
            calls[node] = None
            todo += [n for n in node.all_input_nodes if rewriter.value(n) is None]
    if not order or not calls:
        return None
    return list(reversed(calls)), order


def _is_read_within(node: Node, last: Node, calls: dict[Node, None]) -> bool:
    """Whether only the region reads a value, the last one's reader aside."""
    return len(node.users) == 1 if node is last else all(user in calls for user in node.users)


def _moves_along(rewriter: Rewriter, node: Node) -> bool:
    """Whether a call of permuted operands is the permuted call: each tensor has the result's shape, or is a weight."""
    own = shape_of(node)
    if not op_info(node.target).elementwise or not node.all_input_nodes:
        return False
    for operand_node in node.all_input_nodes:
        if rewriter.value(operand_node) is not None:
            continue
        if not isinstance(operand_node.meta["val"], torch.Tensor):
            return False
        shape = shape_of(operand_node)
        if len(shape) != len(own) or not all(map(same_size, shape, own)):
            return False
    return True


def _unpermuted(rewriter: Rewriter, calls: list[Node], order: list[int]) -> Node:
    """The calls on what was permuted; the last one's result."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    made: dict[Node, Node] = {}

    def moved(node: Node) -> Node:
        if node in made:
            return made[node]
        if aten_name(node) == "permute" and node not in calls:
            return operand(node)
        rank = len(shape_of(node))
        if rank == 0:
            return node
        lined = rewriter.call("aten.reshape", node, [1] * (len(order) - rank) + list(shape_of(node)))
        return rewriter.call("aten.permute", lined, inverse)

    for node in calls:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), moved)
        made[node] = rewriter.call(node.target, *args, **kwargs)
    return made[calls[-1]]
