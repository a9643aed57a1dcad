"""Normalisations."""

from collections.abc import Sequence

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.sizes import Size, product

__all__: list[str] = []


def _vector(b: Builder, c: Call, name: str, size: Size, default: float) -> Value:
    """A weight by channel; a constant where it is missing."""
    if c.has(name):
        return c.tensor(name)
    if not isinstance(size, int):
        raise c.error("the number of channels must be fixed")
    return b.constant([default] * size, c.fake().dtype)


@rule("aten.batch_norm")
def batch_norm(b: Builder, c: Call) -> Value:
    if c.flag("training"):
        raise c.error("batch_norm is in training mode")
    return _with_statistics(b, c)


@rule("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update", "aten.native_batch_norm")
def native_batch_norm(b: Builder, c: Call) -> tuple[Value, ...]:
    if c.flag("training"):
        raise c.error("it is in training mode")
    return (_with_statistics(b, c),)


def _with_statistics(b: Builder, c: Call) -> Value:
    if not c.has("running_mean") or not c.has("running_var"):
        raise c.error("it has no stored statistics")
    if c.rank < 2:
        raise c.error("a vector has no channels")
    channels = c.shape[1]
    if c.fake().dtype is torch.float64:
        mean, variance = (_by_channel(b, c, name) for name in ("running_mean", "running_var"))
        return _scaled(b, c, b.op("Mul", b.op("Sub", c.x, mean), _factor(b, c, variance)))
    scale, bias = _vector(b, c, "weight", channels, 1.0), _vector(b, c, "bias", channels, 0.0)
    return b.op(
        "BatchNormalization", c.x, scale, bias, c.tensor("running_mean"), c.tensor("running_var"),
        epsilon=float(c.number("eps")),
    )  # fmt: skip


def _by_channel(b: Builder, c: Call, name: str) -> Value:
    """A vector by channel, as it broadcasts against the first argument."""
    return b.reshape(c.tensor(name), (), [c.shape[1]] + [1] * (c.rank - 2))


def _scaled(b: Builder, c: Call, normal: Value) -> Value:
    """Times weight, plus bias, by channel, where there are any."""
    for name, op_type in (("weight", "Mul"), ("bias", "Add")):
        if c.has(name):
            normal = b.op(op_type, normal, _by_channel(b, c, name))
    return normal


@rule("aten.layer_norm")
def layer_norm(b: Builder, c: Call) -> Value:
    shape, dtype = _normalized(c), c.fake().dtype
    if dtype is torch.float64:
        return _layer_norm_in_double(b, c, len(shape))
    scale = c.tensor("weight", dtype) if c.has("weight") else _ones(b, shape, dtype)
    return b.op(
        "LayerNormalization",
        c.x,
        scale,
        c.optional("bias", dtype),
        axis=-len(shape),
        epsilon=float(c.number("eps")),
    )


def _layer_norm_in_double(b: Builder, c: Call, axes: int) -> Value:
    """By parts."""
    result = _standard(b, c, c.x, list(range(c.rank - axes, c.rank)))
    if c.has("weight"):
        result = b.op("Mul", result, c.tensor("weight"))
    return b.op("Add", result, c.tensor("bias")) if c.has("bias") else result


def _normalized(c: Call) -> Sequence[Size]:
    """The sizes of the axes that are normalised, which may vary."""
    given = c["normalized_shape"]
    assert isinstance(given, (list, tuple))
    return c.shape[c.rank - len(given) :]


def _ones(b: Builder, shape: Sequence[Size], dtype: torch.dtype) -> Value:
    if all(isinstance(s, int) for s in shape):
        return b.constant(torch.ones([int(s) for s in shape]), dtype)
    return b.expand(b.constant(1, dtype), (), shape)


@rule("aten.native_layer_norm")
def native_layer_norm(b: Builder, c: Call) -> tuple[Value, ...]:
    axes = list(range(c.rank - len(_normalized(c)), c.rank))
    return (layer_norm(b, c), *_statistics(b, c, c.x, axes))  # type: ignore[return-value]


