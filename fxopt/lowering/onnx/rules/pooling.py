"""Pooling, adaptive pooling, and what moves blocks between space and channels."""

import math
from collections.abc import Callable, Sequence

import torch

from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.lower import lower_by_parts
from fxopt.ops.sizes import Size, is_one

__all__: list[str] = []


def _spread(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * (rank if len(values) == 1 else 1)


def _batched(b: Builder, c: Call, spatial: int, lower: Callable[[Value], Value]) -> Value:
    """Torch takes a single example without batch; ONNX does not."""
    if c.rank == spatial + 2:
        return lower(c.x)
    return b.squeeze(lower(b.unsqueeze(c.x, 0)), 0)


def _overhang(
    c: Call, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> list[Size]:
    """What ceil_mode lets the last window reach beyond the padding, by axis.

    ONNX's own ceil_mode counts windows that start in the end padding, torch's doesn't; with explicit sizes
    there is no such difference.
    """
    extra: list[Size] = []
    rank = len(kernel)
    for i, size in enumerate(c.out.shape[-rank:]):
        reach = (size - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        missing = reach - c.shape[c.rank - rank + i] - 2 * padding[i]
        extra.append(max(missing, 0) if isinstance(missing, int) else torch.sym_max(missing, 0))
    return extra


def _fixed(*sizes: Size) -> bool:
    return all(isinstance(s, int) for s in sizes)


def _pools(c: Call) -> bool:
    """Whether onnxruntime's MaxPool takes the dtype."""
    return is_float(c.out.dtype) or c.out.dtype in (torch.int8, torch.uint8)


def _pool_window(c: Call, spatial: int) -> tuple[list[int], list[int], list[int], list[int]]:
    kernel = _spread(c.integers("kernel_size"), spatial)
    stride = _spread(c.integers("stride"), spatial) or kernel
    padding = _spread(c.integers("padding"), spatial)
    dilation = _spread(c.integers("dilation"), spatial) if "dilation" in c.arguments else [1] * spatial
    return kernel, stride, padding, dilation


def _max_pool(spatial: int) -> None:
    @rule(f"aten.max_pool{spatial}d")
    def lower(b: Builder, c: Call) -> Result:
        if not _pools(c):
            return lower_by_parts(b, c.node)
        return _batched(b, c, spatial, lambda x: _max(b, c, spatial, x, 1)[0])

    @rule(f"aten.max_pool{spatial}d_with_indices")
    def lower_with_indices(b: Builder, c: Call) -> Result:
        varies = c.flag("ceil_mode") and not _fixed(*c.shape[c.rank - spatial :])
        if not _pools(c) or (varies and _reads_second(c)):
            return lower_by_parts(b, c.node)
        if not _reads_second(c):
            return (_batched(b, c, spatial, lambda x: _max(b, c, spatial, x, 1)[0]), "")
        single = c.rank != spatial + 2
        values, indices = _max(b, c, spatial, b.unsqueeze(c.x, 0) if single else c.x, 2)
        # ONNX counts from the start of the tensor, torch from that of the channel.
        area = b.op("ReduceProd", b.op("Shape", c.x, start=c.rank - spatial), b.ints([0]), keepdims=1)
        indices = b.op("Mod", indices, area)
        return (b.squeeze(values, 0), b.squeeze(indices, 0)) if single else (values, indices)


def _reads_second(c: Call) -> bool:
    """Whether anything reads the indices, the second result."""
    return any(user.args[1] == 1 and user.users for user in c.node.users)


def _max(b: Builder, c: Call, spatial: int, x: Value, outputs: int) -> tuple[Value, ...]:
    kernel, stride, padding, dilation = _pool_window(c, spatial)
    extra: list[Size] = [0] * spatial
    if c.flag("ceil_mode"):
        extra = _overhang(c, kernel, stride, padding, dilation)
    ends = [p + e for p, e in zip(padding, extra, strict=True)]
    if not _fixed(*ends):
        x = _padded(b, x, padding, ends, b.like(-math.inf, x))
        padding, ends = [0] * spatial, [0] * spatial
    return b.ops(
        "MaxPool",
        x,
        outputs=outputs,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *map(int, ends)],
        dilations=dilation,
    )


def _avg_pool(spatial: int) -> None:
    @rule(f"aten.avg_pool{spatial}d")
    def lower(b: Builder, c: Call) -> Result:
        if not is_float(c.out.dtype):
            return lower_by_parts(b, c.node)
        return _batched(b, c, spatial, lambda x: _average(b, c, spatial, x))


def _average(b: Builder, c: Call, spatial: int, x: Value) -> Value:
    kernel, stride, padding, dilation = _pool_window(c, spatial)
    extra: list[Size] = [0] * spatial
    if c.flag("ceil_mode"):
        extra = _overhang(c, kernel, stride, padding, dilation)
    counted = c.flag("count_include_pad") and any(padding)
    divisor = c.arguments.get("divisor_override")
    ends = [p + e for p, e in zip(padding, extra, strict=True)]
    if divisor is not None:
        result = _averages(b, _padded(b, x, padding, ends), kernel, stride)
        return b.op("Mul", result, b.like(math.prod(kernel) / c.integer("divisor_override"), result))
    if not _fixed(*extra):
        return _shared(b, c, x, (padding, ends), counted)
    if any(extra) and counted:
        # Padding that counts is made real; what ceil_mode adds never counts.
        return _averages(b, _padded(b, x, padding, padding), kernel, stride, ends=extra)
    return _averages(b, x, kernel, stride, before=padding, ends=ends, counted=counted)


def _averages(
    b: Builder, x: Value, kernel: list[int], stride: list[int], *,
    before: Sequence[Size] = (), ends: Sequence[Size] = (), counted: bool = False,
) -> Value:  # fmt: skip
    none = [0] * len(kernel)
    pads = [int(n) for n in (*(before or none), *(ends or none))]
    return b.op(
        "AveragePool", x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=int(counted)
    )


def _shared(b: Builder, c: Call, x: Value, pads: tuple[list[int], list[Size]], counted: bool) -> Value:
    """The average over all of each window, by the share of it that counts; for padding that varies."""
    padding, ends = pads
    spatial = len(padding)
    kernel, stride, *_ = _pool_window(c, spatial)
    inner, before, after = list(c.shape[c.rank - spatial :]), list(padding), ends
    if counted:
        inner = [n + 2 * p for n, p in zip(inner, padding, strict=True)]
        before, after = [0] * spatial, [e - p for e, p in zip(ends, padding, strict=True)]
    ones = b.expand(b.constant(torch.ones([1] * (spatial + 2)), b.dtype(x)), (), [1, 1, *inner])
    values = (_padded(b, x, padding, ends), _padded(b, ones, before, after))
    return b.op("Div", *(_averages(b, v, kernel, stride) for v in values))


def _padded(b: Builder, x: Value, before: Sequence[Size], after: Sequence[Size], fill: Value = "") -> Value:
    """With zeros, or another number, around the image."""
    if _fixed(*before, *after) and not any([*before, *after]):
        return x
    return b.op("Pad", x, b.shape([0, 0, *before, 0, 0, *after]), fill)


def _adaptive(spatial: int) -> None:
    @rule(f"aten.adaptive_avg_pool{spatial}d")
    def lower_average(b: Builder, c: Call) -> Result:
        if _varies(c, spatial):
            return lower_by_parts(b, c.node)
        return _batched(b, c, spatial, lambda x: _adaptive_average(b, c, spatial, x))

    @rule(f"aten.adaptive_max_pool{spatial}d")
    def lower_max(b: Builder, c: Call) -> Result:
        if _reads_second(c) or _varies(c, spatial):
            return lower_by_parts(b, c.node)
        return _batched(b, c, spatial, lambda x: _adaptive_max(b, c, spatial, x)), ""


def _varies(c: Call, spatial: int) -> bool:
    """Whether windows depend on sizes that vary."""
    shape = c.outs[0].shape if isinstance(c.node.meta["val"], (tuple, list)) else c.out.shape
    after = shape[-spatial:]
    return not all(is_one(n) for n in after) and not _fixed(*c.shape[c.rank - spatial :], *after)


def _adaptive_average(b: Builder, c: Call, spatial: int, x: Value) -> Value:
    before, after = c.shape[c.rank - spatial :], c.out.shape[-spatial:]
    if all(is_one(a) for a in after):
        return b.op("GlobalAveragePool", x)
    if all(_divides(n, m) for n, m in zip(before, after, strict=True)):
        kernel = [int(n) // int(m) for n, m in zip(before, after, strict=True)]
        return b.op("AveragePool", x, kernel_shape=kernel, strides=kernel)
    for axis, (n, m) in enumerate(zip(before, after, strict=True)):
        x = _shares(b, x, n, m, spatial - axis)
    return x


def _divides(before: Size, after: Size) -> bool:
    return isinstance(before, int) and isinstance(after, int) and before % after == 0


def _bounds(before: Size, after: Size) -> list[tuple[int, int]]:
    """Torch's windows of adaptive pooling along an axis."""
    n, m = int(before), int(after)
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _shares(b: Builder, x: Value, before: Size, after: Size, from_end: int) -> Value:
    """Averages along one axis as a product with a fixed matrix, for windows of unequal length."""
    bounds = _bounds(before, after)
    matrix = torch.zeros(len(bounds), int(before), dtype=torch.float64)
    for row, (start, end) in enumerate(bounds):
        matrix[row, start:end] = 1 / (end - start)
    if from_end == 1:
        return b.op("MatMul", x, b.constant(matrix.t(), b.dtype(x)))
    if from_end == 2:
        return b.op("MatMul", b.constant(matrix, b.dtype(x)), x)
    return b.op("Einsum", x, b.constant(matrix, b.dtype(x)), equation="ncdhw,ed->ncehw")


def _adaptive_max(b: Builder, c: Call, spatial: int, x: Value) -> Value:
    before, after = c.shape[c.rank - spatial :], c.out.shape[-spatial:]
    if all(is_one(a) for a in after):
        return b.op("GlobalMaxPool", x)
    if all(_divides(n, m) for n, m in zip(before, after, strict=True)):
        kernel = [int(n) // int(m) for n, m in zip(before, after, strict=True)]
        return b.op("MaxPool", x, kernel_shape=kernel, strides=kernel)
    for i, (n, m) in enumerate(zip(before, after, strict=True)):
        axis = 2 + i
        windows = [b.slice(x, axis, start, end) for start, end in _bounds(n, m)]
        x = b.op("Concat", *(b.op("ReduceMax", w, b.ints([axis]), keepdims=1) for w in windows), axis=axis)
    return x


for _spatial in (1, 2, 3):
    _max_pool(_spatial)
    _avg_pool(_spatial)
    _adaptive(_spatial)


def _blocks(b: Builder, c: Call, lower: Callable[[Value], Value]) -> Value:
    return _batched(b, c, 2, lower)


@rule("aten.pixel_shuffle")
def pixel_shuffle(b: Builder, c: Call) -> Value:
    factor = c.integer("upscale_factor")
    return _blocks(b, c, lambda x: b.op("DepthToSpace", x, blocksize=factor, mode="CRD"))


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(b: Builder, c: Call) -> Value:
    """By reshape and transpose: SpaceToDepth orders channels the other way."""
    r, before = c.integer("downscale_factor"), c.rank - 3
    *_, height, width = c.shape
    split = [*c.shape[:-2], height // r, r, width // r, r]
    places = list(range(before)) + [before + d for d in (0, 2, 4, 1, 3)]
    x = b.transpose(b.reshape(c.x, c.shape, split), places)
    return b.reshape(x, c.shape[:before], tuple(c.out.shape))


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(b: Builder, c: Call) -> Value:
    groups, shape = c.integer("groups"), c.shape
    split = [shape[0], groups, shape[1] // groups, *shape[2:]]
    order = [0, 2, 1, *range(3, len(split))]
    mixed = b.transpose(b.reshape(c.x, shape, split), order)
    return b.reshape(mixed, (shape[0],), shape)
