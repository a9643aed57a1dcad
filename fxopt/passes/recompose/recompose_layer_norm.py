"""Makes one call of a layer norm that is written out."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops.sizes import shape_of
from fxopt.passes.recompose._norms import affine_of, other_user
from fxopt.passes.recompose._standardised import Standardised, standardised
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["RecomposeLayerNorm"]

_RULE = "recompose-layer-norm"


def _affine(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    d = x - x.mean(-1, keepdim=True)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * w + b


def _of_var(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)


@register_pass
class RecomposeLayerNorm(Pass):
    """(x - mean(x)) / sqrt(var(x) + eps) * w + b  ->  layer_norm(x, w, b, eps).

    Before: `%m = mean(%x, [-1], True)`, `%d = sub(%x, %m)`, `%s = pow(%d, 2)`, `%v = mean(%s, [-1], True)`,
    `%e = add(%v, 1e-05)`, `%r = sqrt(%e)`, `%n = div(%d, %r)`, `%a = mul(%n, w)`, `%y = add(%a, b)`. After:
    `%y = layer_norm(%x, [8], w, b, 1e-05)`.

    The variance may be the mean of squares or `var` of no correction, the root `rsqrt` or a power, weight and
    bias may be absent. It does not fire if a statistic is not over the last axes, if the variance is unbiased,
    if epsilon is added after the root, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _affine,
        _of_var,
        lambda x, y: (y - x.mean(-1, True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6),
        lambda x: (x - x.mean(-1, True)) / (x.std(-1, unbiased=False, keepdim=True) + 1e-6),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            found = None if node._erased else standardised(node)
            if found is not None:
                _recompose(rewriter, found)


def _recompose(rewriter: Rewriter, found: Standardised) -> None:
    shape = list(shape_of(found.x)[found.axes[0] :])
    why = other_user({*found.inner}, found.result)
    if not why and not all(isinstance(d, int) for d in shape):
        why = "the normalised axes are dynamic"
    if why:
        rewriter.refuse(found.result, why, rule=_RULE)
        return
    _rewrite(rewriter, found.result, found.x, shape, found.eps)


def _rewrite(rewriter: Rewriter, result: Node, x: Node, shape: Sequence[object], eps: float) -> None:
    """With the weight and the bias that follow."""
    last, weight = affine_of(rewriter, result, "mul", shape) or (result, None)
    last, bias = affine_of(rewriter, last, "add", shape) or (last, None)
    with rewriter.rewrite(_RULE, last):
        rewriter.replace(last, rewriter.call("aten.layer_norm", x, [*shape], weight, bias, eps))
