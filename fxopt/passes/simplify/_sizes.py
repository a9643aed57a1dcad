"""Sizes of a program read from its inputs, each computed once."""

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from fxopt.ops import is_pure
from fxopt.ops.sizes import shape_of
from fxopt.rewriting import Rewriter

if TYPE_CHECKING:
    import sympy

__all__ = ["read_sizes_from_inputs"]

_SIZE = torch.ops.aten.sym_size.int


def read_sizes_from_inputs(rewriter: Rewriter) -> None:
    """Replaces equal size computations by one; a size that an input has is read from the input.

    What a size was read from may then be dead, and the arithmetic is. Two sizes are equal if they are the
    same expression over the dynamic dimensions, hence for all their values.
    """
    inputs = _input_sizes(rewriter)
    known: dict[sympy.Expr, Node] = {}
    for node in rewriter.nodes():
        value = node.meta["val"]
        if node._erased or not isinstance(value, torch.SymInt) or not is_pure(node):
            continue
        expression = value.node.expr
        if expression not in known and (expression not in inputs or _reads(node, *inputs[expression])):
            known[expression] = node
            continue
        with rewriter.rewrite("read-size-from-input", node):
            if expression not in known:
                known[expression] = rewriter.call(_SIZE, *inputs[expression])
            rewriter.replace(node, known[expression])


def _input_sizes(rewriter: Rewriter) -> "dict[sympy.Expr, tuple[Node, int]]":
    """The first input and axis of each dynamic size."""
    found: dict[sympy.Expr, tuple[Node, int]] = {}
    for node in rewriter.program.placeholders():
        for axis, size in enumerate(shape_of(node)):
            if isinstance(size, torch.SymInt):
                found.setdefault(size.node.expr, (node, axis))
    return found


def _reads(node: Node, source: Node, axis: int) -> bool:
    return node.target is _SIZE and node.args == (source, axis)
