"""The index map of one call, and which tensor each of its brackets speaks of.

>>> import torch
>>> op = torch.ops.aten.mm.default
>>> bound = {"self": torch.ones(2, 3), "mat2": torch.ones(3, 5)}
>>> index_map = call_index_map(op, bound)
>>> [(name, str(operand)) for name, operand, _ in align_inputs(op, index_map, bound)]
[('self', 'x[i,k]'), ('mat2', 'w[k,j]')]
"""

from collections.abc import Mapping

import torch

from fxopt.ops.index_map import IndexMap, Operand, parse_index_map
from fxopt.ops.info import op_info
from fxopt.ops.schema import argument_kinds

__all__ = ["align_inputs", "align_outputs", "call_index_map"]


def call_index_map(op: torch._ops.OpOverload, bound: Mapping[str, object]) -> IndexMap | None:
    """The index map of a call; None where the table does not know one that fits its tensors.

    An elementwise op has one without saying so. Some kernels take a tensor of more axes than they are said to (batch
    norm a weight of shape [1, 1]).

    Args:
        op: the overload.
        bound: arguments by schema name, tensors as (fake) tensors: `bind_values(node)`.
    """
    info = op_info(op)
    if info.elementwise:
        count = sum(k.base == "Tensor" for k in argument_kinds(op))
        return parse_index_map(", ".join(f"x{i}[*]" for i in range(count)) + " -> y[*]") if count else None
    text = info.index_map(dict(bound)) if callable(info.index_map) else info.index_map
    index_map = None if text is None else parse_index_map(text)
    fits = index_map is None or all(o.fits(t.dim()) for _, o, t in align_inputs(op, index_map, bound))
    return index_map if fits else None


def align_inputs(
    op: torch._ops.OpOverload, index_map: IndexMap, bound: Mapping[str, object]
) -> list[tuple[str, Operand, torch.Tensor]]:
    """Each input tensor of a call with its argument's name and its bracket.

    An optional tensor that is not given, or given as a number, is left out with its bracket. A list of
    tensors has one bracket that holds for each element, or one an element.
    """
    arguments = [(k.name, bound.get(k.name)) for k in argument_kinds(op) if k.base == "Tensor"]
    if len(index_map.inputs) != len(arguments):
        arguments = [
            (name, element)
            for name, value in arguments
            for element in (value if isinstance(value, (list, tuple)) else [value])
            if not (element is None and isinstance(value, (list, tuple)))
        ]
    return [
        (name, operand, tensor)
        for (name, value), operand in zip(arguments, index_map.inputs, strict=True)
        for tensor in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(tensor, torch.Tensor)
    ]


def align_outputs(index_map: IndexMap, output: object) -> list[tuple[Operand, torch.Tensor]]:
    """Each output tensor with its bracket; the one bracket of a list holds for each element."""
    values = list(output) if isinstance(output, (list, tuple)) else [output]
    operands = index_map.outputs * len(values) if len(index_map.outputs) == 1 else index_map.outputs
    return [(o, v) for o, v in zip(operands, values, strict=True) if isinstance(v, torch.Tensor)]
