"""Scatter along an axis: single elements, whole slices, and their reductions.

What `include_self=False` leaves out is first overwritten with the reduction's neutral element; a mean is a sum over a count.
"""

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.sizes import Size, same_size

__all__ = ["scattered"]

_REDUCTIONS = {
    "none": "none", "sum": "add", "add": "add", "mean": "add", "prod": "mul", "multiply": "mul", "amax": "max",
    "amin": "min",
}  # fmt: skip


@rule("aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter.value_reduce",
      "aten.scatter_add", "aten.scatter_reduce")  # fmt: skip
def scatter(b: Builder, c: Call) -> Value:
    """Where the source is larger than the index, its first elements count."""
    reduce = str(c.arguments.get("reduce") or ("add" if "scatter_add" in c.name else "none"))
    index, shape = c.tensor("index", torch.int64), tuple(c.fake("index").shape)
    if "src" in c.arguments:
        source = c.tensor("src", c.out.dtype)
        if not all(same_size(a, s) for a, s in zip(shape, c.fake("src").shape, strict=True)):
            rank = len(shape)
            source = b.op("Slice", source, b.ints([0] * rank), b.shape(shape), b.ints(list(range(rank))))
    else:
        source = b.expand(c.tensor("value", c.out.dtype), (), shape)
    x = c.x
    if c.rank == 0:
        x, index, source = (b.op("Reshape", v, b.ints([1])) for v in (x, index, source))
    result = _reduced(b, c, (x, index, source), reduce, axis=c.dim())
    return result if c.rank else b.squeeze(result, 0)


def _reduced(b: Builder, c: Call, inputs: tuple[Value, Value, Value], reduce: str, *, axis: int) -> Value:
    if reduce not in _REDUCTIONS:
        raise c.error(f"scatter with reduce={reduce!r}")
    x, index, source = inputs
    alone = c.arguments.get("include_self") is False
    if alone:
        start = b.op("Expand", b.like(_neutral(reduce, b.dtype(x)), x), b.op("Shape", index))
        x = b.op("ScatterElements", x, index, start, axis=axis)
    result = scattered(b, "ScatterElements", (x, index, source), _REDUCTIONS[reduce], axis=axis)
    if reduce != "mean":
        return result
    one = b.like(1, x)
    first = b.op("Expand", b.like(0 if alone else 1, x), b.op("Shape", x))
    ones = b.op("Expand", one, b.op("Shape", index))
    count = b.op("Max", scattered(b, "ScatterElements", (first, index, ones), "add", axis=axis), one)
    if is_float(b.dtype(x)):
        return b.op("Div", result, count)
    whole = b.op("Div", result, count)  # towards zero; torch rounds down
    over = b.op("Greater", b.op("Mul", whole, count), result)
    return b.op("Sub", whole, b.cast(over, b.dtype(x)))


def _neutral(reduce: str, dtype: torch.dtype) -> float:
    if reduce == "prod":
        return 1
    if reduce not in ("amax", "amin"):
        return 0
    if is_float(dtype):
        return float("-inf") if reduce == "amax" else float("inf")
    if dtype is torch.bool:
        return int(reduce == "amin")
    return torch.iinfo(dtype).min if reduce == "amax" else torch.iinfo(dtype).max


def scattered(
    b: Builder, op_type: str, inputs: tuple[Value, Value, Value], reduction: str, *, axis: int | None = None
) -> Value:
    """A scatter into the first input; half precision is added up in float32, for which onnxruntime has a kernel."""
    x, index, source = inputs
    dtype = b.dtype(x)
    if reduction != "none" and dtype is torch.float16:
        x, source = b.cast(x, torch.float32), b.cast(source, torch.float32)
    return b.cast(b.op(op_type, x, index, source, axis=axis, reduction=reduction), dtype)


@rule("aten.index_add", "aten.index_copy", "aten.index_fill", "aten.index_reduce")
def index_write(b: Builder, c: Call) -> Value:
    """Whole slices along an axis, their index repeated over the other axes."""
    axis, name, rank = c.dim(), c.name, max(c.rank, 1)
    shape: list[Size] = list(c.shape) if c.rank else [1]
    index_shape = tuple(c.fake("index").shape)
    shape[axis] = index_shape[0] if index_shape else 1
    column = [1] * rank
    column[axis] = -1
    index = b.op("Reshape", c.tensor("index", torch.int64), b.ints(column))
    ones: list[Size] = [1] * rank
    ones[axis] = shape[axis]
    index = b.expand(index, ones, shape)
    source = c.tensor("value" if "fill" in name else "source", c.out.dtype)
    if "fill" in name:
        source = b.expand(source, (), shape)
    x = c.x
    if c.rank == 0:
        x, source = (b.op("Reshape", v, b.ints([1])) for v in (x, source))
    if c.arguments.get("alpha", 1) != 1:
        source = b.op("Mul", source, b.operand(c["alpha"], c.out.dtype))
    reduce = {"index_add": "add", "index_reduce": str(c.arguments.get("reduce"))}.get(name, "none")
    result = _reduced(b, c, (x, index, source), reduce, axis=axis)
    return result if c.rank else b.squeeze(result, 0)
