"""Computes each dynamic size once, from the inputs and in as few calls as it takes."""

from collections.abc import Callable
from typing import ClassVar

import sympy
import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.ops import is_pure
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import NoSize, Rewriter, read_symbol, size_node

__all__ = ["SimplifySymbolicArithmetic"]

_SIZE = torch.ops.aten.sym_size.int


@register_pass
class SimplifySymbolicArithmetic(Pass):
    """Computes each dynamic size once, in as few calls as its expression over the inputs' sizes takes.

    Before: `%a = relu(%x)`, `%s = sym_size(%a, 0)`, `%t = mul(%s, 4)`, `%u = add(%t, 4)`, `%n = floordiv(%u, 4)`,
    `%y = expand(%w, [%n, 8])`. After: `%s = sym_size(%x, 0)`, `%n = add(%s, 1)`, `%y = expand(%w, [%n, 8])`.

    A size is an expression over the dynamic dimensions. Of two of one expression one is computed; one that an input
    has is read from it, so that what it was read from may be dead; one that is a number whatever the dimensions are
    (`s - s`) is that number. Expressions are equal only if they are for all sizes: what happens to be equal at the
    traced one is not looked at.

    A size stays if no input has a dimension that it depends on (as many rows as a mask has ones), or if it is computed
    in as few calls; numbers that a program returns stay calls.
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x.new_zeros((x.shape[0] * 4 + 4) // 4) + x.shape[0] * 2 // 2,
        lambda x: x.relu().expand(x.relu().shape[0] + 2, *x.shape) * (x.shape[0] + 2),
    )

    def run(self, rewriter: Rewriter) -> None:
        """Until nothing changes: what a shorter computation has left behind may be the last user of another."""
        while _sweep(rewriter):
            pass


def _sweep(rewriter: Rewriter) -> bool:
    """Once in graph order, so that what is known stands before what is computed from it; whether anything changed."""
    done = len(rewriter.journal.rewrites)
    inputs = rewriter.program.placeholders()
    known: dict[sympy.Expr, Node] = {}

    def find(expression: sympy.Expr) -> Node | None:
        node = known.get(expression)
        return None if node is None or node._erased else node

    for node in rewriter.nodes():
        if node._erased or not isinstance(node.meta["val"], torch.SymInt) or not is_pure(node):
            continue
        expression = node.meta["val"].node.expr
        if expression.is_Integer:
            _state(rewriter, node, int(expression))
        elif (equal := find(expression)) is not None:
            with rewriter.rewrite("equal-size", node):
                rewriter.replace(node, equal)
        else:
            known[expression] = _shortest(rewriter, node, inputs, find)
    return len(rewriter.journal.rewrites) > done


def _state(rewriter: Rewriter, node: Node, number: int) -> None:
    """Calls that are given a size that is always one number are given that."""
    for user in list(node.users):
        if isinstance(user.target, torch._ops.OpOverload) and is_pure(user):
            args, kwargs = map_arg((user.args, dict(user.kwargs)), lambda n: number if n is node else n)
            with rewriter.rewrite("state-number", user):
                rewriter.replace(user, rewriter.call(user.target, *args, **kwargs))


def _shortest(
    rewriter: Rewriter, node: Node, inputs: list[Node], known: Callable[[sympy.Expr], Node | None]
) -> Node:
    """A size read from an input, or computed from what is known, where that takes fewer calls than go for it."""
    expression = node.meta["val"].node.expr
    read = read_symbol(expression, inputs)
    if read is not None and node.target is _SIZE and node.args == read:
        return node
    needed: list[tuple[object, ...]] = []

    def counted(*call: object) -> Node:
        needed.append(call)
        return node

    try:
        size_node(counted, expression, inputs, known)
    except NoSize as error:
        rewriter.refuse(node, str(error), rule="shorter-size")
        return node
    if read is None and len(needed) >= _calls_for(
        node, kept={a for call in needed for a in call if a is not node}
    ):
        return node
    with rewriter.rewrite("shorter-size" if read is None else "read-size-from-input", node):
        made = size_node(rewriter.call, expression, inputs, known)
        assert isinstance(made, Node)
        rewriter.replace(node, made)
    return made


def _calls_for(node: Node, kept: set[object]) -> int:
    """How many calls on sizes are there for this one only, itself among them, without those that are kept."""
    own, todo = {node}, [node]
    while todo:
        for operand in todo.pop().all_input_nodes:
            size = operand.op == "call_function" and isinstance(operand.meta["val"], torch.SymInt)
            if size and operand not in kept and all(user in own for user in operand.users):
                own.add(operand)
                todo.append(operand)
    return len(own)
