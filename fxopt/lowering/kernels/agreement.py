"""Whether a kernel of two values gives the simulation's integers, by trying it on all of them.

Sums and joins of integers lie on few points, and scales that calibration chose stand in simple ratios (33 to 32), so that
points can lie just between two steps: there the last bit of a scale decides, for every value at that point. A scale that
is two units of float32 larger or smaller moves them to the side that the simulation is on.

>>> numbers = Numbers(0.5, 3)
>>> agreeing_scale(torch.ops.quantized.add.default, ((numbers, 0.5), (numbers, 0.5)), Numbers(1.0, 3), "add")
1.0
"""

import functools
import operator
from collections.abc import Callable, Sequence

import torch

from fxopt.lowering.kernels.packing import quietly
from fxopt.lowering.kernels.products import Numbers
from fxopt.ops.quantized import dequantize, quantize

__all__ = ["agreeing_scale"]

_NUDGES = (1.0, 1 + 2**-22, 1 - 2**-22)
_MOST = 1e-3
"""The share of all values that may come out otherwise."""
_PAIRS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": operator.add,
    "mul": operator.mul,
}


@functools.cache
def agreeing_scale(
    op: torch._ops.OpOverload, inputs: tuple[tuple[Numbers, float], ...], out: Numbers, kind: str
) -> float | None:
    """The scale to give a kernel for its result; None where no scale gives the simulation's integers.

    Args:
        op: the kernel.
        inputs: what each value that it reads is rounded by, and the scale that its integers carry.
        out: what its result is to be rounded by.
        kind: "add" or "mul", of two values, or "cat", of any; with `_relu` what follows is clipped at zero.
    """
    every = torch.arange(256, dtype=torch.uint8)
    name, _, relu = kind.partition("_")
    integers = [every for _ in inputs]
    if name in _PAIRS:
        integers = [every[:, None].expand(256, 256).contiguous(), every.expand(256, 256).contiguous()]
    floats = [dequantize(q, *_tensors(n)) for q, (n, _) in zip(integers, inputs, strict=True)]
    result = _PAIRS[name](*floats) if name in _PAIRS else torch.cat(floats)
    wanted = quantize(result.relu() if relu else result, *_tensors(out), 0, 255)
    with quietly():
        read = [
            torch._make_per_tensor_quantized_tensor(q, held, n.zero_point)
            for q, (n, held) in zip(integers, inputs, strict=True)
        ]
        found = {
            s: _others(op, read, s, out.zero_point, wanted, name) for s in (n * out.scale for n in _NUDGES)
        }
    best = min(found, key=found.__getitem__)
    return best if found[best] <= _MOST else None


def _tensors(numbers: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(numbers.scale), torch.tensor(numbers.zero_point)


def _others(
    op: torch._ops.OpOverload,
    read: Sequence[torch.Tensor],
    scale: float,
    zero_point: int,
    wanted: torch.Tensor,
    name: str,
) -> float:
    """The share of integers that are others than wanted."""
    got = op(*read, scale, zero_point) if name in _PAIRS else op(list(read), 0, scale, zero_point)
    return float((got.int_repr() != wanted).double().mean())
