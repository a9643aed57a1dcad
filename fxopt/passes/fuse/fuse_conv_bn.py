"""Folds an eval BatchNorm into the convolution before it."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.passes._batch_norm import scale_of, shifted_bias
from fxopt.pipeline import RewritePass, register_pass
from fxopt.rewriting import Const, Match, Refused, Rule

__all__ = ["FuseConvBn"]

Tensor = torch.Tensor


def _rule(pattern: Callable[..., Tensor], replacement: Callable[..., Tensor], op: str, rank: int) -> Rule:
    name = f"fuse-{op.replace('_', '-')}-bn"
    return Rule(pattern, replacement, _batched(rank), name, (f"aten.{op}", "aten.batch_norm"))


def _batched(rank: int) -> Callable[[Match], Refused | None]:
    def guard(match: Match) -> Refused | None:
        if match["x"].dim() == rank + 2:
            return None
        return match.refuse("the convolution has no batch axis: BatchNorm scales axis 1, not its channels")

    return guard


def _conv_rule(conv: Callable[..., Tensor], rank: int) -> Rule:
    def pattern(
        x: Tensor, w: Const, b: Const | None,
        mean: Const, var: Const, gamma: Const | None, beta: Const | None,
        stride: list[int], padding: list[int], dilation: list[int], groups: int, momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        y = conv(x, w, b, stride, padding, dilation, groups)
        return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)

    def replacement(
        x: Tensor, w: Tensor, b: Tensor | None,
        mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None,
        stride: list[int], padding: list[int], dilation: list[int], groups: int, momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        scale = scale_of(var, gamma, eps)
        weight = (w * scale.reshape([-1] + [1] * (rank + 1))).to(w.dtype)
        bias = shifted_bias(b, mean, scale, beta).to(w.dtype)
        return conv(x, weight, bias, stride, padding, dilation, groups)

    return _rule(pattern, replacement, f"conv{rank}d", rank)


def _transposed_rule(conv: Callable[..., Tensor], rank: int) -> Rule:
    """The weight is [in, out / groups, ...]; output channels run over groups first."""

    def pattern(
        x: Tensor, w: Const, b: Const | None,
        mean: Const, var: Const, gamma: Const | None, beta: Const | None,
        stride: list[int], padding: list[int], extra: list[int], groups: int, dilation: list[int],
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        y = conv(x, w, b, stride, padding, extra, groups, dilation)
        return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)

    def replacement(
        x: Tensor, w: Tensor, b: Tensor | None,
        mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None,
        stride: list[int], padding: list[int], extra: list[int], groups: int, dilation: list[int],
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        scale = scale_of(var, gamma, eps)
        grouped = w.reshape([groups, -1, *w.shape[1:]])
        weight = (grouped * scale.reshape([groups, 1, -1] + [1] * rank)).reshape(w.shape).to(w.dtype)
        bias = shifted_bias(b, mean, scale, beta).to(w.dtype)
        return conv(x, weight, bias, stride, padding, extra, groups, dilation)

    return _rule(pattern, replacement, f"conv_transpose{rank}d", rank)


@register_pass
class FuseConvBn(RewritePass):
    """batch_norm(conv(x, w, b))  ->  conv(x, w', b'), in 1, 2 and 3 dimensions, transposed and grouped too.

    Before: `%y = conv2d(%x, w, b)`, `%z = batch_norm(%y, gamma, beta, mean, var)`. After:
    `%z = conv2d(%x, w', b')` with `s = gamma / sqrt(var + eps)`, `w' = w * s` along the output channels and
    `b' = (b - mean) * s + beta`, computed in float64.

    The folded weights have the convolution's dtype. It does not fire if the convolution has another user or
    no batch axis, if the BatchNorm uses batch statistics, or if a weight is computed at run time. A weight
    that several convolutions share gets a copy for each.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _conv_rule(F.conv2d, 2),
        _conv_rule(F.conv1d, 1),
        _conv_rule(F.conv3d, 3),
        _transposed_rule(F.conv_transpose2d, 2),
        _transposed_rule(F.conv_transpose1d, 1),
        _transposed_rule(F.conv_transpose3d, 3),
    )