def _statistics(b: Builder, c: Call, x: Value, axes: list[int]) -> tuple[Value, Value]:
    """Mean and 1 / deviation over axes, which stay with size 1; they are dropped again where nothing reads them.

    Of ONNX's own normalisations epsilon is a float32, so that they do not serve float64.
    """
    vector = b.ints(axes)
    mean = b.op("ReduceMean", x, vector, keepdims=1)
    gap = b.op("Sub", x, mean)
    variance = b.op("ReduceMean", b.op("Mul", gap, gap), vector, keepdims=1)
    return mean, _factor(b, c, variance)


def _factor(b: Builder, c: Call, variance: Value) -> Value:
    """1 / deviation."""
    root = b.op("Sqrt", b.op("Add", variance, b.like(float(c.number("eps")), variance)))
    return b.op("Reciprocal", root)


def _standard(b: Builder, c: Call, x: Value, axes: list[int]) -> Value:
    """Less its mean over axes, divided by its deviation."""
    mean, factor = _statistics(b, c, x, axes)
    return b.op("Mul", b.op("Sub", x, mean), factor)


@rule("aten.rms_norm")
def rms_norm(b: Builder, c: Call) -> Value:
    x, shape, dtype = c.x, _normalized(c), c.fake().dtype
    eps = float(c.number("eps")) if c.has("eps") else torch.finfo(_precise(dtype)).eps
    if b.opset >= 23 and dtype is not torch.float64:
        scale = c.tensor("weight", dtype) if c.has("weight") else _ones(b, shape, dtype)
        return b.op("RMSNormalization", x, scale, axis=-len(shape), epsilon=eps)
    precise = b.cast(x, _precise(dtype))
    axes = b.ints(list(range(-len(shape), 0)))
    square = b.op("ReduceMean", b.op("Mul", precise, precise), axes, keepdims=1)
    root = b.op("Sqrt", b.op("Add", square, b.like(eps, square)))
    result = b.cast(b.op("Div", precise, root), dtype)
    return b.op("Mul", result, c.tensor("weight", dtype)) if c.has("weight") else result


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Half precision is normalised in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@rule("aten.group_norm")
def group_norm(b: Builder, c: Call) -> Value:
    return _group_norm(b, c, c.integer("num_groups"))


@rule("aten.native_group_norm")
def native_group_norm(b: Builder, c: Call) -> tuple[Value, ...]:
    groups, shape = c.integer("group"), c.shape
    grouped = b.reshape(c.x, shape, [shape[0], groups, product(shape[1:]) // groups])
    mean, scale = (b.squeeze(v, 2) for v in _statistics(b, c, grouped, [2]))
    return _group_norm(b, c, groups), mean, scale


def _group_norm(b: Builder, c: Call, groups: int) -> Value:
    """InstanceNormalization with the groups as channels.

    GroupNormalization, from opset 21, would be one node; but its definition, which onnxruntime computes, takes the mean of
    squares less the square of the mean, and lost two digits on data with a mean of 10.
    """
    x, shape, dtype = c.x, c.shape, c.fake().dtype
    grouped = b.reshape(x, shape, [shape[0], groups, product(shape[1:]) // groups])
    if dtype is torch.float64:
        normal = _standard(b, c, grouped, [2])
    else:
        ones, zeros = (b.constant([v] * groups, dtype) for v in (1.0, 0.0))
        eps = float(c.number("eps"))
        normal = b.op("InstanceNormalization", grouped, ones, zeros, epsilon=eps)
    return _scaled(b, c, b.reshape(normal, (shape[0],), shape))


@rule("aten.instance_norm")
def instance_norm(b: Builder, c: Call) -> Value:
    if not c.flag("use_input_stats"):
        return _with_statistics(b, c)
    if c.fake().dtype is torch.float64:
        return _scaled(b, c, _standard(b, c, c.x, list(range(2, c.rank))))
    channels = c.shape[1]
    scale, bias = _vector(b, c, "weight", channels, 1.0), _vector(b, c, "bias", channels, 0.0)
    return b.op("InstanceNormalization", c.x, scale, bias, epsilon=float(c.number("eps")))


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(b: Builder, c: Call) -> Value:
    """`v * g / |v|`, the norm taken over all axes but one."""
    v, axis = c.tensor("v"), c.integer("dim")
    axes = [d for d in range(c.fake("v").dim()) if axis == -1 or d != axis]
    return b.op("Div", b.op("Mul", v, c.tensor("g")), b.op("ReduceL2", v, b.ints(axes), keepdims=1))
