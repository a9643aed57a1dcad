"""Ops that may give any of several equal elements, as functions that take them in order of their index.

Which of two equal elements comes first in a sort is not defined, and kernels differ: a run under these functions is as right as
the op's own, and it is what runtimes that promise an order give.

>>> torch.ops.aten.topk.default in IN_ORDER
True
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["IN_ORDER"]

aten = torch.ops.aten


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(x, stable=True, dim=dim, descending=descending)
    return values, order


def _argsort(x: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    return _sort(x, dim, descending)[1]


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, ...]:
    return tuple(v.narrow(dim, 0, k) if x.dim() else v for v in _sort(x, dim, largest))


def _kth(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, ...]:
    if not x.dim():
        return _sort(x)
    chosen = (v.narrow(dim, k - 1, 1) for v in _sort(x, dim))
    return tuple(v if keepdim else v.squeeze(dim) for v in chosen)


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, ...]:
    """The lower middle one; a row with NaN has the first of them."""
    absent = torch.isnan(x)
    values, places = _kth(x, (x.shape[dim] + 1) // 2 if x.dim() else 1, dim, keepdim)
    first, any_absent = absent.int().argmax(dim, keepdim), absent.any(dim, keepdim)
    return torch.where(any_absent, torch.nan, values).to(x.dtype), torch.where(any_absent, first, places)


IN_ORDER: dict[object, Callable[..., object]] = {
    aten.sort.default: _sort,
    aten.argsort.default: _argsort,
    aten.topk.default: _topk,
    aten.kthvalue.default: _kth,
    aten.median.dim: _median,
}
