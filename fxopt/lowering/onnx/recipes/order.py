"""Quantiles, medians without NaN, modes.

>>> quantile(torch.tensor([1.0, 2.0, 4.0]), 0.75).item()
3.0
"""

import math

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import RecipeError, recipe

__all__: list[str] = []


@recipe("aten.nanmean.default")
def nanmean(
    x: Tensor, dim: list[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    axes = dim or list(range(x.dim()))
    absent = torch.isnan(x)
    total = torch.where(absent, torch.zeros_like(x), x).sum(axes, keepdim)
    return total / absent.logical_not().to(x.dtype).sum(axes, keepdim)


def _last(x: Tensor, dim: int | None) -> Tensor:
    """The axis to work along as the last one; all elements where none is given."""
    if dim is None:
        return x.reshape(-1)
    return x.movedim(dim, -1) if x.dim() else x.reshape(1)


def _ordered(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending along the last axis with NaN as infinity, the order, and how many are no NaN."""
    absent = torch.isnan(x)
    values, order = torch.sort(torch.where(absent, torch.full_like(x, math.inf), x), -1)
    return values, order, absent.logical_not().to(torch.int64).sum(-1, True)


@recipe("aten.quantile.scalar", "aten.quantile.default")
def quantile(
    x: Tensor,
    q: Tensor | float,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    result = _quantile(x, q, dim, keepdim, interpolation)
    axes = list(range(x.dim())) if dim is None else [dim]
    nan = torch.isnan(x).to(x.dtype).sum(axes, keepdim) > 0
    return torch.where(nan, torch.full_like(result, math.nan), result)


@recipe("aten.nanquantile.scalar", "aten.nanquantile.default")
def nanquantile(
    x: Tensor,
    q: Tensor | float,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    return _quantile(x, q, dim, keepdim, interpolation)


def _quantile(x: Tensor, q: Tensor | float, dim: int | None, keepdim: bool, interpolation: str) -> Tensor:
    values, _, count = _ordered(_last(x, dim))
    several = isinstance(q, Tensor) and q.dim() == 1
    share = q if isinstance(q, Tensor) else torch.full((), q, dtype=x.dtype)
    rank = share.reshape(-1) * (count - 1).clamp(min=0).to(x.dtype)
    low = rank.floor()
    below = torch.gather(values, -1, low.to(torch.int64))
    above = torch.gather(values, -1, rank.ceil().to(torch.int64))
    weight = {
        "linear": rank - low,
        "midpoint": torch.where(rank == low, torch.zeros_like(rank), torch.full_like(rank, 0.5)),
        "lower": torch.zeros_like(rank),
        "higher": torch.ones_like(rank),
        "nearest": torch.round(rank) - low,
    }[interpolation]
    gap = torch.where(above == below, torch.zeros_like(above), above - below)
    result = torch.where(weight == 1, above, below + weight * gap)
    result = torch.where(count == 0, torch.full_like(result, math.nan), result)
    return _placed(result, x, dim, keepdim, several)


def _placed(result: Tensor, x: Tensor, dim: int | None, keepdim: bool, several: bool) -> Tensor:
    """From quantiles along the last axis to torch's order: quantiles first, the axis kept or dropped."""
    first = result.movedim(-1, 0)
    if keepdim and x.dim():
        first = first.reshape(-1, *[1] * x.dim()) if dim is None else first.unsqueeze(dim % x.dim() + 1)
    return first if several else first.squeeze(0)


@recipe("aten.nanmedian.dim")
def nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    if not x.dim():
        return x.clone(), torch.zeros((), dtype=torch.int64)
    values, order, count = _ordered(_last(x, dim))
    middle = torch.div(count - 1, 2, rounding_mode="trunc").clamp(min=0)
    chosen = torch.gather(values, -1, middle)
    chosen = torch.where(count == 0, torch.full_like(chosen, math.nan), chosen)
    places = torch.gather(order, -1, middle)
    return _back(chosen, dim, keepdim=keepdim), _back(places, dim, keepdim=keepdim)


def _back(x: Tensor, dim: int, *, keepdim: bool) -> Tensor:
    """A result along the last axis where the axis was, or without it."""
    return x.movedim(-1, dim) if keepdim else x.squeeze(-1)


@recipe("aten.nanmedian.default")
def nanmedian_of_all(x: Tensor) -> Tensor:
    return nanmedian(x.reshape(-1), 0)[0]


@recipe("aten.mode.default")
def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest of the most frequent values and its last place, from all pairs."""
    if x.dtype is torch.bool:
        raise RecipeError("the mode of booleans")
    if not x.dim():
        return x.clone(), torch.zeros((), dtype=torch.int64)
    row = _last(x, dim)
    same = row.unsqueeze(-1) == row.unsqueeze(-2)
    count = same.to(torch.int32).sum(-1)
    often = count == count.amax(-1, True)
    top = math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).max
    least = torch.where(often, row, torch.full_like(row, top)).amin(-1, True)
    places = torch.where(row == least, torch.arange(row.shape[-1]), -1)
    return _back(least, dim, keepdim=keepdim), _back(places.amax(-1, True), dim, keepdim=keepdim)


@recipe("aten.histc.default")
def histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each bin; its number is computed in the tensor's dtype, as torch does."""
    x = x.reshape(-1)
    low, high = torch.full_like(x[:1], min), torch.full_like(x[:1], max)
    if min == max:
        low, high = x.amin().reshape(1), x.amax().reshape(1)
        flat = low == high
        low, high = torch.where(flat, low - 1, low), torch.where(flat, high + 1, high)
    places = ((x - low) * bins / (high - low)).trunc().clamp(max=bins - 1)
    inside = (x >= low) & (x <= high)
    numbers = torch.arange(bins).to(x.dtype).unsqueeze(-1)
    return ((places == numbers) & inside).to(x.dtype).sum(-1)
