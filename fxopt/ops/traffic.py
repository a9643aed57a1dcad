"""Bytes that one call reads and writes, from the table; sizes may be symbolic.

Every operand is read once and every result written once, as by a kernel whose working set fits the cache; of a
table that is looked up only the picked elements are read. What shares memory with its input moves nothing:
`view_outline` tells.

>>> import torch
>>> op = torch.ops.aten.linear.default
>>> call_bytes(op, {"input": torch.ones(2, 3), "weight": torch.ones(5, 3), "bias": None}, torch.ones(2, 5))
(84, 40)
"""

from collections.abc import Iterator, Mapping

import torch

from fxopt.ops.info import op_info
from fxopt.ops.schema import argument_kinds, is_view
from fxopt.ops.sizes import Size, product, shape_of

__all__ = ["call_bytes", "outline", "tensor_bytes", "view_outline"]


def tensor_bytes(value: object) -> Size:
    """Bytes of a tensor, or of the tensors of a list or tuple; 0 of anything else."""
    return sum((product(shape_of(t)) * t.element_size() for t in _tensors(value)), start=0)


def call_bytes(op: torch._ops.OpOverload, bound: Mapping[str, object], output: object) -> tuple[Size, Size]:
    """Bytes read and bytes written by a call that does not share its input's memory.

    Args:
        op: the overload.
        bound: arguments by schema name, tensors as (fake) tensors: `bind_values(node)`.
        output: the call's value.

    Returns:
        Two numbers, SymInts where sizes are symbolic.
    """
    written = tensor_bytes(output)
    picked = op_info(op).picks
    read: Size = 0
    for kind in argument_kinds(op):
        read = read + (written if kind.name in picked else tensor_bytes(bound.get(kind.name)))
    return read, written


def outline(value: object) -> object:
    """The twin of a value on the meta device: sizes and strides without data, symbolic ones as in the example."""
    if isinstance(value, torch.Tensor):
        shape, strides = ([_example(d) for d in dims] for dims in (value.shape, value.stride()))
        return torch.empty_strided(shape, strides, dtype=value.dtype, device="meta")
    if isinstance(value, torch.SymInt):
        return _example(value)
    return [outline(v) for v in value] if isinstance(value, (list, tuple)) else value


def view_outline(op: torch._ops.OpOverload, bound: Mapping[str, object]) -> object:
    """The outline of a call's value if it lies in the memory of the first tensor, else None.

    Args:
        op: the overload.
        bound: arguments by schema name as `outline` gives them; the strides decide whether a reshape copies.
    """
    first = next(_tensors(list(bound.values())), None)
    if not is_view(op) or first is None or any(isinstance(v, torch.device) for v in bound.values()):
        return None  # with a device it is a move there
    kinds = argument_kinds(op)
    with torch.no_grad():
        result = op(
            *(bound[k.name] for k in kinds if not k.keyword_only),
            **{k.name: bound[k.name] for k in kinds if k.keyword_only},
        )
    storage = first.untyped_storage()._cdata
    return result if all(t.untyped_storage()._cdata == storage for t in _tensors(result)) else None


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _tensors(element)


def _example(size: Size) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return 2 if hint is None else int(hint)
