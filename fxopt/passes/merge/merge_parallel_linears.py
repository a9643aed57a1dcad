"""Makes one linear layer of small ones that read the same tensor."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes.merge._parallel import groups_of, replace_by_pieces, stacked_weights
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["MergeParallelLinears"]

_NAME = "merge-parallel-linears"
_LINEAR = torch.ops.aten.linear.default
_LEAST_SAVED = 2
"""Calls: with one less, what is saved is as much as it costs to take the result apart."""


def _heads(x: torch.Tensor, u: Const, v: Const, w: Const, b: Const, c: Const | None) -> torch.Tensor:
    return F.linear(x, u, b) * F.linear(x, v, c).relu() + F.linear(x, w)


def _unbiased(x: torch.Tensor, t: Const, u: Const, v: Const, w: Const) -> torch.Tensor:
    return F.linear(x, t) * F.linear(x, u).relu() + F.linear(x, v) * F.linear(x, w)


@register_pass
class MergeParallelLinears(Pass):
    """linear(x, w1, b1), linear(x, w2, b2), ...  ->  split(linear(x, cat(w1, w2, ...), cat(b1, b2, ...))).

    Before: `%q = linear(%x, w: [32, 32], b)`, `%k = linear(%x, v: [32, 32])`, `%v = linear(%x, u: [16, 32], c)`. After:
    `%y = linear(%x, w_v_u: [80, 32], b_c)`, `%s = split_with_sizes(%y, [32, 32, 16], -1)`, and its parts.

    A layer without a bias has one of zeros. What is gained is calls, not arithmetic: each layer is one, and one more
    with a bias, the split is one. It does not fire where that saves less than two (gate and up of a gated unit), nor
    above `max_elements`, where products take so long that calls do not show; on layers whose weights are read
    elsewhere, computed at run time or train apart; or if a weight is a vector, or a bias is none.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_heads, _unbiased)

    max_elements: int = 65536
    """Of the merged weight: above, layers are left alone."""

    def run(self, rewriter: Rewriter) -> None:
        """One sweep: what a merged layer gives is read by other layers."""
        for layers in groups_of(rewriter, rewriter.nodes(_LINEAR), lambda given: None, _NAME):
            root, why = min(layers), self._objection(layers)
            if why:
                rewriter.refuse(root, why, rule=_NAME)
                continue
            with rewriter.rewrite(_NAME, root):
                weights = stacked_weights(rewriter, layers)
                whole = rewriter.call(_LINEAR, root.args[0], weights["weight"], weights["bias"])
                replace_by_pieces(rewriter, layers, whole, len(shape_of(whole)) - 1)

    def _objection(self, layers: list[Node]) -> str:
        """Why some layers are no faster as one; empty if they are."""
        given = [bind(n) for n in layers]
        biased = sum(g["bias"] is not None for g in given)
        saved = len(layers) + biased - (2 + (biased > 0))
        if saved < _LEAST_SAVED:
            return f"of {len(layers) + biased} calls {saved} would be saved, to take the result apart costs as much"
        elements = sum(g["weight"].meta["val"].numel() for g in given if isinstance(g["weight"], Node))
        if elements > self.max_elements:
            return f"the weights have {elements} elements: above {self.max_elements} the calls do not show"
        return ""
