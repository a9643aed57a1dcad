"""Makes one convolution of two with nothing between them, of which one sees one element, where that costs no more."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes._products import Product
from fxopt.passes.merge._chain import Chained, merge_chain
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["MergeConv1x1Chain"]

_NAME = "merge-conv-1x1-chain"
_CONVS = ("conv1d", "conv2d", "conv3d")


def _before(x: torch.Tensor, v: Const, w: Const) -> torch.Tensor:
    return F.conv1d(F.conv1d(x, v), w, padding=1)


def _after(x: torch.Tensor, v: Const, w: Const, b: Const | None) -> torch.Tensor:
    return F.conv1d(F.conv1d(x, v, b, padding=1), w)


@register_pass
class MergeConv1x1Chain(Pass):
    """conv(conv(x, w1, b1), w2, b2)  ->  conv(x, w, b), where one of the two has kernels of one element.

    Before: `%a = conv2d(%x, v: [8, 3, 3, 3], b, padding=1)`, `%y = conv2d(%a, w: [4, 8, 1, 1], c)`. After:
    `%y = conv2d(%x, v_w: [4, 3, 3, 3], b_c, padding=1)`, computed in float64 and rounded once.

    It does not fire where the one weight has more elements, which are its multiplications for each place, than the
    two together: bottlenecks stay. Nor on groups, on a kernel of one element with a stride or padding, if a bias comes
    before a convolution that pads (its border sees zeros, not the bias), if the value between has another user or a
    weight has, or if a weight would not be finite.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_before, _after)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order; what is merged may be merged again with what it reads."""
        for node in rewriter.nodes():
            if rewriter.alive(node) and aten_name(node) in _CONVS:
                merge_chain(rewriter, node, _combined, _NAME)


def _combined(first: Product, second: Product) -> Chained | str:
    if first.groups != 1 or second.groups != 1:
        return ""
    if _is_point(second):
        weight = torch.einsum("om,mi...->oi...", second.weight.flatten(1), first.weight)
        return Chained(weight, second.weight.flatten(1) @ first.bias + second.bias, first)
    if not _is_point(first):
        return ""
    if second.pads and bool(first.bias.any()):
        return "the second convolution pads: its border would not see the first one's bias"
    weight = torch.einsum("om...,mi->oi...", second.weight, first.weight.flatten(1))
    return Chained(weight, second.weight.flatten(2).sum(2) @ first.bias + second.bias, second)


def _is_point(product: Product) -> bool:
    """Whether each output sees one place, and each place is seen."""
    given, rank = bind(product.node), product.weight.dim() - 2
    alone = product.weight[0, 0].numel() == 1
    return alone and given["stride"] == [1] * rank and not product.pads
