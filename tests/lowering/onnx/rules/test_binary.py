"""Functions of several tensors against torch: broadcasting, promotion of dtypes, numbers as tensors."""

import pytest
import torch

from tests.lowering.onnx.harness import Case, check

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 7, generator=GENERATOR) * 2
Y = torch.randn(3, 7, generator=GENERATOR) * 2
ROW = torch.randn(1, 7, generator=GENERATOR)
INTS = torch.randint(-20, 20, (3, 7), generator=GENERATOR)
J = torch.randint(1, 9, (3, 7), generator=GENERATOR)
SIGNED = torch.where(J % 2 == 0, J, -J)
B, C = X > 0, Y > 0
SPECIAL = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1.5, -2.5]]).repeat(3, 1)
CORNERS = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -2.5, 1e-30])

FLOATS = (
    "add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin", "fmod", "remainder", "floor_divide",
    "atan2", "hypot", "logaddexp", "logaddexp2", "eq", "ne", "lt", "le", "gt", "ge", "heaviside", "isclose",
    "logical_and", "logical_or", "logical_xor",
)  # fmt: skip
INTEGERS = (
    "add", "sub", "mul", "div", "maximum", "minimum", "fmod", "remainder", "floor_divide", "eq", "ne", "lt",
    "ge", "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and",
)  # fmt: skip
BOOLS = (
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "eq",
    "ne",
    "add",
    "mul",
)


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name):
    check(Case(name, getattr(torch, name), (X, Y)))


@pytest.mark.parametrize("name", ["maximum", "minimum", "fmax", "fmin", "eq", "lt", "add", "div"])
def test_nan_and_infinities(name):
    check(Case(name, getattr(torch, name), (SPECIAL, SPECIAL.flip(1).contiguous())))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_integers(name, dtype):
    check(Case(name, getattr(torch, name), (INTS.to(dtype), SIGNED.to(dtype))))


