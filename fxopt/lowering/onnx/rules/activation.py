"""Activation functions."""

import math

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.rules.quantization import clips_integers

__all__: list[str] = []


@rule("aten.relu")
def relu(b: Builder, c: Call) -> Value:
    if clips_integers(c, None):
        return b.op("LeakyRelu", c.x, alpha=0.0)
    return b.op("Relu", c.x) if is_float(c.out.dtype) else b.op("Max", c.x, b.like(0, c.x))


@rule("aten.relu6")
def relu6(b: Builder, c: Call) -> Value:
    if clips_integers(c, 6):
        return b.op("LeakyRelu", c.x, alpha=0.0)
    return b.op("Clip", c.x, b.like(0, c.x), b.like(6, c.x))


@rule("aten.leaky_relu")
def leaky_relu(b: Builder, c: Call) -> Value:
    return b.op("LeakyRelu", c.x, alpha=float(c.number("negative_slope")))


@rule("aten.rrelu")
def rrelu(b: Builder, c: Call) -> Value:
    """In inference the slope is the middle of its range."""
    return b.op("LeakyRelu", c.x, alpha=(float(c.number("lower")) + float(c.number("upper"))) / 2)


@rule("aten.prelu", "aten._prelu_kernel")
def prelu(b: Builder, c: Call) -> Value:
    """One slope, or one a channel (axis 1)."""
    weight, shape = c.tensor("weight"), tuple(c.fake("weight").shape)
    if len(shape) == 1:
        weight = b.reshape(weight, shape, [shape[0]] + [1] * max(c.rank - 2, 0))
    return b.op("PRelu", c.x, weight)


@rule("aten.elu")
def elu(b: Builder, c: Call) -> Value:
    alpha, scale, inner = (float(c.number(n)) for n in ("alpha", "scale", "input_scale"))
    if inner != 1:
        x = c.x
        low = b.op("Elu", b.op("Mul", x, b.like(inner, x)), alpha=alpha)
        result = b.op("Where", b.op("Less", x, b.like(0, x)), low, x)
    else:
        result = b.op("Elu", c.x, alpha=alpha)
    return result if scale == 1 else b.op("Mul", result, b.like(scale, result))


@rule("aten.selu")
def selu(b: Builder, c: Call) -> Value:
    return b.op("Selu", c.x)


@rule("aten.celu")
def celu(b: Builder, c: Call) -> Value:
    """max(0, x) + alpha * elu(x / alpha) below zero; ONNX's Celu is for float32 only."""
    alpha, x = float(c.number("alpha")), c.x
    low = b.op("Elu", b.op("Div", x, b.like(alpha, x)), alpha=1.0)
    return b.op("Where", b.op("Less", x, b.like(0, x)), b.op("Mul", low, b.like(alpha, x)), x)


@rule("aten.gelu")
def gelu(b: Builder, c: Call) -> Value:
    x, approximate = c.x, c.text("approximate")
    if b.opset >= 20:
        return b.op("Gelu", x, approximate=approximate)
    half = b.op("Mul", x, b.like(0.5, x))
    if approximate == "tanh":
        cube = b.op("Mul", b.op("Mul", b.op("Mul", x, x), x), b.like(0.044715, x))
        inner = b.op("Tanh", b.op("Mul", b.op("Add", x, cube), b.like(math.sqrt(2 / math.pi), x)))
    else:
        inner = b.op("Erf", b.op("Div", x, b.like(math.sqrt(2), x)))
    return b.op("Mul", half, b.op("Add", inner, b.like(1, x)))


@rule("aten.silu")
def silu(b: Builder, c: Call) -> Value:
    return b.op("Mul", c.x, b.op("Sigmoid", c.x))


@rule("aten.mish")
def mish(b: Builder, c: Call) -> Value:
    return b.op("Mish", c.x)


@rule("aten.hardswish")
def hardswish(b: Builder, c: Call) -> Value:
    return b.op("HardSwish", c.x)


@rule("aten.hardsigmoid")
def hardsigmoid(b: Builder, c: Call) -> Value:
    return b.op("HardSigmoid", c.x, alpha=1 / 6, beta=0.5)


@rule("aten.softplus")
def softplus(b: Builder, c: Call) -> Value:
    """log(1 + exp(beta x)) / beta, the identity above the threshold."""
    x, beta, threshold = c.x, float(c.number("beta")), float(c.number("threshold"))
    scaled = x if beta == 1 else b.op("Mul", x, b.like(beta, x))
    result = b.op("Softplus", scaled)
    result = result if beta == 1 else b.op("Div", result, b.like(beta, x))
    return b.op("Where", b.op("Greater", scaled, b.like(threshold, x)), x, result)


@rule("aten.log_sigmoid")
def log_sigmoid(b: Builder, c: Call) -> Value:
    """min(x, 0) - log(1 + exp(-|x|))."""
    x = c.x
    return b.op("Sub", b.op("Min", x, b.like(0, x)), b.op("Softplus", b.op("Neg", b.op("Abs", x))))


@rule("aten.hardshrink", "aten.softshrink")
def shrink(b: Builder, c: Call) -> Value:
    bound = float(c.number("lambd"))
    bias = bound if "softshrink" in c.name else 0.0
    return b.op("Shrink", c.x, lambd=bound, bias=bias)


@rule("aten.threshold")
def threshold(b: Builder, c: Call) -> Value:
    x = c.x
    above = b.op("Greater", x, b.operand(c["threshold"], c.out.dtype))
    return b.op("Where", above, x, b.operand(c["value"], c.out.dtype))


@rule("aten.glu")
def glu(b: Builder, c: Call) -> Value:
    first, gate = b.ops("Split", c.x, outputs=2, axis=c.dim(), num_outputs=2)
    return b.op("Mul", first, b.op("Sigmoid", gate))


@rule("aten._safe_softmax")
def safe_softmax(b: Builder, c: Call) -> Value:
    """0 where a whole row is masked: it has no largest element."""
    x, axis = _vector(b, c), c.dim()
    masked = b.op("Equal", b.op("ReduceMax", x, b.ints([axis]), keepdims=1), b.like(float("-inf"), x))
    return b.op("Where", masked, b.like(0, x), b.op("Softmax", x, axis=axis))


@rule("aten.softmax", "aten._softmax", "aten.special_softmax")
def softmax(b: Builder, c: Call) -> Value:
    return b.op("Softmax", _vector(b, c), axis=c.dim())


@rule("aten.log_softmax", "aten._log_softmax", "aten.special_log_softmax")
def log_softmax(b: Builder, c: Call) -> Value:
    return b.op("LogSoftmax", _vector(b, c), axis=c.dim())


def _vector(b: Builder, c: Call) -> Value:
    if c.rank == 0:
        raise c.error("the tensor has no dimensions")
    return c.tensor(dtype=c.out.dtype if is_float(c.out.dtype) else torch.float32)
