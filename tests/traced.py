"""Programs of the zoo, traced once a process, static or with a dynamic batch, and inputs of another batch size."""

from functools import cache

import torch

from fxopt.frontend import trace
from fxopt.program import Program
from tests.zoo import dynamic_batch, model


@cache
def traced(name: str, dynamic: bool) -> Program:
    """The program of a zoo model; the same object each time, so don't change it."""
    module, args = model(name)
    return trace(module, args, dynamic_shapes=dynamic_batch(args) if dynamic else None)


def inputs(name: str, dynamic: bool) -> list[torch.Tensor]:
    """The example's tensors, or with a dynamic batch one more record than the example has."""
    _, args = model(name)
    return [torch.cat([x, x[:1]]) if dynamic else x.clone() for x in args]


def same_bits(first: list[object], second: list[object]) -> bool:
    """Whether two lists of outputs agree bit for bit, dtypes and NaN included."""
    return len(first) == len(second) and all(map(_same, first, second))


def _same(a: object, b: object) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b) and a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Of the elements in order; `contiguous` would leave the stride of an axis of size one as it is."""
    return torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.flatten()).view(torch.uint8)
