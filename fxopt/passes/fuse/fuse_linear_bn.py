"""Folds an eval BatchNorm into the linear layer before it."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.passes._batch_norm import scale_of, shifted_bias
from fxopt.pipeline import RewritePass, register_pass
from fxopt.rewriting import Const, Match, Refused, Rule

__all__ = ["FuseLinearBn"]


Tensor = torch.Tensor


def _pattern(
    x: Tensor, w: Const, b: Const | None,
    mean: Const, var: Const, gamma: Const | None, beta: Const | None, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    return F.batch_norm(F.linear(x, w, b), mean, var, gamma, beta, False, momentum, eps)


def _replacement(
    x: Tensor, w: Tensor, b: Tensor | None,
    mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    scale = scale_of(var, gamma, eps)
    weight, bias = w * scale.reshape(-1, 1), shifted_bias(b, mean, scale, beta)
    return F.linear(x, weight.to(w.dtype), bias.to(w.dtype))


def _guard(match: Match) -> Refused | None:
    """BatchNorm scales axis 1, the linear layer makes the last one."""
    rank = match["x"].dim()
    if rank == 2:
        return None
    return match.refuse(
        f"the linear layer's output has {rank} dimensions: BatchNorm scales axis 1, not the last"
    )


@register_pass
class FuseLinearBn(RewritePass):
    """batch_norm(linear(x, w, b))  ->  linear(x, w', b') on [N, C].

    Before: `%y = linear(%x, w, b)`, `%z = batch_norm(%y, gamma, beta, mean, var)`. After:
    `%z = linear(%x, w', b')` with `s = gamma / sqrt(var + eps)`, `w' = w * s` along the rows and
    `b' = (b - mean) * s + beta`, computed in float64.

    It does not fire on [N, L, C], whose axis 1 is the one that BatchNorm scales and not the linear layer's
    output, nor if the linear layer has another user or a weight is computed at run time.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(_pattern, _replacement, _guard, "fuse-linear-bn", ("aten.linear", "aten.batch_norm")),
    )
