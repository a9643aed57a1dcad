"""Makes one linear layer of two with nothing between them, where that costs no more."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.passes._products import Product
from fxopt.passes.merge._chain import Chained, merge_chain
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["MergeLinearChain"]

_NAME = "merge-linear-chain"


def _motif(x: torch.Tensor, v: Const, w: Const, b: Const | None) -> torch.Tensor:
    return F.linear(F.linear(x, v, b), w)


@register_pass
class MergeLinearChain(Pass):
    """linear(linear(x, w1, b1), w2, b2)  ->  linear(x, w2 w1, w2 b1 + b2), where that is no larger.

    Before: `%a = linear(%x, v: [8, 8], b)`, `%y = linear(%a, w: [4, 8], c)`. After:
    `%y = linear(%x, v_w: [4, 8], b_c)`, computed in float64 and rounded once.

    It does not fire where the one weight has more elements, which are its multiplications for each row, than the two
    together: a factorisation of low rank stays. Nor if the value between has another user, if a weight has, if a bias
    has rows of its own, or if a weight would not be finite.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif,)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order; what is merged may be merged again with what it reads."""
        for node in rewriter.nodes("aten.linear"):
            if rewriter.alive(node):
                merge_chain(rewriter, node, _combined, _NAME)


def _combined(first: Product, second: Product) -> Chained | str:
    if first.bias.dim() > 1 or second.bias.dim() > 1:
        return "a bias has rows of its own"
    weight, bias = second.weight @ first.weight, second.weight @ first.bias + second.bias
    return Chained(weight, bias, second)
