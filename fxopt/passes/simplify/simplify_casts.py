"""Leaves out casts that lose nothing before another cast."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyCasts"]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@register_pass
class SimplifyCasts(Pass):
    """to(to(x, wide), dtype)  ->  to(x, dtype), or x if it has that dtype already.

    Before, with x of float16: `%a = to(%x, float32)`, `%b = to(%a, float16)`, `%c = relu(%b)`. After:
    `%c = relu(%x)`.

    Every bit stays: the first cast goes only if each number that its operand may hold has a place in the dtype
    between the two. It does not fire on a cast that rounds or cuts off (float32 to float16 to float32), nor
    where a float between two integer dtypes decides what becomes of numbers that are too large.
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x.to(torch.float64).to(torch.float32) + x.to(torch.float64).to(torch.float16),
        lambda x: x.to(torch.float16).to(torch.float32) * x.to(torch.int32).to(torch.int64),
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order: a chain shrinks cast by cast."""
        for node in rewriter.nodes("aten.to.dtype"):
            inner = node.args[0]
            assert isinstance(inner, Node)
            if inner.target != node.target:
                continue
            x = inner.args[0]
            assert isinstance(x, Node)
            given, between, wanted = (n.meta["val"].dtype for n in (x, inner, node))
            if not _may_go(given, between, wanted):
                rewriter.refuse(
                    node, f"{given} to {between} to {wanted} is not {given} to {wanted}", rule="cast"
                )
                continue
            with rewriter.rewrite("simplify-casts", node):
                rewriter.replace(node, x if given == wanted else rewriter.call(node.target, x, wanted))


def _may_go(given: torch.dtype, between: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a cast in two steps is the cast in one."""
    if not _holds(between, given):
        return False
    return given == wanted or wanted in _FLOATS or between in _INTEGERS


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether each number of one dtype is one of the other.

    >>> _holds(torch.float32, torch.float16), _holds(torch.float32, torch.int32), _holds(torch.int8, torch.bool)
    (True, False, True)
    """
    if narrow == torch.bool:
        return wide in _FLOATS or wide in _INTEGERS
    if narrow in _INTEGERS:
        least, largest = torch.iinfo(narrow).min, torch.iinfo(narrow).max
        if wide in _INTEGERS:
            return torch.iinfo(wide).min <= least and largest <= torch.iinfo(wide).max
        return wide in _FLOATS and largest <= 2 / torch.finfo(wide).eps
    if narrow in _FLOATS and wide in _FLOATS:
        return torch.finfo(narrow).bits < torch.finfo(wide).bits
    return False
