"""Folds an eval BatchNorm into the convolution before it."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.pipeline import RewritePass, register_pass
from fxopt.rewriting import Const, Rule

__all__ = ["FuseConvBn"]


def _folded(
    weight: torch.Tensor, bias: torch.Tensor | None, mean: torch.Tensor, scale: torch.Tensor, beta: torch.Tensor | None, along: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the fused convolution; `along` is the scale shaped to broadcast over the weight."""
    shifted = -mean if bias is None else bias - mean
    folded = shifted * scale
    return weight * along, folded if beta is None else folded + beta


def _scale(var: torch.Tensor, gamma: torch.Tensor | None, eps: float) -> torch.Tensor:
    inverse = torch.rsqrt(var + eps)
    return inverse if gamma is None else gamma * inverse


def _conv_rule(conv: Callable[..., torch.Tensor], rank: int) -> Rule:
    def pattern(x, w: Const, b: Const | None, mean: Const, var: Const, gamma: Const | None, beta: Const | None,
                stride: list[int], padding: list[int], dilation: list[int], groups: int, momentum: float, eps: float):  # fmt: skip
        y = conv(x, w, b, stride, padding, dilation, groups)
        return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)

    def replacement(x, w, b, mean, var, gamma, beta, stride, padding, dilation, groups, momentum, eps):
        scale = _scale(var, gamma, eps)
        weight, bias = _folded(w, b, mean, scale, beta, scale.reshape([-1] + [1] * (rank + 1)))
        return conv(x, weight, bias, stride, padding, dilation, groups)

    return Rule(pattern, replacement, name=f"fuse-conv{rank}d-bn")


def _transposed_rule(conv: Callable[..., torch.Tensor], rank: int) -> Rule:
    """The weight of a transposed convolution is [in, out / groups, ...]: output channels run over groups first."""

    def pattern(x, w: Const, b: Const | None, mean: Const, var: Const, gamma: Const | None, beta: Const | None, stride: list[int],
                padding: list[int], output_padding: list[int], groups: int, dilation: list[int], momentum: float, eps: float):  # fmt: skip
        y = conv(x, w, b, stride, padding, output_padding, groups, dilation)
        return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)

    def replacement(x, w, b, mean, var, gamma, beta, stride, padding, output_padding, groups, dilation, momentum, eps):
        scale = _scale(var, gamma, eps)
        along = scale.reshape([groups, 1, -1] + [1] * rank)
        grouped = w.reshape([groups, -1, *w.shape[1:]])
        weight, bias = _folded(grouped, b, mean, scale, beta, along)
        return conv(x, weight.reshape(w.shape), bias, stride, padding, output_padding, groups, dilation)

    return Rule(pattern, replacement, name=f"fuse-conv-transpose{rank}d-bn")


@register_pass
class FuseConvBn(RewritePass):
    """batch_norm(conv(x, w, b))  ->  conv(x, w', b'), in 1, 2 and 3 dimensions, transposed and grouped too.

    Before: `%y = conv2d(%x, w, b)`, `%z = batch_norm(%y, gamma, beta, mean, var)`. After: `%z = conv2d(%x, w', b')` with
    `s = gamma / sqrt(var + eps)`, `w' = w * s` along the output channels, `b' = (b - mean) * s + beta`, computed in float64.

    It does not fire if the convolution has another user, if the BatchNorm uses batch statistics, or if a weight is computed
    at run time. A weight that several convolutions share gets a copy for each.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _conv_rule(F.conv2d, 2),
        _conv_rule(F.conv1d, 1),
        _conv_rule(F.conv3d, 3),
        _transposed_rule(F.conv_transpose2d, 2),
        _transposed_rule(F.conv_transpose1d, 1),
        _transposed_rule(F.conv_transpose3d, 3),
    )
