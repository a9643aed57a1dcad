"""Sizes, fixed or symbolic, compared without a guard: what can't be decided counts as different.

>>> same_size(3, 3), is_one(2)
(True, False)
"""

from collections.abc import Iterable

import torch
from torch.fx import Node

__all__ = ["Size", "is_one", "product", "same_size", "shape_of"]

Size = int | torch.SymInt


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are equal for every value of the symbols."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(a == b))


def is_one(size: Size) -> bool:
    """Whether a size is one for every value of the symbols."""
    return same_size(size, 1)


def product(sizes: Iterable[Size]) -> Size:
    """The product; 1 of no sizes."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def shape_of(value: object) -> tuple[Size, ...]:
    """The shape of a tensor, or of a node's value.

    Raises:
        TypeError: it is no tensor.
    """
    if isinstance(value, Node):
        value = value.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"expected a tensor, got {value!r}")
    return tuple(value.shape)
