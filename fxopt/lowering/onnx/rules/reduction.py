"""Reductions, running sums, order statistics."""

import math

import torch

from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.sizes import broadcast
from fxopt.ops.sizes import Size, product

__all__: list[str] = []


def _reduce(b: Builder, c: Call, op_type: str, x: Value, *, name: str = "dim") -> Value:
    """A reduction over the call's dimensions, all by default; a tensor without dimensions stays as it is."""
    axes = c.dims(name) if name in c.arguments else list(range(c.rank))
    keep = int(c.flag("keepdim"))
    if c.rank == 0:
        x = b.unsqueeze(x, 0)
        axes, keep = [0], 0
    if len(axes) == max(c.rank, 1):
        return b.op(op_type, x, keepdims=keep)
    return b.op(op_type, x, b.ints(axes), keepdims=keep)


@rule("aten.sum", "aten.nansum")
def sum_(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    if "nansum" in c.name and is_float(c.out.dtype):
        x = b.op("Where", b.op("IsNaN", x), b.like(0, x), x)
    return _reduce(b, c, "ReduceSum", x)


@rule("aten.mean")
def mean(b: Builder, c: Call) -> Value:
    return _reduce(b, c, "ReduceMean", c.tensor(dtype=c.out.dtype))


@rule("aten.prod")
def prod(b: Builder, c: Call) -> Value:
    return _reduce(b, c, "ReduceProd", c.tensor(dtype=c.out.dtype))


@rule("aten.amax", "aten.amin", "aten.max.default", "aten.min.default")
def extreme(b: Builder, c: Call) -> Value:
    return _reduce(b, c, "ReduceMax" if "max" in c.name else "ReduceMin", c.x)


@rule("aten.aminmax")
def aminmax(b: Builder, c: Call) -> tuple[Value, ...]:
    return _reduce(b, c, "ReduceMin", c.x), _reduce(b, c, "ReduceMax", c.x)


@rule("aten.max.dim", "aten.min.dim")
def extreme_along(b: Builder, c: Call) -> tuple[Value, ...]:
    high = "max" in c.name
    if c.rank == 0:
        return c.x, b.constant(0, torch.int64)
    values = _reduce(b, c, "ReduceMax" if high else "ReduceMin", c.x)
    return values, b.op("ArgMax" if high else "ArgMin", c.x, axis=c.dim(), keepdims=int(c.flag("keepdim")))


@rule("aten.argmax", "aten.argmin")
def arg_extreme(b: Builder, c: Call) -> Value:
    op_type = "ArgMax" if "argmax" in c.name else "ArgMin"
    if c.has("dim") and c.rank:
        return b.op(op_type, c.x, axis=c.dim(), keepdims=int(c.flag("keepdim")))
    flat = b.op(op_type, b.op("Reshape", c.x, b.ints([-1])), axis=0, keepdims=0)
    return b.reshape(flat, (), tuple(c.out.shape)) if c.out.dim() else flat


@rule("aten.all", "aten.any")
def all_any(b: Builder, c: Call) -> Value:
    op_type = "ReduceMin" if "all" in c.name else "ReduceMax"
    return b.cast(_reduce(b, c, op_type, b.cast(c.tensor(dtype=torch.bool), torch.int32)), c.out.dtype)


@rule("aten.logsumexp", "aten.special_logsumexp")
def logsumexp(b: Builder, c: Call) -> Value:
    return _reduce(b, c, "ReduceLogSumExp", c.tensor(dtype=c.out.dtype))


@rule("aten.var", "aten.std")
def variance(b: Builder, c: Call) -> Value:
    return _spread(b, c, "std" in c.name)[0]


@rule("aten.var_mean", "aten.std_mean")
def variance_and_mean(b: Builder, c: Call) -> tuple[Value, ...]:
    result, mean = _spread(b, c, "std" in c.name)
    return result, mean


def _spread(b: Builder, c: Call, root: bool) -> tuple[Value, Value]:
    x, axes = c.x, c.dims()
    vector = b.ints(axes)
    keep = int(c.flag("keepdim"))
    center = b.op("ReduceMean", x, vector, keepdims=1)
    gap = b.op("Sub", x, center)
    square = b.op("Mul", gap, gap)
    correction = c["correction"] if "correction" in c.arguments else int(c.flag("unbiased"))
    correction = 1 if correction is None else correction
    if correction == 0:
        result = b.op("ReduceMean", square, vector, keepdims=keep)
    else:
        count = _count(b, c, [c.shape[d] for d in axes], float(str(correction)))
        result = b.op("Div", b.op("ReduceSum", square, vector, keepdims=keep), count)
    mean = center if keep else b.op("Squeeze", center, vector)
    return (b.op("Sqrt", result) if root else result), mean


def _count(b: Builder, c: Call, sizes: list[Size], correction: float) -> Value:
    """How many elements are averaged, less the correction, at least 0."""
    number, dtype = product(sizes), c.out.dtype
    if isinstance(number, int):
        return b.constant(max(number - correction, 0.0), dtype)
    count = b.op("Sub", b.cast(b.scalar(number), dtype), b.constant(correction, dtype))
    return b.op("Max", count, b.constant(0.0, dtype))


@rule("aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm")
def norm(b: Builder, c: Call) -> Value:
    order = c["ord"] if "ord" in c.arguments else c.arguments.get("p", 2)
    order = 2.0 if order is None else float(str(order))
    x = c.tensor(dtype=c.out.dtype)
    if order == 2:
        return _reduce(b, c, "ReduceL2", x)
    if order == 1:
        return _reduce(b, c, "ReduceL1", x)
    size = b.op("Abs", x)
    if math.isinf(order):
        return _reduce(b, c, "ReduceMax" if order > 0 else "ReduceMin", size)
    if order == 0:
        return _reduce(b, c, "ReduceSum", b.cast(b.cast(x, torch.bool), c.out.dtype))
    total = _reduce(b, c, "ReduceSum", b.op("Pow", size, b.like(order, x)))
    return b.op("Pow", total, b.like(1 / order, x))


@rule("aten.cumsum")
def cumsum(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return x if c.rank == 0 else b.op("CumSum", x, b.constant(c.dim(), torch.int64))


@rule("aten.cumprod")
def cumprod(b: Builder, c: Call) -> Value:
    """The products of all prefixes, taken from a square of prefixes: ONNX has no running product."""
    axis, size, x = c.dim(), c.shape[c.dim()], c.tensor(dtype=c.out.dtype)
    prefixes = b.op("Where", _prefixes(b, size, c.rank - axis - 1), b.unsqueeze(x, axis), b.like(1, x))
    return b.op("ReduceProd", prefixes, b.ints([axis + 1]), keepdims=0)


def _prefixes(b: Builder, size: Size, after: int) -> Value:
    """Which elements each prefix has, bool[size, size], and axes of size 1 after these."""
    if isinstance(size, int):
        mask = torch.ones(size, size, dtype=torch.bool).tril()
        return b.constant(mask.reshape(size, size, *[1] * after), torch.bool)
    places = b.places(size)
    inside = b.op("LessOrEqual", b.unsqueeze(places, 0), b.unsqueeze(places, 1))
    return b.unsqueeze(inside, *range(2, 2 + after))


@rule("aten.diff")
def diff(b: Builder, c: Call) -> Value:
    """Differences of neighbours, after joining what is given to put before and behind."""
    axis, times = c.dim(), c.integer("n")
    names = ("prepend", "self", "append") if times else ("self",)
    parts = [c.tensor(n, c.out.dtype) for n in names if c.has(n)]
    x = b.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]
    end = torch.iinfo(torch.int64).max
    for _ in range(times):
        later, earlier = b.slice(x, axis, 1, end), b.slice(x, axis, 0, -1)
        x = b.op("Xor", later, earlier) if c.out.dtype is torch.bool else b.op("Sub", later, earlier)
    return x


@rule("aten.topk")
def topk(b: Builder, c: Call) -> Result:
    return _top(b, c, b.size(c.out.shape[c.dim()]) if c.rank else "", largest=c.flag("largest"))


@rule("aten.sort")
def sort(b: Builder, c: Call) -> Result:
    return _top(b, c, b.size(c.shape[c.dim()]) if c.rank else "", largest=c.flag("descending"))


@rule("aten.argsort")
def argsort(b: Builder, c: Call) -> Value:
    return _top(b, c, b.size(c.shape[c.dim()]) if c.rank else "", largest=c.flag("descending"))[1]


def _top(b: Builder, c: Call, k: Value, *, largest: bool) -> tuple[Value, ...]:
    if c.rank == 0:
        return c.x, b.constant(0, torch.int64)
    return b.ops("TopK", c.x, k, outputs=2, axis=c.dim(), largest=int(largest), sorted=1)


@rule("aten.median.default")
def median(b: Builder, c: Call) -> Value:
    """The lower middle one of all elements."""
    size = c.fake().numel()
    flat = b.op("Reshape", c.x, b.ints([-1]))
    smallest = b.ops("TopK", flat, b.size((size + 1) // 2), outputs=2, axis=0, largest=0, sorted=1)[0]
    return b.op("Gather", smallest, b.constant(-1, torch.int64), axis=0)


@rule("aten.cummax", "aten.cummin")
def running_extreme(b: Builder, c: Call) -> tuple[Value, ...]:
    """The largest of every prefix and where it stands, the last of equals, from a square of prefixes."""
    if c.rank == 0:
        return c.x, b.constant(0, torch.int64)
    axis, size = c.dim(), c.shape[c.dim()]
    if c.out.dtype is torch.bool:
        raise c.error("a running extreme of truth values")
    high = "max" in c.name
    floor = torch.finfo(c.out.dtype) if is_float(c.out.dtype) else torch.iinfo(c.out.dtype)
    outside = b.like(floor.min if high else floor.max, c.x)
    square = b.op("Where", _prefixes(b, size, c.rank - axis - 1), b.unsqueeze(c.x, axis), outside)
    values = b.op("ReduceMax" if high else "ReduceMin", square, b.ints([axis + 1]), keepdims=0)
    places = b.op("ArgMax" if high else "ArgMin", square, axis=axis + 1, keepdims=0, select_last_index=1)
    return values, places


@rule("aten.median.dim", "aten.kthvalue")
def kth(b: Builder, c: Call) -> tuple[Value, ...]:
    """The k-th smallest along an axis; the median is the lower middle one."""
    if c.rank == 0:
        return c.x, b.constant(0, torch.int64)
    axis, size = c.dim(), c.shape[c.dim()]
    k = c.integer("k") if "k" in c.arguments else (size + 1) // 2
    values, indices = b.ops("TopK", c.x, b.size(k), outputs=2, axis=axis, largest=0, sorted=1)
    last = b.constant(-1, torch.int64)
    keep = c.flag("keepdim")
    chosen = (b.op("Gather", v, last, axis=axis) for v in (values, indices))
    return tuple(b.unsqueeze(v, axis) if keep else v for v in chosen)


@rule("aten.cosine_similarity")
def cosine_similarity(b: Builder, c: Call) -> Value:
    """x·y / (max(|x|, eps) max(|y|, eps)), as torch bounds each norm."""
    x, y = c.promoted("x1", "x2", dtype=c.out.dtype)
    shape = broadcast(c.shape_of("x1"), c.shape_of("x2"))
    if not shape:
        raise c.error("tensors without dimensions")
    x, y = b.expand(x, c.shape_of("x1"), shape), b.expand(y, c.shape_of("x2"), shape)
    axes = b.ints([c.dim(rank=len(shape))])
    eps = b.like(float(c.number("eps")), x)
    norms = [b.op("Max", b.op("ReduceL2", v, axes, keepdims=1), eps) for v in (x, y)]
    parts = b.op("Mul", b.op("Div", x, norms[0]), b.op("Div", y, norms[1]))
    return b.op("ReduceSum", parts, axes, keepdims=0)


@rule("aten.pairwise_distance")
def pairwise_distance(b: Builder, c: Call) -> Value:
    x, y = c.promoted("x1", "x2", dtype=c.out.dtype)
    gap = b.op("Add", b.op("Sub", x, y), b.like(float(c.number("eps")), x))
    return _length(b, gap, float(c.number("p")), keep=c.flag("keepdim"))


@rule("aten.cdist", "aten._cdist_forward")
def cdist(b: Builder, c: Call) -> Value:
    """All pairs' differences, then their lengths."""
    x, y = (c.tensor(n) for n in ("x1", "x2"))
    rank = c.fake("x1").dim()
    gap = b.op("Sub", b.unsqueeze(x, rank - 1), b.unsqueeze(y, c.fake("x2").dim() - 2))
    return _length(b, gap, float(c.number("p")), keep=False)


def _length(b: Builder, x: Value, p: float, *, keep: bool) -> Value:
    """The p-norm along the last axis."""
    axes, keepdims = b.ints([-1]), int(keep)
    if p in (1.0, 2.0):
        return b.op("ReduceL2" if p == 2 else "ReduceL1", x, axes, keepdims=keepdims)
    if math.isinf(p):
        return b.op("ReduceMax", b.op("Abs", x), axes, keepdims=keepdims)
    if p == 0:
        return b.op("ReduceSum", b.cast(b.cast(x, torch.bool), b.dtype(x)), axes, keepdims=keepdims)
    total = b.op("ReduceSum", b.op("Pow", b.op("Abs", x), b.like(p, x)), axes, keepdims=keepdims)
    return b.op("Pow", total, b.like(1 / p, x))
