"""The short name of a node's op, for passes that go by name."""

import operator
from functools import cache

import torch
from torch.fx import Node

from fxopt.ops import op_key

__all__ = ["aten_name"]


def aten_name(node: Node) -> str:
    """`relu` for any overload of `aten.relu`, `getitem` for the Python function, else empty."""
    return _name(node.target) if node.op == "call_function" else ""


@cache
def _name(target: object) -> str:
    if target is operator.getitem:
        return "getitem"
    parts = op_key(target).split(".") if isinstance(target, torch._ops.OpOverload) else []
    return parts[1] if parts[:1] == ["aten"] else ""
