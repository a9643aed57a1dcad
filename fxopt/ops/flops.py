"""Floating-point operations of one call, from the table; sizes may be symbolic.

A multiply-add counts as two, as in `torch.utils.flop_counter`. Where an entry says nothing of its own: a
contraction costs twice the product of its index extents, a reduction one operation an input element, the rest
one an output element.

>>> import torch
>>> op = torch.ops.aten.linear.default
>>> call_flops(op, {"input": torch.ones(2, 3), "weight": torch.ones(5, 3), "bias": None}, torch.ones(2, 5))
60
"""

from collections.abc import Mapping
from typing import cast

import torch

from fxopt.ops.dependence import align_inputs, align_outputs, call_index_map
from fxopt.ops.info import QuantRole, op_info
from fxopt.ops.sizes import Size, product, shape_of

__all__ = ["call_flops"]


def call_flops(op: torch._ops.OpOverload, bound: Mapping[str, object], output: object) -> Size:
    """Floating-point operations of a call.

    Args:
        op: the overload.
        bound: arguments by schema name, tensors as (fake) tensors: `bind_values(node)`.
        output: the call's value.

    Returns:
        A number, a SymInt where sizes are symbolic.
    """
    info = op_info(op)
    if info.flops is not None:
        return cast(Size, info.flops(dict(bound), output))
    index_map = None if info.elementwise else call_index_map(op, bound)
    inputs = [] if index_map is None else align_inputs(op, index_map, bound)
    if index_map is not None and info.role is QuantRole.CONTRACTION and len(inputs) > 1:
        outputs = align_outputs(index_map, output)
        used = type(index_map)(tuple(o for _, o, _ in inputs), tuple(o for o, _ in outputs))
        extents = used.extents([shape_of(t) for _, _, t in inputs], [shape_of(t) for _, t in outputs])
        return 2 * product(extents.values())
    if index_map is not None and index_map.contracted:
        return product(shape_of(inputs[0][2]))
    first = output[0] if isinstance(output, (list, tuple)) and output else output
    return product(shape_of(first)) if isinstance(first, torch.Tensor) else 0
