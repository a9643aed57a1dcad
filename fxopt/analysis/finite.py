"""Whether a value is finite whatever finite inputs a program gets, and integers and truth values among them.

A mask that is computed from token counts is, one that is an input may hold -inf. Overflow is not looked for.
"""

import math

import torch
from torch.fx import Node

from fxopt.ops import bind, op_key
from fxopt.program import Program

__all__ = ["is_finite"]

_KEEP = frozenset(
    {"reshape", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "flatten", "index", "to"}
)
_KEEP |= {"neg", "add", "sub", "mul", "where", "masked_fill"}
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
            todo += [*bind(item).values()]
    return True


def _carries(program: Program, node: Node) -> bool:
    """Whether a value is finite if its operands are."""
    if not _is_float(node):
        return True
    if node.op == "get_attr":
        return bool(program.weights[str(node.target)].isfinite().all())
    if node.op != "call_function":
        return False
    return op_key(node.target).split(".")[1] in _KEEP or _is_clamped(node)


def _is_float(node: Node) -> bool:
    value = node.meta["val"]
    return value.is_floating_point() if isinstance(value, torch.Tensor) else isinstance(value, torch.SymFloat)


def _is_clamped(node: Node) -> bool:
    """Whether a call clamps on both sides by finite numbers."""
    bound = bind(node) if op_key(node.target).startswith("aten.clamp.") else {}
    return all(isinstance(b := bound.get(n), (int, float)) and math.isfinite(b) for n in ("min", "max"))
