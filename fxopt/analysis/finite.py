"""Whether a value is finite whatever inputs a program gets, and integers and truth values among them.

A mask that is computed from token counts is, one that is an input may hold -inf. Overflow is not looked for, nor NaN:
what is normalised is finite, or NaN where its operand is not.
"""

import math

import torch
from torch.fx import Node

from fxopt.ops import bind, op_key
from fxopt.program import Program

__all__ = ["is_finite"]

_KEEP = frozenset(
    {
        *("reshape", "permute", "unsqueeze", "squeeze", "expand", "flatten", "repeat", "to"),
        *("slice", "select", "index", "embedding", "gather", "chunk", "split_with_sizes", "getitem"),
        *("neg", "add", "sub", "mul", "where", "masked_fill", "matmul", "bmm", "linear"),
    }
)
_BOUNDED: dict[str, tuple[str, ...]] = {
    "layer_norm": ("weight", "bias"),
    "softmax": (),
    "tanh": (),
    "sigmoid": (),
}
"""Ops whose results are finite or NaN if these operands are finite, whatever the others are."""
_MOST = 64


def is_finite(program: Program, value: object) -> bool:
    """Whether an argument, a number or a value of the program, is known to be finite."""
    todo, seen = [value], set()
    for item in todo:
        if isinstance(item, (int, float)) and not math.isfinite(item):
            return False
        if not isinstance(item, Node) or item in seen:
            continue
        seen.add(item)
        if len(seen) > _MOST or not _carries(program, item):
            return False
        if item.op == "call_function" and _is_float(item) and not _is_clamped(item):
            todo += _deciding(item)
    return True


def _deciding(node: Node) -> list[object]:
    """The operands that must be finite for a call's result to be."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return [*node.args]
    bound = bind(node)
    return [bound[n] for n in _BOUNDED.get(_name(node), tuple(bound))]


def _carries(program: Program, node: Node) -> bool:
    """Whether a value is finite if its operands are."""
    if not _is_float(node):
        return True
    if node.op == "get_attr":
        return bool(program.weights[str(node.target)].isfinite().all())
    if node.op != "call_function":
        return False
    if _name(node) == "div":
        return _is_never_zero(program, bind(node)["other"])
    return _name(node) in _KEEP or _name(node) in _BOUNDED or _is_clamped(node)


def _is_never_zero(program: Program, divisor: object) -> bool:
    if isinstance(divisor, Node):
        return divisor.op == "get_attr" and bool(program.weights[str(divisor.target)].all())
    return divisor != 0


def _name(node: Node) -> str:
    return op_key(node.target).split(".")[1]


def _is_float(node: Node) -> bool:
    """Whether a value, or one of several, is of floats."""
    value = node.meta["val"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(
        v.is_floating_point() if isinstance(v, torch.Tensor) else isinstance(v, torch.SymFloat)
        for v in values
    )


def _is_clamped(node: Node) -> bool:
    """Whether a call clamps on both sides by finite numbers."""
    bound = bind(node) if op_key(node.target).startswith("aten.clamp.") else {}
    return all(isinstance(b := bound.get(n), (int, float)) and math.isfinite(b) for n in ("min", "max"))
