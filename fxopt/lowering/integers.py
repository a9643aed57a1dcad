"""Weights that a program rounds, as files hold them: the integers that they are rounded to, a quarter of the size.

It is done when a file is written: a program whose weights are integers could not be trained any more.
"""

import torch
from torch.fx import Node

from fxopt.ops import bind, dequantize
from fxopt.pipeline import Contract, Pass, PassManager
from fxopt.program.program import Program
from fxopt.rewriting import Rewriter

__all__ = ["with_integer_weights"]

_NAME = "store-integer-weights"
_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)


class _StoreIntegerWeights(Pass):
    """Stores rounded weights as integers.

    Before: `%q = fake_quantize(w: f32[64, 32], scale, zero_point, -128, 127)`. After:
    `%q = dequantize(w: i8[64, 32], scale, zero_point)`.
    """

    contract = Contract.EXACT

    def run(self, rewriter: Rewriter) -> None:
        """Replaces each rounding of a weight."""
        for node in rewriter.nodes("fxopt.fake_quantize"):
            bound = bind(node)
            weight, scale, zero_point = (bound[n] for n in ("x", "scale", "zero_point"))
            tensor, *numbers = (rewriter.value(n) for n in (weight, scale, zero_point))
            if tensor is None or any(n is None for n in numbers):
                continue
            low, high = bound["quant_min"], bound["quant_max"]
            assert isinstance(low, int) and isinstance(high, int) and isinstance(weight, Node)
            dtype = _type_for(low, high)
            if dtype is None:
                rewriter.refuse(node, f"no integer type holds {low} to {high}", rule=_NAME)
                continue
            with rewriter.rewrite(_NAME, node):
                stored = rewriter.constant(
                    _integers(tensor, numbers[0], numbers[1], low, high).to(dtype),  # type: ignore[arg-type]
                    name=str(weight.target),
                    successor_of=weight,
                )
                rewriter.replace(node, rewriter.call(dequantize, stored, scale, zero_point))


def with_integer_weights(program: Program) -> Program:
    """The program with its rounded weights stored as integers; itself if it rounds nothing."""
    rounds = any(getattr(n.target, "namespace", "") == "fxopt" for n in program.calls())
    return PassManager.of([_StoreIntegerWeights()]).run(program).program if rounds else program


def _type_for(low: int, high: int) -> torch.dtype | None:
    """The smallest integer type that holds a range."""
    kinds = ((t, torch.iinfo(t)) for t in _TYPES)
    return next((t for t, i in kinds if i.min <= low and high <= i.max), None)


def _integers(
    weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """As `fake_quantize` rounds, NaN as the lowest."""
    q = torch.round(weight.detach() / scale.to(weight.dtype)) + zero_point.to(weight.dtype)
    return q.clamp(low, high).nan_to_num(low).double().clamp(low, high)
