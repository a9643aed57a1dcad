"""Takes an eval BatchNorm into the linear layer or the convolution after it."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.passes._affine import norm_of
from fxopt.passes._products import product_of
from fxopt.passes.fold.fold_affine_into_conv_linear import fold_before
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["FoldBatchNormIntoNext"]

_NAME = "fold-batch-norm-into-next"


def _motif(x: torch.Tensor, mean: Const, var: Const, w: Const, b: Const | None) -> torch.Tensor:
    return F.conv2d(F.batch_norm(x, mean, var), w, b)


@register_pass
class FoldBatchNormIntoNext(Pass):
    """conv(batch_norm(x), w, b)  ->  conv(x, w', b'), and of linear layers on [N, C].

    Before: `%y = batch_norm(%x, gamma, beta, mean, var)`, `%z = conv2d(%y, w, b)`. After:
    `%z = conv2d(%x, w', b')` with `s = gamma / sqrt(var + eps)`, `w' = w * s` along the input channels and `b'`
    the bias plus what `beta - mean * s` adds to each output, computed in float64.

    Where a layer stands before the norm `fuse-conv-bn` comes first. It does not fire if the norm has another
    user, if the convolution pads (its border sees zeros, not what the norm makes of them), if the layer's
    weight has another user, or if the channels are not the axis that a linear layer sums over.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif,)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order."""
        for node in rewriter.nodes():
            product = None if node._erased else product_of(rewriter, node)
            if product is not None:
                fold_before(
                    rewriter, product, _NAME, lambda n, axis: norm_of(rewriter, n) if axis == 1 else None
                )
