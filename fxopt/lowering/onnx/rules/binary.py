"""Functions of several tensors, element by element: arithmetic, comparison, logic, choice.

Operands are cast to the dtype that torch would compute in; ONNX wants them equal.
"""

import math

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.rules.elementwise import truncated
from fxopt.lowering.onnx.sizes import floor_divide

__all__: list[str] = []


def _scaled(b: Builder, c: Call, y: Value) -> Value:
    """`alpha * y`."""
    alpha = c["alpha"]
    return y if alpha == 1 else b.op("Mul", y, b.operand(alpha, b.dtype(y)))


@rule("aten.add")
def add(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return b.op("Add", x, _scaled(b, c, y))


@rule("aten.sub", "aten.subtract")
def sub(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return b.op("Sub", x, _scaled(b, c, y))


@rule("aten.rsub")
def rsub(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return b.op("Sub", y, _scaled(b, c, x))


@rule("aten.mul", "aten.multiply")
def mul(b: Builder, c: Call) -> Value:
    return b.op("Mul", *c.promoted("self", "other", dtype=c.out.dtype))


@rule("aten.div", "aten.divide", "aten.true_divide", "aten.floor_divide")
def div(b: Builder, c: Call) -> Value:
    mode = c.text("rounding_mode") if c.has("rounding_mode") else ""
    if "floor_divide" in c.name:
        mode = "floor"
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    if not mode:
        return b.op("Div", x, y)
    if not is_float(c.out.dtype):
        return b.op("Div", x, y) if mode == "trunc" else floor_divide(b.graph, x, y)
    if mode == "trunc":
        return truncated(b, b.op("Div", x, y))
    # As torch does: from the remainder, since x / y may round up to the next integer.
    exact = b.op("Round", b.op("Div", b.op("Sub", x, _remainder(b, x, y)), y))
    return b.op("Where", b.op("Equal", y, b.like(0, y)), b.op("Div", x, y), exact)


def _remainder(b: Builder, x: Value, y: Value) -> Value:
    """With the divisor's sign; ONNX's Mod has it for integers only."""
    if not is_float(b.dtype(x)):
        return b.op("Mod", x, y)
    rest = b.op("Mod", x, y, fmod=1)
    zero = b.like(0, x)
    differ = b.op("Xor", b.op("Less", rest, zero), b.op("Less", y, zero))
    wrong = b.op("And", differ, b.op("Not", b.op("Equal", rest, zero)))
    return b.op("Where", wrong, b.op("Add", rest, y), rest)


@rule("aten.remainder")
def remainder(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return _remainder(b, x, y)


@rule("aten.fmod")
def fmod(b: Builder, c: Call) -> Value:
    return b.op("Mod", *c.promoted("self", "other", dtype=c.out.dtype), fmod=1)


@rule("aten.pow", "aten.float_power")
def power(b: Builder, c: Call) -> Value:
    base, exponent = c["self"], c["exponent"]
    x = b.operand(base, c.out.dtype)
    if isinstance(exponent, (int, float)) and is_float(c.out.dtype):
        shortcut = _small_power(b, x, float(exponent))
        if shortcut:
            return shortcut
    return b.op("Pow", x, b.operand(exponent, c.out.dtype))


def _small_power(b: Builder, x: Value, exponent: float) -> Value:
    """The exponents that torch computes without pow."""
    match exponent:
        case 1.0:
            return x
        case 2.0:
            return b.op("Mul", x, x)
        case 3.0:
            return b.op("Mul", b.op("Mul", x, x), x)
        case 0.5:
            return b.op("Sqrt", x)
        case -0.5:
            return b.op("Reciprocal", b.op("Sqrt", x))
        case -1.0:
            return b.op("Reciprocal", x)
        case -2.0:
            return b.op("Reciprocal", b.op("Mul", x, x))
    return ""


@rule("aten.maximum", "aten.max.other")
def maximum(b: Builder, c: Call) -> Value:
    return b.op("Max", *c.promoted("self", "other", dtype=c.out.dtype))


@rule("aten.minimum", "aten.min.other")
def minimum(b: Builder, c: Call) -> Value:
    return b.op("Min", *c.promoted("self", "other", dtype=c.out.dtype))


@rule("aten.fmax", "aten.fmin")
def fmax(b: Builder, c: Call) -> Value:
    """The other operand where one is NaN."""
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    best = b.op("Max" if "fmax" in c.name else "Min", x, y)
    if not is_float(c.out.dtype):
        return best
    return b.op("Where", b.op("IsNaN", x), y, b.op("Where", b.op("IsNaN", y), x, best))


@rule("aten.atan2", "aten.arctan2")
def atan2(b: Builder, c: Call) -> Value:
    """The arctangent of the sizes' quotient, turned into the quadrant by the signs, those of zeros too."""
    y, x = c.promoted("self", "other", dtype=c.out.dtype)
    zero, one = b.like(0, x), b.like(1, x)
    high, wide = b.op("Abs", y), b.op("Abs", x)
    quotient = b.op("Where", b.op("Equal", high, zero), zero, b.op("Div", high, wide))  # 0 / 0 is no number
    equal = b.op("And", b.op("IsInf", high), b.op("IsInf", wide))
    angle = b.op("Atan", b.op("Where", equal, one, quotient))
    turned = b.op("Where", _below_zero(b, x), b.op("Sub", b.like(math.pi, x), angle), angle)
    result = b.op("Where", _below_zero(b, y), b.op("Neg", turned), turned)
    missing = b.op("Or", b.op("IsNaN", x), b.op("IsNaN", y))
    return b.op("Where", missing, b.like(math.nan, x), result)


def _below_zero(b: Builder, x: Value) -> Value:
    """Whether the sign is negative; that of a zero shows in its reciprocal."""
    zero = b.like(0, x)
    return b.op("Or", b.op("Less", x, zero), b.op("Less", b.op("Reciprocal", x), zero))


@rule("aten.hypot")
def hypot(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return b.op("Sqrt", b.op("Add", b.op("Mul", x, x), b.op("Mul", y, y)))


@rule("aten.logaddexp", "aten.logaddexp2")
def logaddexp(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    base = math.log(2) if "logaddexp2" in c.name else 1.0
    high, gap = b.op("Max", x, y), b.op("Neg", b.op("Abs", b.op("Sub", x, y)))
    rest = b.op("Log", b.op("Add", b.like(1, x), b.op("Exp", b.op("Mul", gap, b.like(base, x)))))
    total = b.op("Add", high, b.op("Div", rest, b.like(base, x)))
    return b.op("Where", b.op("Equal", x, y), b.op("Add", x, b.like(math.log(2) / base, x)), total)


@rule("aten.xlogy", "aten.special_xlogy")
def xlogy(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    zero = b.op("And", b.op("Equal", x, b.like(0, x)), b.op("Not", b.op("IsNaN", y)))
    return b.op("Where", zero, b.like(0, x), b.op("Mul", x, b.op("Log", y)))


@rule("aten.lerp")
def lerp(b: Builder, c: Call) -> Value:
    start, end, weight = c.promoted("self", "end", "weight", dtype=c.out.dtype)
    return b.op("Add", start, b.op("Mul", weight, b.op("Sub", end, start)))


@rule("aten.addcmul", "aten.addcdiv")
def addc(b: Builder, c: Call) -> Value:
    x, first, second = c.promoted("self", "tensor1", "tensor2", dtype=c.out.dtype)
    product = b.op("Mul" if "addcmul" in c.name else "Div", first, second)
    value = c["value"]
    return b.op("Add", x, product if value == 1 else b.op("Mul", product, b.operand(value, c.out.dtype)))


_COMPARISONS = {
    "eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual",
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
}  # fmt: skip


def _comparison(name: str, op_type: str) -> None:
    @rule(f"aten.{name}")
    def lower(b: Builder, c: Call) -> Value:
        return b.op(op_type, *c.promoted("self", "other"))


for _name, _op_type in _COMPARISONS.items():
    _comparison(_name, _op_type)


@rule("aten.ne", "aten.not_equal")
def ne(b: Builder, c: Call) -> Value:
    return b.op("Not", b.op("Equal", *c.promoted("self", "other")))


def _logical(name: str, op_type: str) -> None:
    @rule(f"aten.logical_{name}")
    def lower(b: Builder, c: Call) -> Value:
        return b.op(op_type, *c.promoted("self", "other", dtype=torch.bool))

    @rule(f"aten.bitwise_{name}", f"aten.__{name}__")
    def lower_bits(b: Builder, c: Call) -> Value:
        prefix = "" if c.out.dtype is torch.bool else "Bitwise"
        return b.op(prefix + op_type, *c.promoted("self", "other", dtype=c.out.dtype))


for _name in ("and", "or", "xor"):
    _logical(_name, _name.capitalize())


@rule("aten.bitwise_left_shift", "aten.__lshift__", "aten.bitwise_right_shift", "aten.__rshift__")
def shift(b: Builder, c: Call) -> Value:
    """By a power of two: ONNX shifts unsigned integers only."""
    x, by = c.promoted("self", "other", dtype=c.out.dtype)
    factor = b.op("Pow", b.like(2, x), by)
    left = "left" in c.name or "lshift" in c.name
    return b.op("Mul", x, factor) if left else floor_divide(b.graph, x, factor)


@rule("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    return b.op("Where", c.tensor("condition", torch.bool), x, y)


@rule("aten.masked_fill")
def masked_fill(b: Builder, c: Call) -> Value:
    x, value = c.promoted("self", "value", dtype=c.out.dtype)
    return b.op("Where", c.tensor("mask", torch.bool), value, x)


@rule("aten.copysign")
def copysign(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other", dtype=c.out.dtype)
    size = b.op("Abs", x)
    return b.op("Where", _below_zero(b, y), b.op("Neg", size), size)


@rule("aten.heaviside")
def heaviside(b: Builder, c: Call) -> Value:
    x, values = c.promoted("self", "values", dtype=c.out.dtype)
    zero = b.like(0, x)
    step = b.op("Where", b.op("Less", x, zero), zero, b.like(1, x))
    return b.op("Where", b.op("Equal", x, zero), values, step)


@rule("aten.isclose")
def isclose(b: Builder, c: Call) -> Value:
    x, y = c.promoted("self", "other")
    if not is_float(b.dtype(x)):
        x, y = b.cast(x, torch.float64), b.cast(y, torch.float64)
    bound = b.op("Mul", b.like(float(c.number("rtol")), x), b.op("Abs", y))
    close = b.op(
        "LessOrEqual", b.op("Abs", b.op("Sub", x, y)), b.op("Add", b.like(float(c.number("atol")), x), bound)
    )
    finite = b.op("Not", b.op("IsInf", b.op("Sub", x, y)))
    result = b.op("Or", b.op("Equal", x, y), b.op("And", close, finite))
    if c.flag("equal_nan"):
        result = b.op("Or", result, b.op("And", b.op("IsNaN", x), b.op("IsNaN", y)))
    return result
