"""Merges reshapes, permutations and expansions, and infers of their sizes what can be."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._moves import (
    Sizes,
    given_sizes,
    is_op,
    is_reshape,
    keeps_rank,
    operand,
    permutation,
    stated_shape,
)
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import infer_value
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyReshapes"]

aten = torch.ops.aten

_MOVES = ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "expand", "slice")


@register_pass
class SimplifyReshapes(Pass):
    """Merges chains of reshapes, permutations and expansions into one call or none.

    Before: `%a = reshape(%x, [2, 12])`, `%b = unsqueeze(%a, 0)`, `%c = permute(%b, [1, 2, 0])`,
    `%d = permute(%c, [2, 0, 1])`. After: `%d = reshape(%x, [1, 2, 12])`.

    Reshape, flatten, unflatten, squeeze, unsqueeze and a permutation that only moves axes of size 1 keep the
    order of the elements: a chain of them is one reshape, or nothing where it comes back to a shape it had.
    A reshape with one dynamic size says -1 instead, an expand where the size stays, and the arithmetic goes.

    A chain stays where another call needs its inner value, where several dynamic sizes can't be stated, and
    where a squeeze names a dynamic axis, which at size 1 it removes.
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x.reshape(-1, 2, 8).reshape(-1, 4, 4).flatten(1),
        lambda x: x.unsqueeze(0).unsqueeze(1).squeeze(0).squeeze(0) + x.unsqueeze(1).flatten(0, 1),
        lambda x: x.permute(1, 0).permute(1, 0).unsqueeze(1).permute(1, 0, 2),
        lambda x: x.expand(3, -1, -1).expand(2, -1, -1, -1).expand(5, -1, -1, -1, -1),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order, so that a call finds its operand merged; what moves nothing first: it would hold up a chain."""
        for node in rewriter.nodes():
            if is_op(node, *_MOVES) and not is_reshape(node):
                _drop(rewriter, node)
        for node in rewriter.nodes():
            if node._erased or not is_op(node, *_MOVES) or _drop(rewriter, node):
                continue
            if is_reshape(node):
                _merge_reshapes(rewriter, node)
            elif is_op(node, "permute"):
                _merge_permutes(rewriter, node)
            elif is_op(node, "expand"):
                _merge_expands(rewriter, node)


def _drop(rewriter: Rewriter, node: Node) -> bool:
    """Whether a move gave back a value that is there, which its users read now."""
    source = _equal_source(rewriter, node)
    if source is not None:
        with rewriter.rewrite("drop-move", node):
            rewriter.replace(node, source)
    return source is not None


def _equal_source(rewriter: Rewriter, node: Node) -> Node | None:
    """The value that a move gives back: its operand, or where a chain of moves began."""
    if is_op(node, "permute") and not is_reshape(node):
        x, order = _permuted(node)
        return x if order == sorted(order) else None
    if not keeps_rank(node):
        return None
    sources = _chain(node) if is_reshape(node) else [operand(node)]
    same = [s for s in sources if keeps_rank(s) and rewriter.same_type(s.meta["val"], node.meta["val"])]
    return same[-1] if same else None


def _chain(node: Node) -> list[Node]:
    """What a reshape reshapes, and what that reshapes if it is one, up to what is none."""
    chain = [operand(node)]
    while is_reshape(chain[-1]):
        chain.append(operand(chain[-1]))
    return chain


def _merge_reshapes(rewriter: Rewriter, node: Node) -> None:
    """One reshape of where the chain began, or the same reshape by a number instead of dynamic sizes."""
    if not keeps_rank(node):
        return
    inner, sizes = operand(node), stated_shape(node)
    if is_reshape(inner):
        other = next((u for u in inner.users if not (is_reshape(u) and keeps_rank(u))), None)
        if other is not None:
            rewriter.refuse(node, f"{inner.name} has another user, {other.name}", rule="merge-reshapes")
        elif sizes is None:
            rewriter.refuse(node, "several sizes are dynamic, none stated", rule="merge-reshapes")
        else:
            _replace(rewriter, node, "merge-reshapes", aten.reshape.default, _chain(node)[-1], sizes)
    elif sizes is not None and is_op(node, "reshape") and _fewer(sizes, given_sizes(node, "shape")):
        _replace(rewriter, node, "infer-size", aten.reshape.default, inner, sizes)


def _fewer(stated: Sizes, given: Sizes) -> bool:
    """Whether fewer sizes are computed."""
    return sum(isinstance(s, Node) for s in stated) < sum(isinstance(s, Node) for s in given)


def _permuted(node: Node) -> tuple[Node, list[int]]:
    """What a chain of permutations permutes, and how."""
    x, order = operand(node), permutation(node)
    while is_op(x, "permute"):
        first = permutation(x)
        x, order = operand(x), [first[d] for d in order]
    return x, order


def _merge_permutes(rewriter: Rewriter, node: Node) -> None:
    x, order = _permuted(node)
    if x is not operand(node):
        _replace(rewriter, node, "merge-permutes", aten.permute.default, x, order)


def _merge_expands(rewriter: Rewriter, node: Node) -> None:
    """One expand of where the chain began; -1 where a size stays."""
    x, sizes = operand(node), given_sizes(node, "size")
    while is_op(x, "expand"):
        inner = given_sizes(x, "size")
        pad = len(sizes) - len(inner)
        outer = zip(inner, sizes[pad:], strict=True)
        sizes = sizes[:pad] + [i if o == -1 else o for i, o in outer]
        x = operand(x)
    stated = _stated_expansion(x, node, sizes)
    if x is not operand(node):
        _replace(rewriter, node, "merge-expands", aten.expand.default, x, stated)
    elif _fewer(stated, sizes):
        _replace(rewriter, node, "infer-size", aten.expand.default, x, stated)


def _stated_expansion(x: Node, node: Node, given: Sizes) -> Sizes:
    old, new = shape_of(x), shape_of(node)
    pad = len(new) - len(old)
    stated: Sizes = []
    for axis, size in enumerate(new):
        if axis >= pad and same_size(old[axis - pad], size):
            stated.append(-1)
        else:
            stated.append(size if isinstance(size, int) else given[axis])
    return stated


def _replace(
    rewriter: Rewriter, node: Node, rule: str, op: torch._ops.OpOverload, x: Node, sizes: Sequence[int | Node]
) -> None:
    """Replaces a move by another of the same result."""
    args = (x, list(sizes))
    if not rewriter.same_type(infer_value(rewriter.program, op, args), node.meta["val"]):
        rewriter.refuse(
            node, "the merged call's shape is not known to be the same for all dynamic sizes", rule=rule
        )
        return
    with rewriter.rewrite(rule, node):
        rewriter.replace(node, rewriter.call(op, *args))
