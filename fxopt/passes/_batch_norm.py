"""Eval BatchNorm as a scale and a shift a channel, for the passes that fold it into what stands before it."""

import torch

__all__ = ["scale_of", "shifted_bias"]


def scale_of(var: torch.Tensor, gamma: torch.Tensor | None, eps: float) -> torch.Tensor:
    """What each channel is multiplied by: `gamma / sqrt(var + eps)`, [C]."""
    inverse = torch.rsqrt(var + eps)
    return inverse if gamma is None else gamma * inverse


def shifted_bias(
    bias: torch.Tensor | None, mean: torch.Tensor, scale: torch.Tensor, beta: torch.Tensor | None
) -> torch.Tensor:
    """The bias after the norm, `(bias - mean) * scale + beta`, [C]."""
    shifted = -mean if bias is None else bias - mean
    return shifted * scale if beta is None else shifted * scale + beta
