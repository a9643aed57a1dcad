"""New tensors: constants of a fixed or computed shape, ranges, identity matrices.

A call whose result depends on nothing (`arange(12)`) is computed while lowering and stored, if it is small.
"""

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value

__all__: list[str] = []

_SMALL = 4096
"""Elements up to which a constant is stored instead of computed when the file runs."""


def _filled(b: Builder, c: Call, value: object) -> Value:
    """One number everywhere, in the shape and dtype of the call's result."""
    shape, dtype = tuple(c.out.shape), c.out.dtype
    if isinstance(value, (bool, int, float)):
        if all(isinstance(s, int) for s in shape) and c.out.numel() <= _SMALL:
            return b.constant(torch.full([int(s) for s in shape], value, dtype=dtype), dtype)
        if dtype is torch.bfloat16:
            return b.cast(_of_shape(b, c, value, torch.float32), dtype)
        return _of_shape(b, c, value, dtype)
    number = b.operand(value, dtype)
    return b.expand(number, (), shape)


def _of_shape(b: Builder, c: Call, value: object, dtype: torch.dtype) -> Value:
    number = torch.tensor([value], dtype=dtype)
    return b.op("ConstantOfShape", b.shape(tuple(c.out.shape)), value=number, dtype=dtype)


@rule("aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.empty", "aten.empty_like", "aten.new_empty",
      "aten.empty_permuted", "aten.empty_strided")  # fmt: skip
def zeros(b: Builder, c: Call) -> Value:
    """Uninitialised memory is zeros as well."""
    return _filled(b, c, 0)


@rule("aten.ones", "aten.ones_like", "aten.new_ones")
def ones(b: Builder, c: Call) -> Value:
    return _filled(b, c, 1)


@rule("aten.full", "aten.full_like", "aten.new_full", "aten.fill", "aten.scalar_tensor")
def full(b: Builder, c: Call) -> Value:
    name = next(n for n in ("fill_value", "value", "s") if n in c.arguments)
    return _filled(b, c, c[name])


@rule("aten.arange")
def arange(b: Builder, c: Call) -> Value:
    start, end = c.arguments.get("start", 0), c["end"]
    step = c.arguments.get("step", 1)
    dtype = c.out.dtype
    numbers = [v for v in (start, end, step) if isinstance(v, (int, float))]
    if len(numbers) == 3 and c.out.numel() <= _SMALL:
        return b.constant(torch.arange(*numbers, dtype=dtype), dtype)
    if all(_whole(v) for v in (start, end, step)):
        counting = dtype if dtype in (torch.float64, torch.int64) or not is_float(dtype) else torch.float32
        return b.cast(b.op("Range", *(b.operand(v, counting) for v in (start, end, step))), dtype)
    # By the number of steps: a sum of float steps may miss the end by one.
    steps = b.cast(b.places(c.out.shape[0]), torch.float64)
    first, each = (b.operand(v, torch.float64) for v in (start, step))
    return b.cast(b.op("Add", first, b.op("Mul", steps, each)), dtype)


def _whole(number: object) -> bool:
    """Whether a literal or computed number is an integer."""
    return isinstance(number.meta["val"] if isinstance(number, Node) else number, (int, torch.SymInt))


@rule("aten.linspace.default")
def linspace(b: Builder, c: Call) -> Value:
    start, end = c.number("start"), c.number("end")
    return b.constant(torch.linspace(start, end, c.integer("steps"), dtype=c.out.dtype), c.out.dtype)


@rule("aten.eye")
def eye(b: Builder, c: Call) -> Value:
    rows, columns = c.out.shape
    if isinstance(rows, int) and isinstance(columns, int) and rows * columns <= _SMALL:
        return b.constant(torch.eye(rows, columns), c.out.dtype)
    across, down = b.places(columns), b.places(rows)
    return b.cast(b.op("Equal", b.unsqueeze(down, 1), b.unsqueeze(across, 0)), c.out.dtype)


@rule("aten.tril_indices", "aten.triu_indices")
def triangle_indices(b: Builder, c: Call) -> Value:
    make = torch.tril_indices if "tril" in c.name else torch.triu_indices
    return b.constant(make(*(c.integer(n) for n in ("row", "col", "offset"))), c.out.dtype)


@rule("aten.diagonal", "aten.diagonal_copy")
def diagonal(b: Builder, c: Call) -> Value:
    """Flattens the two axes and takes every (columns + 1)-th element."""
    first, second, offset = c.dim("dim1"), c.dim("dim2"), c.integer("offset")
    rest = [d for d in range(c.rank) if d not in (first, second)]
    x = b.transpose(c.x, [*rest, first, second])
    rows, columns = c.shape[first], c.shape[second]
    count = c.out.shape[-1]
    flat = b.reshape(x, (), [*(c.shape[d] for d in rest), rows * columns])
    start = offset if offset >= 0 else -offset * columns
    if isinstance(columns, int) and isinstance(start, int) and isinstance(count, int):
        return b.op("Gather", flat, b.ints([start + i * (columns + 1) for i in range(count)]), axis=-1)
    steps = b.op("Mul", b.places(count), b.size(columns + 1))
    return b.op("Gather", flat, b.op("Add", steps, b.size(start)), axis=-1)


@rule("aten.trace")
def trace(b: Builder, c: Call) -> Value:
    return b.op("ReduceSum", b.cast(diagonal_of_square(b, c), c.out.dtype), keepdims=0)


def diagonal_of_square(b: Builder, c: Call) -> Value:
    """The matrix with all but its diagonal zero."""
    return b.op(
        "Trilu", b.op("Trilu", c.x, b.constant(0, torch.int64), upper=1), b.constant(0, torch.int64), upper=0
    )


@rule("aten.bucketize.Tensor", "aten.searchsorted.Tensor")
def bucketize(b: Builder, c: Call) -> Value:
    """How many boundaries lie below."""
    name = "boundaries" if "boundaries" in c.arguments else "sorted_sequence"
    if c.has("sorter"):
        raise c.error("boundaries that a sorter orders")
    right = c.flag("right") or c.arguments.get("side") == "right"
    dtype = torch.promote_types(c.fake("self").dtype, c.fake(name).dtype)
    x, boundaries = b.unsqueeze(c.tensor("self", dtype), c.fake("self").dim()), c.tensor(name, dtype)
    if c.fake(name).dim() > 1:
        boundaries = b.unsqueeze(boundaries, c.fake(name).dim() - 1)
    below = b.op("LessOrEqual" if right else "Less", boundaries, x)
    return b.op("ReduceSum", b.cast(below, c.out.dtype), b.ints([-1]), keepdims=0)
