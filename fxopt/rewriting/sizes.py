"""Symbolic sizes as nodes: an expression over symbols becomes `sym_size` reads and integer arithmetic."""

import operator
from collections.abc import Callable, Iterable, Sequence

import sympy
import torch
from torch.fx import Node
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

__all__ = ["Call", "NoSize", "read_symbol", "size_node"]

Call = Callable[..., Node]


class NoSize(Exception):
    """A size can't be computed from the sizes at hand."""


def read_symbol(symbol: sympy.Expr, sources: Iterable[Node]) -> tuple[Node, int] | None:
    """A tensor node and the axis whose size is exactly this expression."""
    for source in sources:
        value = source.meta.get("val")
        if isinstance(value, torch.Tensor):
            sizes: Sequence[object] = value.shape
            for axis, size in enumerate(sizes):
                if isinstance(size, torch.SymInt) and size.node.expr == symbol:
                    return source, axis
    return None


def size_node(
    call: Call,
    expression: sympy.Expr,
    sources: list[Node],
    known: Callable[[sympy.Expr], Node | None] = lambda _: None,
) -> Node | int:
    """A node (or number) of a size expression.

    Args:
        call: makes a call, as `Rewriter.call` does.
        expression: over the fake mode's symbols.
        sources: tensor nodes whose sizes may be read.
        known: the node of an expression that is there already, if one is.

    Raises:
        NoSize: a symbol is no size of any source, or the expression has another function.
    """
    if expression.is_Integer:
        return int(expression)
    there = known(expression)
    if there is not None:
        return there
    found = read_symbol(expression, sources)
    if found is not None:
        return call(torch.ops.aten.sym_size.int, *found)

    def node(e: sympy.Expr) -> Node | int:
        return size_node(call, e, sources, known)

    if isinstance(expression, sympy.Add):
        return _chain(call, operator.add, [node(e) for e in expression.args])
    if isinstance(expression, sympy.Mul):
        return _chain(call, operator.mul, [node(e) for e in expression.args])
    if isinstance(expression, FloorDiv):
        return call(operator.floordiv, node(expression.args[0]), node(expression.args[1]))
    if isinstance(expression, (Mod, PythonMod)):
        return call(operator.mod, node(expression.args[0]), node(expression.args[1]))
    if isinstance(expression, (Max, Min)):
        return _chain(
            call,
            torch.sym_max if isinstance(expression, Max) else torch.sym_min,
            [node(e) for e in expression.args],
        )
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and int(expression.exp) > 0:
        return _chain(call, operator.mul, [node(expression.base)] * int(expression.exp))
    raise NoSize(f"the size {expression} can't be computed from the sizes at hand")


def _chain(call: Call, op: Callable[[object, object], object], terms: list[Node | int]) -> Node | int:
    total = terms[0]
    for term in terms[1:]:
        if isinstance(total, int) and isinstance(term, int):
            folded = op(total, term)
            assert isinstance(folded, int)
            total = folded
        else:
            total = call(op, total, term)
    return total