@pytest.mark.parametrize("name", ["add", "maximum", "remainder", "bitwise_and"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_other_integers(name, dtype):
    check(Case(name, getattr(torch, name), (INTS.to(dtype), SIGNED.to(dtype))))


@pytest.mark.parametrize("name", BOOLS)
def test_bools(name):
    check(Case(name, getattr(torch, name), (B, C)))


@pytest.mark.parametrize("name", ["add", "mul", "div", "maximum", "lt", "logaddexp", "remainder", "pow"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats(name, dtype):
    check(Case(name, getattr(torch, name), (X.abs().to(dtype) + 0.5, Y.to(dtype))))


CASES = [
    Case("add-alpha", lambda x, y: torch.add(x, y, alpha=2), (X, Y)),
    Case("sub-alpha", lambda x, y: torch.sub(x, y, alpha=0.5), (X, Y)),
    Case("add-number", lambda x: x + 3, (X,)),
    Case("number-minus", lambda x: 3 - x, (X,)),
    Case("number-over", lambda x: 1 / x, (J,)),
    Case("int-times-float", lambda x: x * 0.5, (INTS,)),
    Case("int-plus-int", lambda x: x + 2, (INTS.to(torch.int32),)),
    Case("uint8-wraps", lambda x: x * 3 + 200, (J.to(torch.uint8),)),
    Case("bool-plus-bool", lambda x, y: x + y, (B, C)),
    Case("bool-plus-number", lambda x: x + 1, (B,)),
    Case("bool-times-float", lambda x, y: x * y, (B, X)),
    Case("int-plus-half", lambda x, y: x + y, (INTS, X.half())),
    Case("half-plus-float", lambda x, y: x + y, (X.half(), X)),
    Case("broadcast-row", lambda x, y: x * y[:1], (X, Y)),
    Case("broadcast-column", lambda x, y: x - y[:, :1], (X, Y)),
    Case("rank-0", lambda x: x / x.sum(), (X,)),
    Case("size-as-number", lambda x: x * x.shape[0], (X,)),
    Case("int-over-int", lambda x, y: x / y, (INTS, SIGNED)),
    Case("true-by-mode", lambda x, y: torch.div(x, y, rounding_mode=None), (X, Y)),
    Case("trunc-floats", lambda x, y: torch.div(x, y, rounding_mode="trunc"), (X, Y)),
    Case("trunc-ints", lambda x, y: torch.div(x, y, rounding_mode="trunc"), (INTS, SIGNED)),
    Case("floor-ints", lambda x, y: torch.div(x, y, rounding_mode="floor"), (INTS, SIGNED)),
    Case(
        "floor-exact", lambda x: torch.div(x, 0.1, rounding_mode="floor"), (torch.tensor([[1.0, 0.3, -1.0]]),)
    ),
    Case("floor-by-zero", lambda x, y: torch.div(x, y * 0, rounding_mode="floor"), (X, Y)),
    Case("remainder-number", lambda x: x % 3, (INTS,)),
    Case("pow-2", lambda x: x**2, (X,), ops=("Mul",)),
    Case("pow-3", lambda x: x**3, (X,)),
    Case("pow-half", lambda x: x.abs() ** 0.5, (X,), ops=("Sqrt",)),
    Case("pow-minus-half", lambda x: x.abs() ** -0.5, (X,)),
    Case("pow-minus-1", lambda x: x**-1, (X,), ops=("Reciprocal",)),
    Case("pow-2.5", lambda x: x.abs() ** 2.5, (X,), ops=("Pow",)),
    Case("pow-int", lambda x: x**3, (INTS,)),
    Case("pow-int-by-float", lambda x: x**0.5, (J,)),
    Case("pow-of-number", lambda x: 2**x, (X,)),
    Case("pow-of-int-number", lambda x: 2**x, (J,)),
    Case("pow-tensors", lambda x, y: x.abs() ** y, (X, Y)),
    Case("float_power", lambda x: torch.float_power(x, 2), (J,)),
    Case("copysign", torch.copysign, (X, torch.tensor([[0.0, -0.0, 1, -1, 2, -2, -0.0]]).repeat(3, 1))),
    Case("xlogy", lambda x, y: torch.xlogy(x.clamp(min=0), y.abs()), (X, Y)),
    Case("lerp-number", lambda x, y: torch.lerp(x, y, 0.3), (X, Y)),
    Case("lerp-tensor", lambda x, y, w: torch.lerp(x, y, w), (X, Y, X)),
    Case("addcmul", lambda x, y, z: torch.addcmul(x, y, z, value=0.5), (X, Y, X)),
    Case("addcdiv", lambda x, y, z: torch.addcdiv(x, y, z, value=2), (X, Y, X)),
    Case("compare-int-with-float", lambda x: x > 0.5, (INTS,)),
    Case("compare-mixed", lambda x, y: x <= y, (INTS, X)),
    Case("compare-size", lambda x: x < x.shape[0], (INTS,)),
    Case("shift-left", lambda x, y: x << y, (INTS, J)),
    Case("shift-right", lambda x, y: x >> y, (INTS, J)),
    Case("and-number", lambda x: x & 3, (INTS,)),
    Case("where", lambda c, x, y: torch.where(c, x, y), (B, X, Y)),
    Case("where-numbers", lambda c: torch.where(c, 1.0, 0.0), (B,)),
    Case("where-number", lambda c, x: torch.where(c, x, -1), (B, X)),
    Case("where-promotes", lambda c, x, y: torch.where(c, x, y), (B, INTS, X)),
    Case("where-bools", lambda c, x, y: torch.where(c, x, y), (B, C, B)),
    Case("where-int16", lambda c, x: torch.where(c, x, 0), (B, INTS.to(torch.int16))),
    Case("masked_fill", lambda x, c: x.masked_fill(c, float("-inf")), (X, B)),
    Case("masked_fill-tensor", lambda x, c: x.masked_fill(c, x.sum()), (X, B)),
    Case("masked_fill-int", lambda x, c: x.masked_fill(c, 9), (INTS, B)),
    Case("atan2-special", torch.atan2, (CORNERS[:, None], CORNERS[None, :]), fixed=True),
    Case("copysign-special", torch.copysign, (CORNERS[:, None], CORNERS[None, :]), fixed=True),
    Case("isclose-nan", lambda x, y: torch.isclose(x, y, equal_nan=True), (SPECIAL, SPECIAL)),
    Case("isclose-ints", lambda x, y: torch.isclose(x, y, atol=2), (INTS, SIGNED)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)
