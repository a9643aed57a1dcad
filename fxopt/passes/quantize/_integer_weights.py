"""Weights that a program rounds, stored as the integers that they are rounded to: a quarter of the size.

No pass for pipelines: it is run when a file is written, as a program whose weights are integers could not be
trained any more.
"""

from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind, dequantize, quantize
from fxopt.pipeline import Contract, Pass
from fxopt.rewriting import Rewriter

__all__ = ["RANGES", "StoreIntegerWeights"]

_NAME = "store-integer-weights"
RANGES = "stored-ranges"
"""What the program gets attached: the least and the largest integer of weights of 2 to 4 bits, by name."""
_FEW = 16
_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)


class StoreIntegerWeights(Pass):
    """Stores rounded weights as integers.

    Before: `%q = fake_quantize(w: f32[64, 32], scale, zero_point, -128, 127)`. After:
    `%q = dequantize(w: i8[64, 32], scale, zero_point)`.
    """

    contract = Contract.EXACT
    establishes: ClassVar[frozenset[str]] = frozenset({RANGES})

    def run(self, rewriter: Rewriter) -> None:
        """Replaces each rounding of a weight; what is rounded to the same integers is stored once."""
        made: dict[Node, list[tuple[torch.Tensor, Node]]] = {}
        ranges: dict[Node, tuple[int, int]] = {}
        for node in rewriter.nodes("fxopt.fake_quantize"):
            bound = bind(node)
            weight, scale, zero_point = (bound[n] for n in ("x", "scale", "zero_point"))
            tensor, scales, zeros = (rewriter.value(n) for n in (weight, scale, zero_point))
            if tensor is None or scales is None or zeros is None:
                continue
            low, high = bound["quant_min"], bound["quant_max"]
            assert isinstance(low, int) and isinstance(high, int) and isinstance(weight, Node)
            dtype = _type_for(low, high)
            if dtype is None:
                rewriter.refuse(node, f"no integer type holds {low} to {high}", rule=_NAME)
                continue
            with rewriter.rewrite(_NAME, node):
                integers = quantize(tensor.detach(), scales, zeros, low, high).nan_to_num(low)
                # 32-bit integers have a highest one that float32 has not.
                stored = integers.double().clamp(low, high).to(dtype)
                known = made.setdefault(weight, [])
                new = next((n for t, n in known if t.dtype is dtype and torch.equal(t, stored)), None)
                if new is None:
                    new = rewriter.constant(stored, name=str(weight.target), successor_of=weight)
                    known.append((stored, new))
                ranges[new] = (low, high)
                if zeros.numel() > 1 and dtype is torch.int8:
                    zero_point = rewriter.constant(zeros.to(dtype), name=f"{weight.target}_zero_points")
                    ranges[zero_point] = (low, high)
                rewriter.replace(node, rewriter.call(dequantize, new, scale, zero_point))
        few = {str(n.target): list(r) for n, r in ranges.items() if r[1] - r[0] < _FEW}
        rewriter.program.attached |= {RANGES: few} if few else {}


def _type_for(low: int, high: int) -> torch.dtype | None:
    """The smallest integer type that holds a range."""
    kinds = ((t, torch.iinfo(t)) for t in _TYPES)
    return next((t for t, i in kinds if i.min <= low and high <= i.max), None)
