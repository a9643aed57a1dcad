"""Writes into parts of a tensor, and reductions by segments.

>>> diagonal_scatter(torch.zeros(2, 2), torch.ones(2)).tolist()
[[1.0, 0.0], [0.0, 1.0]]
"""

import math

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import RecipeError, recipe, sized

__all__: list[str] = []


def _numbered(x: Tensor) -> Tensor:
    """The places of a tensor's elements in row-major order, of its shape."""
    shape = [sized(x, d) for d in range(x.dim())]
    return torch.arange(math.prod(shape)).reshape(shape)


def _written(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The tensor with values at places, i64 of the values' shape, in row-major order."""
    return x.reshape(-1).scatter(0, places.reshape(-1), values.reshape(-1)).reshape(x.shape)


@recipe("aten.put.default")
def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = torch.index_put(x.reshape(-1), (index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


@recipe("aten.diagonal_scatter.default")
def diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    return _written(x, _numbered(x).diagonal(offset, dim1, dim2), source)


@recipe("aten.as_strided_scatter.default")
def as_strided_scatter(
    x: Tensor, source: Tensor, size: list[int], stride: list[int], storage_offset: int | None = None
) -> Tensor:
    if not x.is_contiguous():
        raise RecipeError("strides of a tensor that is not contiguous")
    places = torch.full([1] * len(size), storage_offset or 0, dtype=torch.int64)
    for axis, (count, step) in enumerate(zip(size, stride, strict=True)):
        shape = [-1 if d == axis else 1 for d in range(len(size))]
        places = places + (torch.arange(count) * step).reshape(shape)
    return _written(x, places, source)


@recipe("aten.resize.default")
def resize(x: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None) -> Tensor:
    """The first elements in another shape; more than there are would be memory that nothing has written."""
    wanted = math.prod(size)
    if wanted > math.prod(sized(x, d) for d in range(x.dim())):
        raise RecipeError("the new shape has more elements")
    return x.reshape(-1)[:wanted].reshape(size)


@recipe("aten.resize_as.default")
def resize_as(x: Tensor, like: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    return resize(x, list(like.shape))


_NEUTRAL = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf}


@recipe("aten.segment_reduce.default")
def segment_reduce(
    x: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor:
    """Segment by segment along axis 0, by a mask of segments and rows."""
    if lengths is not None:
        ends = lengths.cumsum(-1)
        starts = ends - lengths
    elif offsets is not None:
        starts, ends = offsets[..., :-1], offsets[..., 1:]
    else:
        raise RecipeError("segments by indices")
    if starts.dim() != 1 or axis:
        raise RecipeError("segments by row")
    rows = torch.arange(x.shape[0])
    inside = (rows >= starts.unsqueeze(-1)) & (rows < ends.unsqueeze(-1))
    mask = inside.reshape(*inside.shape, *[1] * (x.dim() - 1))
    neutral = _NEUTRAL[reduce]
    masked = torch.where(mask, x.unsqueeze(0), torch.full((), neutral, dtype=x.dtype))
    if reduce in ("max", "min"):
        result = masked.amax(1) if reduce == "max" else masked.amin(1)
        if initial is None:
            return result
        return result.clamp(min=initial) if reduce == "max" else result.clamp(max=initial)
    if reduce == "prod":
        return masked.prod(1) * (1 if initial is None else initial)
    total = masked.sum(1) + (0 if initial is None else initial)
    if reduce == "sum":
        return total
    count = mask.to(x.dtype).sum(1)
    empty = torch.full_like(total, math.nan if initial is None else initial)
    return torch.where(count == 0, empty, total / count)
