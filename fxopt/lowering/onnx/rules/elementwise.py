"""Functions of one tensor, element by element: mathematics, rounding, tests, casts."""

import math

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.rules.quantization import clips_integers

__all__: list[str] = []

_FLOAT_FUNCTIONS = {
    "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh", "atan": "Atan", "atanh": "Atanh",
    "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp", "log": "Log", "reciprocal": "Reciprocal",
    "sigmoid": "Sigmoid", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh",
    "special_expit": "Sigmoid", "special_erf": "Erf",
}  # fmt: skip
"""Integers become floats first, as torch does."""

_ALIASES = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atanh": "arctanh",
}


def _float_function(op_type: str, *ops: str) -> None:
    @rule(*ops)
    def lower(b: Builder, c: Call) -> Value:
        return b.op(op_type, c.tensor(dtype=c.out.dtype))


for _name, _op_type in _FLOAT_FUNCTIONS.items():
    _float_function(_op_type, f"aten.{_name}", *([f"aten.{_ALIASES[_name]}"] if _name in _ALIASES else []))


@rule("aten.abs", "aten.absolute")
def absolute(b: Builder, c: Call) -> Value:
    return c.x if c.out.dtype is torch.bool else b.op("Abs", c.x)


@rule("aten.neg", "aten.negative")
def negative(b: Builder, c: Call) -> Value:
    return b.op("Neg", c.x)


@rule("aten.sign", "aten.sgn")
def sign(b: Builder, c: Call) -> Value:
    """Zero for NaN, in torch."""
    if c.out.dtype is torch.bool:
        return c.x
    result = b.op("Sign", c.x)
    return b.op("Where", b.op("IsNaN", c.x), b.like(0, result), result) if is_float(c.out.dtype) else result


@rule("aten.ceil", "aten.floor", "aten.trunc", "aten.fix", "aten.round")
def rounding(b: Builder, c: Call) -> Value:
    if not is_float(c.out.dtype):
        return c.x
    name = c.name
    if name in ("trunc", "fix"):
        return truncated(b, c.x)
    decimals = c.integer("decimals") if c.has("decimals") else 0
    if decimals:
        scale = b.like(10.0 ** abs(decimals), c.x)
        up, down = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
        return b.op(down, b.op("Round", b.op(up, c.x, scale)), scale)
    return b.op({"ceil": "Ceil", "floor": "Floor"}.get(name, "Round"), c.x)


def truncated(b: Builder, x: Value) -> Value:
    """Rounded to zero."""
    return b.op("Where", b.op("Less", x, b.like(0, x)), b.op("Ceil", x), b.op("Floor", x))


@rule("aten.frac")
def frac(b: Builder, c: Call) -> Value:
    return b.op("Sub", c.x, truncated(b, c.x))


