"""GPTQ: the integers of weights are chosen by what the layers' results are off by."""

from collections.abc import Callable, Iterable
from typing import ClassVar, cast

import torch
from torch.fx import Node

from fxopt.errors import InputError, PipelineError
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._optimal_rounding import round_optimally
from fxopt.passes.quantize._rounded_layers import (
    RoundedLayer,
    add_products,
    find_layers,
    in_parts,
    put_weight,
)
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["Gptq"]

_NAME = "gptq"
_AT_ONCE = 64 * 1024**2
"""Elements of second moments that are kept in memory at a time."""


@register_pass
class Gptq(Pass):
    """Chooses the integers of rounded weights by what layers' results are off by, over the calibration data.

    Before and after: `%q = fake_quantize(w, scale, zero_point, -128, 127)`, `%y = linear(%x, %q)`, with another `w`:
    one of the values that this rounding gives. Inputs of a layer are rounded one after the other, and those that come
    make up for what is lost so far; no output channel is off by more than it was.

    Matrix products and convolutions, of any bits, by channel or block. One pass over the data for as many layers as
    half a gigabyte holds the second moments of.

    Frantar et al., 2022, arXiv:2210.17323.
    """

    contract = Contract.APPROXIMATE
    requires: ClassVar[frozenset[str]] = frozenset({"quantized"})
    needs_calibration = True

    damping: float = 0.01
    """what is added to the diagonal of the second moments, as a share of its mean"""
    act_order: bool = True
    """inputs of the largest mean square are rounded first"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose weights stay as they are, * for any letters"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: the damping is no positive number.
        """
        if not self.damping > 0:
            raise PipelineError(f"damping is {self.damping:g}; expected a number above 0")

    def run(self, rewriter: Rewriter) -> None:
        """Takes the second moments of what layers read, some layers at a time, and rounds."""
        for part in in_parts(find_layers(rewriter, _NAME, self.ignore), _AT_ONCE):
            moments: dict[RoundedLayer, list[torch.Tensor]] = {layer: [] for layer in part}
            seen: dict[Node, list[RoundedLayer]] = {}
            for layer in part:
                for value in layer.reads:
                    seen.setdefault(value, []).append(layer)
            data = cast(Iterable[object], rewriter.calibration)
            watch(rewriter.program, {n: _told(layers, moments) for n, layers in seen.items()}, data)
            for layer in part:
                self._round(rewriter, layer, moments[layer])

    def _round(self, rewriter: Rewriter, layer: RoundedLayer, moments: list[torch.Tensor]) -> None:
        if not moments:
            rewriter.refuse(layer.rounding, "calibration never ran it", rule=_NAME)
            return
        rounded = [
            round_optimally(w, h, steps, damping=self.damping, by_activation=self.act_order)
            for (w, steps), h in zip(layer.weights(rewriter), moments, strict=True)
        ]
        put_weight(rewriter, _NAME, layer, rounded)


def _told(
    layers: list[RoundedLayer], moments: dict[RoundedLayer, list[torch.Tensor]]
) -> Callable[[torch.Tensor], None]:
    """Adds what layers read in a batch to the sums of `x x^T`, one for each matrix."""

    def see(value: torch.Tensor) -> None:
        if not bool(value.isfinite().all()):
            raise InputError("a value is NaN or infinite")
        for layer in layers if value.numel() else ():
            rows = layer.matrix.rows(value).double()
            add_products(moments[layer], rows, rows)

    return see
