"""Whether masks leave each query a key to see, whatever the inputs are."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._names import aten_name
from fxopt.passes._uniform import uniform_number
from fxopt.passes.recompose._scores import Mask, is_low
from fxopt.rewriting import Rewriter

__all__ = ["leave_a_key", "leaves_a_key"]

_NOT = ("bitwise_not", "logical_not")


def leaves_a_key(rewriter: Rewriter, mask: Mask) -> bool:
    """Whether each query sees a key. Of what is added only a fill with -inf is doubted."""
    seen = _seen(rewriter, mask)
    if seen is not None:
        return bool(seen.any(-1).all())
    if mask.kind != "add":
        return _first_is(rewriter, mask.node, kept=mask.kind == "keep")
    return not _fills_with_low(rewriter, mask.node)


def leave_a_key(rewriter: Rewriter, masks: Sequence[Mask]) -> bool:
    """Whether each query sees a key of masks that leave it one each: they are known, or all leave it the first."""
    seen = [_seen(rewriter, m) for m in masks]
    hiding = [
        (m, s) for m, s in zip(masks, seen, strict=True) if m.kind != "add" or (s is not None and not s.all())
    ]
    known = [s for _, s in hiding if s is not None]
    if len(hiding) < 2 or (
        len(known) == len(hiding) and bool(reduce(torch.Tensor.logical_and, known).any(-1).all())
    ):
        return True
    first = [
        s[..., 0].all() if s is not None else _first_is(rewriter, m.node, kept=m.kind == "keep")
        for m, s in hiding
    ]
    return all(map(bool, first))


def _seen(rewriter: Rewriter, mask: Mask) -> torch.Tensor | None:
    """Where a mask that is a weight shows a key."""
    weight = rewriter.value(mask.node)
    if weight is None:
        return None
    return weight != -math.inf if mask.kind == "add" else weight if mask.kind == "keep" else ~weight


def _fills_with_low(rewriter: Rewriter, node: Node) -> bool:
    """Whether a value is made by `where` or `masked_fill` with -inf, and moved."""
    while aten_name(node) in ("reshape", "unsqueeze", "expand", "slice"):
        node = node.all_input_nodes[0]
    if aten_name(node) not in ("where", "masked_fill"):
        return False
    return any(is_low(rewriter, bind(node).get(name)) for name in ("self", "other", "value"))


def _first_is(rewriter: Rewriter, node: object, *, kept: bool) -> bool:
    """Whether the first column is not zero (`kept`) or zero, in each row: of a causal mask all see the first key."""
    if not isinstance(node, Node):
        return False
    weight = rewriter.value(node)
    if weight is not None:
        first = weight[..., :1] != 0
        return bool((first if kept else ~first).all())
    name, bound = aten_name(node), bind(node)
    operand = bound.get("self")
    if name in _NOT or (name == "eq" and bound["other"] == 0):
        return _first_is(rewriter, operand, kept=not kept)
    if name == "ne" and bound["other"] == 0:
        return _first_is(rewriter, operand, kept=kept)
    if name == "bitwise_and" and kept:
        return all(_first_is(rewriter, bound[n], kept=True) for n in ("self", "other"))
    if name in ("slice", "reshape", "unsqueeze"):
        return _keeps_first(node) and _first_is(rewriter, operand, kept=kept)
    diagonal = bound.get("diagonal")
    if name == "triu" and not kept:
        return isinstance(diagonal, int) and diagonal >= 1
    whole = name == "tril" and kept and isinstance(diagonal, int) and diagonal >= 0
    return whole and uniform_number(rewriter, operand, weights=True) not in (None, 0)


def _keeps_first(node: Node) -> bool:
    """Whether the first column of a moved value is that of its operand."""
    after, before = shape_of(node), shape_of(node.all_input_nodes[0])
    if aten_name(node) == "slice":
        bound = bind(node)
        return bound["dim"] != len(after) - 1 or bound["start"] in (0, None)
    return same_size(after[-1], before[-1])
