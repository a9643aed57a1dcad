"""What number a value is everywhere: literals, filled tensors, weights with one value.

>>> uniform_value(torch.ones(2, 3)), uniform_value(torch.tensor([0.0, -0.0]))
(1.0, None)
"""

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.rewriting import Rewriter

__all__ = ["uniform_number", "uniform_value"]

_FILLS = {"zeros": 0, "zeros_like": 0, "new_zeros": 0, "ones": 1, "ones_like": 1, "new_ones": 1}
_FILLS_WITH = {
    "full": "fill_value",
    "full_like": "fill_value",
    "new_full": "fill_value",
    "scalar_tensor": "s",
}
_MOVES = frozenset(
    {"expand", "reshape", "permute", "unsqueeze", "squeeze", "slice", "select", "flatten", "broadcast_to"}
)


def uniform_number(rewriter: Rewriter, value: object, *, weights: bool) -> int | float | None:
    """The number that an operand is everywhere, None if it is not known to be one.

    Args:
        rewriter: knows the weights.
        value: a literal, or a node: a filled tensor or a weight, possibly moved and expanded.
        weights: whether the values of weights count.
    """
    if isinstance(value, (int, float)):
        return value
    node = value
    while isinstance(node, Node) and aten_name(node) in _MOVES:
        node = node.args[0]
    if not isinstance(node, Node):
        return None
    weight = rewriter.value(node)
    if weight is None:
        return _filled(node)
    return uniform_value(weight) if weights else None


def uniform_value(tensor: torch.Tensor) -> int | float | None:
    """The one value of a tensor's elements, zeros of one sign; None if they differ, or there are none."""
    if tensor.is_meta or tensor.is_complex() or tensor.is_quantized or tensor.numel() == 0:
        return None
    first = tensor[(0,) * tensor.dim()]
    sample = tensor[tuple(slice(0, 4) for _ in tensor.shape)]  # most weights differ within a few elements
    if not bool((sample == first).all()) or not bool((tensor == first).all()):
        return None
    if (
        tensor.is_floating_point()
        and first == 0
        and not bool((torch.signbit(tensor) == torch.signbit(first)).all())
    ):
        return None
    number = first.item()
    assert isinstance(number, (int, float))
    return number


def _filled(node: Node) -> int | float | None:
    """The number that a creation op fills its result with, rounded to its dtype."""
    name, value = aten_name(node), node.meta.get("val")
    if name not in _FILLS and name not in _FILLS_WITH:
        return None
    number = _FILLS[name] if name in _FILLS else bind(node)[_FILLS_WITH[name]]
    if not isinstance(number, (int, float)) or not isinstance(value, torch.Tensor) or value.is_complex():
        return None
    rounded = torch.tensor(number, dtype=value.dtype).item()
    assert isinstance(rounded, (int, float))
    return rounded
