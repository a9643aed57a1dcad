"""What is known of calls that only move elements: which keep their order, how a shape can be stated."""

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name

__all__ = [
    "Sizes",
    "given_sizes",
    "is_op",
    "is_reshape",
    "keeps_rank",
    "operand",
    "permutation",
    "stated_shape",
]

Sizes = list[int | Node]
"""Sizes as a call's argument: numbers, -1 for one to be inferred, nodes that compute one."""

_RESHAPES = ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze")


def is_op(node: Node, *names: str) -> bool:
    """Whether a node is a call of one of these ops of `aten`, whatever the overload."""
    return aten_name(node) in names


def operand(node: Node) -> Node:
    """The tensor that a move moves."""
    found = node.args[0]
    assert isinstance(found, Node)
    return found


def is_reshape(node: Node) -> bool:
    """Whether a call keeps its operand's elements in order: a reshape, or a permutation of axes of size 1."""
    if is_op(node, *_RESHAPES):
        return bool(node.meta["val"].dtype == operand(node).meta["val"].dtype)  # view may reinterpret bits
    if not is_op(node, "permute"):
        return False
    shape = shape_of(operand(node))
    wide = [d for d in permutation(node) if not isinstance(shape[d], int) or shape[d] != 1]
    return wide == sorted(wide)


def permutation(node: Node) -> list[int]:
    """Which axis of the operand each axis of a permutation is."""
    dims = bind(node)["dims"]
    assert isinstance(dims, (list, tuple))
    return [int(d) for d in dims]


def keeps_rank(node: Node) -> bool:
    """False for a squeeze of a dynamic axis: in the trace it stays, at size 1 it goes."""
    if not is_op(node, "squeeze"):
        return True
    shape, dims = shape_of(operand(node)), bind(node).get("dim")
    axes = range(len(shape)) if dims is None else dims if isinstance(dims, (list, tuple)) else [dims]
    return not any(isinstance(shape[d], torch.SymInt) for d in axes if isinstance(d, int) and shape)


def given_sizes(node: Node, name: str) -> Sizes:
    """The sizes that a call is given."""
    sizes = bind(node)[name]
    assert isinstance(sizes, (list, tuple))
    return [s for s in sizes if isinstance(s, (int, Node))]


def stated_shape(node: Node) -> Sizes | None:
    """The shape of a call as the argument of a reshape: numbers, and -1 for the one dynamic size.

    Where several sizes are dynamic, or one beside a 0 (from which -1 can't be inferred): what the call itself
    says if it is a reshape, else None.
    """
    shape = shape_of(node)
    sizes: Sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) == 0 or (sizes.count(-1) == 1 and 0 not in sizes):
        return sizes
    return given_sizes(node, "shape") if is_op(node, "reshape") else None
