"""Takes what queries or keys are multiplied by into attention's own scale."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._affine import affine_of
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["FoldScaleIntoAttention"]

_NAME = "fold-scale-into-attention"


def _motif(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q * 0.5, k / 2.0, v)


@register_pass
class FoldScaleIntoAttention(Pass):
    """attention(q * s, k, v, scale=t)  ->  attention(q, k, v, scale=t * s), and of keys.

    Before: `%a = mul(%q, 0.5)`, `%y = scaled_dot_product_attention(%a, %k, %v)` with heads of 16. After:
    `%y = scaled_dot_product_attention(%q, %k, %v, scale=0.125)`.

    It does not fire on a scale that differs from channel to channel, where the head's size, of which the
    usual scale is made, varies, or if the scale would not be positive and finite: kernels multiply the -inf of what
    is masked by it too.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif,)

    def run(self, rewriter: Rewriter) -> None:
        """Each attention, until neither operand is multiplied by a number."""
        for node in rewriter.nodes("aten.scaled_dot_product_attention"):
            current: Node | None = node
            while current is not None:
                current = _folded(rewriter, current)


def _folded(rewriter: Rewriter, node: Node) -> Node | None:
    """The attention with one scale taken in; None if there is none."""
    given = bind(node)
    width = shape_of(given["query"])[-1]
    scale = given["scale"]
    if scale is None and isinstance(width, int) and width:
        scale = 1 / math.sqrt(width)
    if not isinstance(scale, float):
        return None
    for name in ("query", "key"):
        operand = given[name]
        assert isinstance(operand, Node)
        found = affine_of(rewriter, operand, 0) if aten_name(operand) in ("mul", "div") else None
        if found is None or found.scale.numel() != 1:
            continue
        factor = scale * float(found.scale)
        if not 0 < factor < math.inf:
            rewriter.refuse(node, f"the scale would be {factor}", rule=_NAME)
            continue
        with rewriter.rewrite(_NAME, node):
            made = rewriter.call(node.target, **{**given, name: found.x, "scale": factor})
            rewriter.replace(node, made)
        return made
    return None
