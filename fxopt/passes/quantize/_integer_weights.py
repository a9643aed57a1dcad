"""Weights that a program rounds, stored as the integers that they are rounded to: a quarter of the size.

No pass for pipelines: it is run when a file is written, as a program whose weights are integers could not be
trained any more.
"""

import torch
from torch.fx import Node

from fxopt.ops import bind, dequantize, quantize
from fxopt.pipeline import Contract, Pass
from fxopt.rewriting import Rewriter

__all__ = ["StoreIntegerWeights"]

_NAME = "store-integer-weights"
_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)


class StoreIntegerWeights(Pass):
    """Stores rounded weights as integers.

    Before: `%q = fake_quantize(w: f32[64, 32], scale, zero_point, -128, 127)`. After:
    `%q = dequantize(w: i8[64, 32], scale, zero_point)`.
    """

    contract = Contract.EXACT

    def run(self, rewriter: Rewriter) -> None:
        """Replaces each rounding of a weight; what is rounded to the same integers is stored once."""
        made: dict[Node, list[tuple[torch.Tensor, Node]]] = {}
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
                rewriter.replace(node, rewriter.call(dequantize, new, scale, zero_point))


def _type_for(low: int, high: int) -> torch.dtype | None:
    """The smallest integer type that holds a range."""
    kinds = ((t, torch.iinfo(t)) for t in _TYPES)
    return next((t for t, i in kinds if i.min <= low and high <= i.max), None)
