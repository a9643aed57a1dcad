"""Removes calls that compute nothing: eval dropout, no-op moves, neutral arithmetic, inverse pairs."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes.eliminate._identities import Near, Same, identity_of
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program.text import value_text
from fxopt.rewriting import Rewriter

__all__ = ["EliminateIdentities"]


@register_pass
class EliminateIdentities(Pass):
    """Removes calls whose result is one of their operands.

    Before: `%a = dropout(%x, 0.1, False)`, `%b = mul(%a, 1)`, `%c = permute(%b, [1, 0])`,
    `%d = permute(%c, [1, 0])`, `%e = relu(%d)`, `%f = relu(%e)`. After: `%e = relu(%x)`.

    Eval dropout; reshape, expand, slice, permute, squeeze, pad, join and split that change nothing;
    `x * 1`, `x / 1`, `x ** 1`, `x + 0`, `x - 0`, `mask & True`, the number a literal, a filled tensor or a
    weight; double negation, inverse permutes, a repeated relu, clamp, abs or rounding; a clamp of what lies
    within its bounds.

    All of these are exact but for two: adding zero makes `0.0` of `-0.0`, and so may a clamp at a bound of 0.
    Where the dtype changes a cast is left (integers times `1.0` are floats); where the shape would change,
    nothing fires (`x + zeros(3, 4)` broadcasts).
    """

    contract = Contract.EQUIVALENT

    exact: bool = False
    """Only what keeps every bit, the sign of zero included."""
    keep_dropout: bool = False
    """Leave eval dropouts in place: training needs to know where they are."""
    keep_weights: bool = False
    """Leave arithmetic with weights in place, a scale of ones for example: it may be trained on."""

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: F.dropout(x, 0.5, False),
        lambda x: x.permute(1, 0).permute(1, 0) * 1,
        lambda x: x.div(1).neg().neg() - 0.0,
        lambda x: (x + 0.0).relu().relu().sigmoid().clamp(0.0, 1.0),
        lambda x: torch.cat([x.reshape(x.shape)]).abs().abs(),
    )

    def __post_init__(self) -> None:
        if self.exact:
            object.__setattr__(self, "contract", Contract.EXACT)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order: what a call is replaced by stands before it."""
        for node in rewriter.nodes():
            found = None if node._erased else identity_of(rewriter, node, weights=not self.keep_weights)
            if found is None:
                continue
            rule, same = found
            why = self._objection(rewriter, node, rule, same)
            if why:
                rewriter.refuse(node, why, rule=rule)
            elif isinstance(same, Same):
                with rewriter.rewrite(rule, node):
                    rewriter.replace(node, _cast(rewriter, same.node, node.meta["val"].dtype))

    def _objection(self, rewriter: Rewriter, node: Node, rule: str, found: Same | Near) -> str:
        """Why the call must stay; empty if it may go."""
        if isinstance(found, Near):
            return found.why
        if self.keep_dropout and rule == "eval-dropout":
            return "kept for training (keep_dropout)"
        if self.exact and not found.exact:
            return "it may change the sign of a zero (exact)"
        before, after = shape_of(node), shape_of(found.node)
        if len(before) == len(after) and all(map(same_size, before, after)):
            return ""
        kinds = [value_text(rewriter.program, n.meta["val"]) for n in (node, found.node)]
        return f"the result is {kinds[0]}, the operand {kinds[1]}"


def _cast(rewriter: Rewriter, node: Node, dtype: torch.dtype) -> Node:
    """The node in a dtype: `x * 1.0` of integers is nothing but a cast."""
    return node if node.meta["val"].dtype == dtype else rewriter.call("aten.to.dtype", node, dtype)
