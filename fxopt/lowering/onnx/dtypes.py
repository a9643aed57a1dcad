"""Dtypes as torch, ONNX and numpy name them, and tensors as raw bytes.

>>> onnx_type(torch.bfloat16), torch_dtype(16)
(16, torch.bfloat16)
"""

import torch

from fxopt.errors import LoweringError

__all__ = ["SMALL_INTEGERS", "is_float", "is_integer", "onnx_type", "raw_bytes", "raw_memory", "torch_dtype"]

_TYPES = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.uint16: 4,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.uint32: 12,
    torch.uint64: 13,
    torch.bfloat16: 16,
    torch.float8_e4m3fn: 17,
    torch.float8_e4m3fnuz: 18,
    torch.float8_e5m2: 19,
    torch.float8_e5m2fnuz: 20,
}
"""The values of `onnx.TensorProto.DataType`, written out so that reading them does not load onnx."""
_DTYPES = {number: dtype for dtype, number in _TYPES.items()}

SMALL_INTEGERS = frozenset({torch.int8, torch.uint8, torch.int16, torch.uint16})


def onnx_type(dtype: torch.dtype) -> int:
    """The ONNX element type of a dtype.

    Raises:
        LoweringError: ONNX has none.
    """
    if dtype not in _TYPES:
        raise LoweringError(f"{dtype} has no counterpart in ONNX")
    return _TYPES[dtype]


def torch_dtype(number: int) -> torch.dtype | None:
    """The dtype of an ONNX element type, or None where torch has none (strings, 4-bit integers)."""
    return _DTYPES.get(number)


def is_float(dtype: torch.dtype) -> bool:
    """Whether values of the dtype are real numbers."""
    return dtype.is_floating_point


def is_integer(dtype: torch.dtype) -> bool:
    """Whether values of the dtype are integers (bool is not)."""
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def raw_memory(tensor: torch.Tensor) -> memoryview:
    """A tensor's elements in row-major, little-endian order; its own memory where that is so."""
    dense = tensor.detach().cpu().contiguous().reshape(-1)
    return dense.view(torch.uint8).numpy().data


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """A copy of `raw_memory`."""
    return raw_memory(tensor).tobytes()
