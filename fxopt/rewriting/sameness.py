"""When two values have one type, so that one may stand for the other: dtype, device and, provably, shape.

>>> import torch
>>> same_type(torch.zeros(2, 3), torch.ones(2, 3)), same_type(torch.zeros(2, 3), torch.zeros(3, 2))
(True, False)
"""

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxopt.program import value_key

__all__ = ["same_size", "same_type"]


def same_type(a: object, b: object) -> bool:
    """Whether two values have one dtype, device and layout, and one shape for every value of the symbols."""
    if a is b:
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same_type(x, y) for x, y in zip(a, b, strict=True))
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return same_size(a, b)
    if (a.dtype, a.device, a.layout, a.dim()) != (b.dtype, b.device, b.layout, b.dim()):
        return False
    return all(same_size(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def same_size(a: object, b: object) -> bool:
    """Whether two numbers are equal for every value of the symbols, not only for the example's."""
    if type(a) is int and type(b) is int:
        return a == b
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and a.node.expr == b.node.expr:
        return True
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        numbers = isinstance(a, (int, torch.SymInt)) and isinstance(b, (int, torch.SymInt))
        return numbers and statically_known_true(a == b)
    return value_key(a) == value_key(b)
