"""Rounding of a layer's weights one input after the other, each making up for what those before are off by.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
arXiv:2210.17323, algorithm 1; with the order by activation of its published code.
"""

from dataclasses import dataclass

import torch

__all__ = ["Steps", "round_optimally"]

_BLOCK = 128
"""Columns that are done before the rest of the matrix is told."""


@dataclass(frozen=True)
class Steps:
    """What weights may be: `(q - zero_point) * scale`, for integers q of low to high.

    Attributes:
        scale: float64[out, in].
        zero_point: float64[out, in].
        low: the lowest integer.
        high: the highest.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int

    def nearest(self, weights: torch.Tensor, columns: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """The nearest such values, for some columns."""
        scale, zero_point = self.scale[:, columns], self.zero_point[:, columns]
        q = (torch.round(weights / scale) + zero_point).clamp(self.low, self.high)
        return (q - zero_point) * scale


def round_optimally(
    weights: torch.Tensor, second_moments: torch.Tensor, steps: Steps, *, damping: float, by_activation: bool
) -> torch.Tensor:
    """Weights rounded such that the layer's results are off by little; no row by more than with the nearest values.

    Args:
        weights: float64[out, in].
        second_moments: of what the layer reads, the mean or sum of `x x^T`, float64[in, in].
        steps: what weights may be.
        damping: added to the diagonal, as a share of its mean.
        by_activation: inputs of the largest mean square come first, else in order.

    Returns:
        float64[out, in]; the nearest values where nothing but zeros was read.
    """
    nearest = steps.nearest(weights)
    diagonal = second_moments.diagonal()
    if not float(diagonal.mean()) > 0:
        return nearest
    order = diagonal.argsort(descending=True, stable=True) if by_activation else torch.arange(len(diagonal))
    damped = second_moments + damping * diagonal.mean() * torch.eye(len(diagonal), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    rounded = _rounded(weights[:, order].clone(), factor, steps, order)[:, order.argsort()]
    worse = _errors(weights - rounded, second_moments) > _errors(weights - nearest, second_moments)
    return torch.where(worse[:, None], nearest, rounded)


def _rounded(weights: torch.Tensor, factor: torch.Tensor, steps: Steps, order: torch.Tensor) -> torch.Tensor:
    """Column by column; `weights`, in that order, are written over."""
    columns = weights.shape[1]
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = torch.empty(weights.shape[0], end - start, dtype=torch.float64)
        for i in range(start, end):
            value = steps.nearest(weights[:, i : i + 1], order[i : i + 1])
            error = (weights[:, i : i + 1] - value) / factor[i, i]
            weights[:, i + 1 : end] -= error * factor[i, i + 1 : end]
            weights[:, i : i + 1] = value
            errors[:, i - start : i - start + 1] = error
        weights[:, end:] -= errors @ factor[start:end, end:]
    return weights


def _errors(off: torch.Tensor, second_moments: torch.Tensor) -> torch.Tensor:
    """The squared error of each result."""
    return ((off @ second_moments) * off).sum(1)