@rule("aten.square")
def square(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return b.op("Mul", x, x)


@rule("aten.rsqrt")
def rsqrt(b: Builder, c: Call) -> Value:
    return b.op("Reciprocal", b.op("Sqrt", c.tensor(dtype=c.out.dtype)))


@rule("aten.erfc", "aten.special_erfc")
def erfc(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return b.op("Sub", b.like(1, x), b.op("Erf", x))


@rule("aten.exp2", "aten.special_exp2")
def exp2(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return b.op("Pow", b.like(2, x), x)


@rule("aten.expm1", "aten.special_expm1")
def expm1(b: Builder, c: Call) -> Value:
    """exp(x) - 1; near zero (u - 1) x / log u with u = exp(x), whose errors cancel (Kahan)."""
    x = c.tensor(dtype=c.out.dtype)
    one, u = b.like(1, x), b.op("Exp", x)
    difference = b.op("Sub", u, one)
    precise = b.op("Div", b.op("Mul", difference, x), b.op("Log", u))
    precise = b.op("Where", b.op("Equal", u, one), x, precise)
    return b.op("Where", b.op("Less", b.op("Abs", x), one), precise, difference)


@rule("aten.log1p", "aten.special_log1p")
def log1p(b: Builder, c: Call) -> Value:
    """log(1 + x); near zero x log u / (u - 1) with u = 1 + x, whose errors cancel (Kahan)."""
    x = c.tensor(dtype=c.out.dtype)
    one = b.like(1, x)
    u = b.op("Add", x, one)
    logarithm = b.op("Log", u)
    precise = b.op("Div", b.op("Mul", x, logarithm), b.op("Sub", u, one))
    precise = b.op("Where", b.op("Equal", u, one), x, precise)
    return b.op("Where", b.op("Less", b.op("Abs", x), one), precise, logarithm)


@rule("aten.log2", "aten.log10")
def other_logs(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    base = 2 if "log2" in c.name else 10
    return b.op("Div", b.op("Log", x), b.like(math.log(base), x))


@rule("aten.logit", "aten.special_logit")
def logit(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    if c.has("eps"):
        eps = float(c.number("eps"))
        x = b.op("Clip", x, b.like(eps, x), b.like(1 - eps, x))
    return b.op("Log", b.op("Div", x, b.op("Sub", b.like(1, x), x)))


@rule("aten.deg2rad")
def deg2rad(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return b.op("Mul", x, b.like(math.pi / 180, x))


@rule("aten.rad2deg")
def rad2deg(b: Builder, c: Call) -> Value:
    x = c.tensor(dtype=c.out.dtype)
    return b.op("Mul", x, b.like(180 / math.pi, x))


@rule("aten.isnan")
def isnan(b: Builder, c: Call) -> Value:
    return b.op("IsNaN", c.x) if is_float(c.fake().dtype) else _nowhere(b, c)


@rule("aten.isinf", "aten.isposinf", "aten.isneginf")
def isinf(b: Builder, c: Call) -> Value:
    if not is_float(c.fake().dtype):
        return _nowhere(b, c)
    name = c.name
    return b.op(
        "IsInf", c.x, detect_positive=int("isneginf" not in name), detect_negative=int("isposinf" not in name)
    )


def _nowhere(b: Builder, c: Call) -> Value:
    """False in the shape of the argument: integers are always finite."""
    return b.op("Not", b.op("Equal", c.x, c.x))


@rule("aten.isfinite")
def isfinite(b: Builder, c: Call) -> Value:
    if not is_float(c.fake().dtype):
        return b.op("Equal", c.x, c.x)
    return b.op("Not", b.op("Or", b.op("IsInf", c.x), b.op("IsNaN", c.x)))


@rule("aten.nan_to_num")
def nan_to_num(b: Builder, c: Call) -> Value:
    x = c.x
    if not is_float(c.out.dtype):
        return x
    info = torch.finfo(c.out.dtype)
    nan, high, low = (
        float(c.number(n)) if c.has(n) else default
        for n, default in (("nan", 0.0), ("posinf", info.max), ("neginf", info.min))
    )
    x = b.op("Where", b.op("IsNaN", x), b.like(nan, x), x)
    x = b.op("Where", b.op("IsInf", x, detect_negative=0), b.like(high, x), x)
    return b.op("Where", b.op("IsInf", x, detect_positive=0), b.like(low, x), x)


@rule("aten.logical_not")
def logical_not(b: Builder, c: Call) -> Value:
    return b.op("Not", c.tensor(dtype=torch.bool))


@rule("aten.bitwise_not")
def bitwise_not(b: Builder, c: Call) -> Value:
    return b.op("Not" if c.out.dtype is torch.bool else "BitwiseNot", c.x)


@rule("aten.to.dtype", "aten.to.device", "aten._to_copy", "prims.convert_element_type")
def to_dtype(b: Builder, c: Call) -> Value:
    return b.cast(c.x, c.out.dtype)


@rule(
    "aten.clone",
    "aten.contiguous",
    "aten.alias",
    "aten.detach",
    "aten.lift_fresh_copy",
    "aten.dropout",
    "aten.feature_dropout",
    "aten.alpha_dropout",
    "aten.feature_alpha_dropout",
    "aten.native_dropout",
)
def identity(b: Builder, c: Call) -> Value:
    """Nothing to do; dropout in an inference graph among them."""
    if c.flag("train") and float(c.number("p")) > 0:
        raise c.error("dropout is in training mode")
    return c.x


@rule("aten.clamp", "aten.clip", "aten.clamp_min", "aten.clamp_max", "aten.hardtanh")
def clamp(b: Builder, c: Call) -> Value:
    low, high = (
        next((n for n in names if c.has(n)), "") for names in (("min", "min_val"), ("max", "max_val"))
    )
    dtype = c.out.dtype
    x = c.tensor(dtype=dtype)
    fixed = all(not n or isinstance(c[n], (int, float)) for n in (low, high))
    if fixed and (is_float(dtype) or (low and high)):
        if is_float(dtype) and low and c[low] == 0 and clips_integers(c, c[high] if high else None):
            return b.op("LeakyRelu", x, alpha=0.0)
        return b.op("Clip", x, c.tensor(low, dtype) if low else "", c.tensor(high, dtype) if high else "")
    if low:
        x = b.op("Max", x, c.tensor(low, dtype))
    return b.op("Min", x, c.tensor(high, dtype)) if high else x


@rule("aten.signbit")
def signbit(b: Builder, c: Call) -> Value:
    """A float's sign, that of zeros too: theirs shows in the reciprocal."""
    x, dtype = c.x, c.fake().dtype
    if dtype is torch.bool:
        return b.op("And", x, b.constant(False, torch.bool))
    negative = b.op("Less", x, b.like(0, x))
    if not is_float(dtype):
        return negative
    below = b.op("Less", b.op("Reciprocal", x), b.like(0, x))
    return b.op("Or", negative, b.op("And", b.op("Equal", x, b.like(0, x)), below))
