"""Between what a clamp keeps its operand."""

import math

from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name

__all__ = ["CLAMPS", "clamp_bounds"]

CLAMPS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max")
"""Ops that `clamp_bounds` knows."""

_FIXED = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}


def clamp_bounds(node: Node) -> tuple[float, float] | None:
    """Lower and upper bound of a clamp by numbers: relu, relu6, hardtanh, clamp and its halves."""
    name, arguments = aten_name(node), bind(node)
    if name in _FIXED:
        return _FIXED[name]
    low, high = (arguments.get(k) for k in (("min_val", "max_val") if name == "hardtanh" else ("min", "max")))
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return float(low), float(high)
