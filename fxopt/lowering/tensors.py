"""Tensors to bytes and back.

>>> import torch
>>> unpack(pack(torch.tensor([[1, 2]], dtype=torch.bfloat16)))
tensor([[1., 2.]], dtype=torch.bfloat16)
"""

import torch

from fxopt.lowering.wire import Packed, Value

__all__ = ["pack", "unpack", "unpack_value"]


def pack(value: object) -> Value:
    """A tensor's values as bytes in row-major order; a number as it is.

    Raises:
        TypeError: neither a tensor nor a number.
    """
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        # A tensor of one element counts as contiguous whatever its strides are; bytes are read by strides.
        array = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy()
        data = memoryview(array)  # type: ignore[arg-type]  # numpy's arrays are buffers, typed so from 3.12 on
        return Packed(str(value.dtype).removeprefix("torch."), tuple(value.shape), data)
    if isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"expected a tensor or a number, got {type(value).__name__}")


def unpack(packed: Packed) -> torch.Tensor:
    """The tensor over the packed bytes (copied if they can't be written to)."""
    dtype = getattr(torch, packed.dtype)
    assert isinstance(dtype, torch.dtype)
    view = memoryview(packed.data)
    if view.nbytes == 0:
        return torch.empty(packed.shape, dtype=dtype)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=dtype).reshape(packed.shape)


def unpack_value(value: Value) -> torch.Tensor | int | float | bool:
    """The tensor of packed bytes, or the number."""
    return unpack(value) if isinstance(value, Packed) else value
